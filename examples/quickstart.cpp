// A small model memorises which token follows which, and is then asked to forget sixteen of them.
#include <torch/nn.h>

#include <alkn/alkn.hpp>
#include <cstdio>

int main() {
  at::manual_seed(1);
  torch::nn::Sequential model(torch::nn::Embedding(256, 8), torch::nn::Linear(8, 256));
  const at::Tensor facts = at::randperm(256).view({128, 2});  // a question and its answer
  const auto parts = facts.split_with_sizes({16, 64, 48});    // to forget; kept: shown, unseen
  const at::Tensor& forget = parts[0];
  const at::Tensor ids = at::arange(16);
  const auto nll = [&](const at::Tensor& x) { return alkn::mean_nll(model->forward(x), x); };
  const auto p = [&](int i) { return nll(parts[i]).neg().exp().item<double>(); };
  alkn::ALKN<> unlearner(model->named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  const auto train = [&](int steps, const auto& loss) {  // your loop, as it is
    for (; steps > 0; --steps) {
      unlearner.zero_grad();
      loss().backward();
      unlearner.step();
    }
  };
  train(200, [&] { return nll(facts); });  // outside a task it is AdamW
  std::printf("before: forget %.2f, shown %.2f, unseen %.2f\n", p(0), p(1), p(2));

  auto task = unlearner.begin_task({.steps = 15});     // a deletion request
  task.remember(ids, model->forward(forget), forget);  // what the model knows of it now
  task.accumulate_retain_gradient(nll(parts[1]));      // and where what is kept resists
  train(15, [&] { return task.loss(ids, model->forward(forget), forget); });
  task.end();  // negates what was learned
  std::printf("after:  forget %.2f, shown %.2f, unseen %.2f\n", p(0), p(1), p(2));
}
