// A project of its own that uses an installed alkn: a bigram model learns two sentences and
// unlearns one.
//
//     cmake -S . -B build -DCMAKE_PREFIX_PATH="where/alkn/was/installed;where/libtorch/is"
//     cmake --build build && build/app
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <alkn/alkn.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <tuple>

namespace {

/// The logits of the next token: a vector of the token now, times a matrix that all tokens share.
struct Bigram : torch::nn::Module {
  Bigram(std::int64_t vocabulary, std::int64_t width)
      : vectors(register_parameter("vectors", at::randn({vocabulary, width}))),
        matrix(register_parameter("matrix", at::randn({width, vocabulary}))) {}

  at::Tensor forward(const at::Tensor& tokens) const {  // [B, T] -> [B, T, V]
    return at::matmul(at::embedding(vectors, tokens), matrix);
  }

  at::Tensor vectors, matrix;
};

double probability(const Bigram& model, const at::Tensor& tokens) {
  return std::exp(-alkn::mean_nll(model.forward(tokens), tokens).item<double>());
}

bool expect(bool holds, const char* what, double value) {
  std::printf("%-42s %8.6f  %s\n", what, value, holds ? "ok" : "WRONG");
  return holds;
}

}  // namespace

int main() {
  at::manual_seed(1);
  Bigram model(16, 32);
  const at::Tensor ids = at::zeros({1}, at::kLong);
  const at::Tensor forget = at::arange(0, 8).unsqueeze(0);
  const at::Tensor keep = at::arange(8, 16).unsqueeze(0);

  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions::conflict(),
                         alkn::AdamWOptions(0.1).weight_decay(0));

  // Outside a task an unlearner is the optimizer that it is built on.
  const auto learn = [&] {
    unlearner.zero_grad();
    alkn::mean_nll(model.forward(at::cat({forget, keep})), at::cat({forget, keep})).backward();
    unlearner.step();
  };
  const double at_start = model.matrix[0][1].item<double>();
  learn();
  const double first_step = std::abs(model.matrix[0][1].item<double>() - at_start);
  for (int i = 0; i < 29; ++i) learn();
  const double forget_before = probability(model, forget);
  const double keep_before = probability(model, keep);

  constexpr std::int64_t kSteps = 10;
  auto task = unlearner.begin_task(alkn::TaskOptions{.steps = kSteps});
  task.remember(ids, model.forward(forget), forget);
  task.accumulate_retain_gradient(alkn::mean_nll(model.forward(keep), keep));
  for (std::int64_t i = 0; i < kSteps; ++i) {
    unlearner.zero_grad();
    task.loss(ids, model.forward(forget), forget).backward();
    unlearner.step();
  }
  const alkn::TaskReport report = task.end();

  bool good = expect(std::abs(first_step - 0.1) < 1e-5, "first step of AdamW, lr 0.1", first_step);
  good &= expect(forget_before > 0.9, "forget set, learned", forget_before);
  good &= expect(keep_before > 0.9, "retain set, learned", keep_before);
  const double forget_after = probability(model, forget);
  const double keep_after = probability(model, keep);
  good &= expect(forget_after < 0.5 * forget_before, "forget set, unlearned", forget_after);
  good &= expect(keep_after > 0.95 * keep_before, "retain set, after unlearning", keep_after);
  good &= expect(report.steps == kSteps, "steps of the task", static_cast<double>(report.steps));
  return good ? 0 : 1;
}
