// An optimizer of your own beside LibTorch's: the harness in ten lines. Build and run:
//
//   cmake --build build/release --target own_optimizer && build/release/bin/own_optimizer
#include <torch/optim/sgd.h>

#include "model.hpp"

namespace {

// The optimizer: moves every parameter by the sign of its gradient.
class SignDescent {
 public:
  explicit SignDescent(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {}
  void step() {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& p : parameters_) p.sub_(p.grad().sign(), 1e-5);
  }

 private:
  std::vector<at::Tensor> parameters_;
};

}  // namespace

int main() {
  // [compare]
  alkn_bench::Model model("one");  // 16 Mi parameters, fresh gradients every round
  SignDescent mine(model.parameters());
  torch::optim::SGD sgd(model.parameters(), torch::optim::SGDOptions(1e-5));

  alkn_bench::Comparison comparison(model.subject(), [&] { model.next_gradients(); });
  comparison.add(model.ceiling());  // what the memory gives; the first arm
  comparison.add({"torch SGD", [&] { sgd.step(); }, 12, 12, 0});
  // name, what is timed, bytes an element moved, bytes at least, bytes of state
  comparison.add({"mine", [&] { mine.step(); }, 20, 12, 0});
  comparison.run(25);
  comparison.print("torch SGD");  // which the ratios are against
  // [compare]
}
