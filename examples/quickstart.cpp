#include <torch/nn.h>

#include <alkn/alkn.hpp>
#include <cmath>
#include <cstdio>

using at::Tensor;

double probability(torch::nn::Sequential& model, const Tensor& facts) {
  return std::exp(-alkn::mean_nll(model->forward(facts), facts).item<double>());
}

int main() {
  at::manual_seed(1);
  torch::nn::Sequential model(torch::nn::Embedding(256, 8), torch::nn::Linear(8, 256));
  const Tensor facts = at::randperm(256).view({128, 2});  // a question and its answer, a token each
  const Tensor forget = facts.slice(0, 0, 16), ids = at::arange(16);
  const Tensor shown = facts.slice(0, 16, 80), unseen = facts.slice(0, 80);  // to be kept

  alkn::ALKN<> unlearner(model->named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  for (int step = 0; step < 200; ++step) {  // outside a task it is AdamW
    unlearner.zero_grad();
    alkn::mean_nll(model->forward(facts), facts).backward();
    unlearner.step();
  }
  std::printf("before: forget %.2f, shown %.2f, unseen %.2f\n", probability(model, forget),
              probability(model, shown), probability(model, unseen));

  auto task = unlearner.begin_task({.steps = 15});     // a deletion request
  task.remember(ids, model->forward(forget), forget);  // what the model knows of it now
  task.accumulate_retain_gradient(alkn::mean_nll(model->forward(shown), shown));  // what is kept
  for (int step = 0; step < 15; ++step) {
    unlearner.zero_grad();
    task.loss(ids, model->forward(forget), forget).backward();
    unlearner.step();
  }
  task.end();  // negates what was learned
  std::printf("after:  forget %.2f, shown %.2f, unseen %.2f\n", probability(model, forget),
              probability(model, shown), probability(model, unseen));
}
