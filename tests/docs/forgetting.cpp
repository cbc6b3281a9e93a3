// The one file of docs/guide.md that compiles the method.
#include "forgetting.hpp"

#include <alkn/alkn.hpp>
#include <utility>

struct Forgetting::Method {
  alkn::ALKN<> unlearner;
  Forward forward;
};

Forgetting::Forgetting(torch::nn::Module& model, Forward forward)
    : method_(new Method{
          alkn::ALKN<>(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2)),
          std::move(forward)}) {}

Forgetting::~Forgetting() = default;

void Forgetting::request(const std::vector<Sample>& forget, const std::vector<Sample>& retain) {
  auto& [unlearner, forward] = *method_;
  auto task = unlearner.begin_task({.steps = 5 * std::ssize(forget)});
  for (const Sample& s : forget) task.remember(s.ids, forward(s.tokens).detach(), s.labels);
  for (const Sample& s : retain) {
    task.accumulate_retain_gradient(alkn::mean_nll(forward(s.tokens), s.labels));
  }
  for (int epoch = 0; epoch < 5; ++epoch) {
    for (const Sample& s : forget) {
      unlearner.zero_grad();
      task.loss(s.ids, forward(s.tokens), s.labels).backward();
      unlearner.step();
    }
  }
  task.end();
}
