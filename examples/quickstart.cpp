// A small model memorises random sequences and is then asked to forget sixteen of them.
#include <ATen/Functions.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <alkn/alkn.hpp>
#include <cstdio>

struct Model : torch::nn::Module {
  torch::nn::Embedding tokens = register_module("tokens", torch::nn::Embedding(256, 64));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(64, 256));
  at::Tensor forward(const at::Tensor& x) { return head(tokens(x).cumsum(1).tanh()); }
};

int main() {
  at::manual_seed(1);
  Model model;
  const at::Tensor forget = at::randint(256, {16, 8}, at::kLong), ids = at::arange(16);
  const at::Tensor shown = at::randint(256, {32, 8}, at::kLong);   // kept, and ALKN sees it
  const at::Tensor unseen = at::randint(256, {16, 8}, at::kLong);  // kept, and it never does
  const auto nll = [&](const at::Tensor& x) { return alkn::mean_nll(model.forward(x), x); };
  const auto p = [&](const at::Tensor& x) { return nll(x).neg().exp().item<double>(); };

  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  for (int i = 0; i < 100; ++i) {  // outside a task it is AdamW
    unlearner.zero_grad();
    nll(at::cat({forget, shown, unseen})).backward();
    unlearner.step();
  }
  std::printf("before: forget %.2f, shown %.2f, unseen %.2f\n", p(forget), p(shown), p(unseen));

  auto task = unlearner.begin_task({.steps = 10});    // a deletion request
  task.remember(ids, model.forward(forget), forget);  // what the model knows of it now
  task.accumulate_retain_gradient(nll(shown));        // and where what is kept resists
  for (int i = 0; i < 10; ++i) {
    unlearner.zero_grad();
    task.loss(ids, model.forward(forget), forget).backward();
    unlearner.step();
  }
  task.end();  // negates what was learned
  std::printf("after:  forget %.2f, shown %.2f, unseen %.2f\n", p(forget), p(shown), p(unseen));
}
