// Tasks that leave nothing behind, and the weights of their start.
#include <ATen/ops/zeros.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include <memory>
#include <optional>
#include <stdexcept>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::error_of, tiny::everything, tiny::ignore, tiny::Model, tiny::same_bits;

namespace {

/// What torch SGD or Adam or alkn::AdamW holds, as tensors.
std::vector<Tensor> base_state(const torch::optim::Optimizer& optimizer) {
  std::vector<Tensor> all;
  for (const auto& group : optimizer.param_groups()) {
    for (const Tensor& param : group.params()) {
      const auto found = optimizer.state().find(param.unsafeGetTensorImpl());
      if (found == optimizer.state().end()) {
        all.emplace_back();
        continue;
      }
      if (const auto* s = dynamic_cast<const torch::optim::SGDParamState*>(found->second.get())) {
        all.push_back(s->momentum_buffer().clone());
      } else if (const auto* a =
                     dynamic_cast<const torch::optim::AdamParamState*>(found->second.get())) {
        all.insert(all.end(),
                   {a->exp_avg().clone(), a->exp_avg_sq().clone(), at::tensor(a->step())});
      } else if (const auto* w = dynamic_cast<const alkn::AdamWParamState*>(found->second.get())) {
        all.insert(all.end(),
                   {w->exp_avg().clone(), w->exp_avg_sq().clone(), at::tensor(w->step())});
      }
    }
    all.push_back(at::tensor(group.options().get_lr()));
  }
  return all;
}

template <class Base>
auto base_options() {
  if constexpr (std::is_same_v<Base, torch::optim::SGD>) {
    return torch::optim::SGDOptions(0.05).momentum(0.9);
  } else if constexpr (std::is_same_v<Base, torch::optim::Adam>) {
    return torch::optim::AdamOptions(0.01);
  } else {
    return alkn::AdamWOptions(0.01).weight_decay(0.1);
  }
}

}  // namespace

TEST_CASE("a task that goes out of scope without end() was none") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto before = model.copies();
  {
    auto task = method.begin_task({.steps = 2});
    tiny::step(method, task, model);
    CHECK_FALSE(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), before));
  CHECK(method.num_tasks() == 0);
}

TEMPLATE_TEST_CASE("abandon restores to the bit: weights, moments of before, options, history", "",
                   alkn::AdamW, torch::optim::SGD, torch::optim::Adam) {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
  const bool by_scope = GENERATE(false, true);
  Model model(type), twin(type);
  const auto options = alkn::ALKNOptions().lr_decay(0.5).start_on_host(by_scope);
  alkn::ALKN<TestType> method(model.params, options, base_options<TestType>()),
      undisturbed(twin.params, options, base_options<TestType>());
  // a first task, then plain steps whose moments must survive
  tiny::unlearn(method, model, 3, 0);
  tiny::unlearn(undisturbed, twin, 3, 0);
  const auto plain = [](auto& unlearner, const Model& m, int i) {
    tiny::set_gradients(m.params, i);
    unlearner.step();
  };
  for (int i = 0; i < 2; ++i) {
    plain(method, model, i);
    plain(undisturbed, twin, i);
  }
  const auto weights = model.copies();
  const auto state = base_state(method);
  const auto all = everything(method);
  for (const int steps : {0, 1, 4}) {
    auto task = std::make_optional(method.begin_task({.steps = 4}));
    if (steps > 0) tiny::prepare(*task, model, 1);
    for (int i = 0; i < steps; ++i) {
      tiny::step(method, *task, model, 1);
      method.param_groups()[0].options().set_lr(0.7);
    }
    if (steps > 0) CHECK_FALSE(same_bits(model.copies(), weights));
    if (by_scope) {
      task.reset();
    } else {
      task->abandon();
    }
    CHECK(same_bits(model.copies(), weights));
    CHECK(same_bits(base_state(method), state));
    CHECK(same_bits(everything(method), all));
  }
  // as if the task had never been: the same bits from here on
  for (int i = 2; i < 4; ++i) {
    plain(method, model, i);
    plain(undisturbed, twin, i);
  }
  tiny::unlearn(method, model, 2, 2);
  tiny::unlearn(undisturbed, twin, 2, 2);
  CHECK(same_bits(model.copies(), twin.copies()));
}

TEST_CASE("an exception on the way through the scope of a task abandons it") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto before = model.copies();
  CHECK(error_of([&] {
          auto task = method.begin_task({.steps = 2});
          tiny::step(method, task, model);
          throw std::runtime_error("the user's own");
        }) == "the user's own");
  CHECK(same_bits(model.copies(), before));
  tiny::unlearn(method, model, 1);
}

TEST_CASE("without held weights a task that has stepped cannot be abandoned") {
  Model model;
  alkn::NPO<> method(model.params, {}, alkn::AdamWOptions(0.1));
  const auto before = model.copies();
  auto early = method.begin_task({.steps = 2});
  early.abandon();  // nothing was written yet
  CHECK(same_bits(model.copies(), before));
  {
    auto task = method.begin_task({.steps = 2});
    tiny::prepare(task, model);
    tiny::step(method, task, model);
    const auto stepped = everything(method);
    const std::string text =
        "alkn::NPO: expected held weights to go back to, got none after 1 steps; construct with "
        "rollback(true) to be able to abandon";
    CHECK(error_of([&] { task.abandon(); }) == text);
    CHECK(same_bits(everything(method), stepped));
    tiny::step(method, task, model);  // and it goes on
    method.param_groups()[0].options().set_lr(0.3);
  }  // out of scope: the weights stay, the task and its options are closed
  CHECK_FALSE(same_bits(model.copies(), before));
  CHECK(method.param_groups()[0].options().get_lr() == 0.1);
  CHECK(method.num_tasks() == 0);
  auto next = method.begin_task({.steps = 1});

  Model held;
  alkn::NPO<> careful(held.params, alkn::NPOOptions().rollback(true));
  auto task = careful.begin_task({.steps = 1});
  tiny::prepare(task, held);
  tiny::step(careful, task, held);
  task.abandon();
  CHECK(same_bits(held.copies(), before));
}

TEST_CASE("start_weights puts the weights of the start into the model for a scope") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type), twin(type);
  const auto options = alkn::GradientAscentOptions().rollback(true);
  alkn::GradientAscent<> method(model.params, options), undisturbed(twin.params, options);
  const auto before = model.copies();
  auto task = method.begin_task({.steps = 4});
  auto same = undisturbed.begin_task({.steps = 4});
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  const auto tuned = model.copies();
  {
    const auto scope = task.start_weights();
    CHECK(same_bits(model.copies(), before));
    CHECK(error_of([&] { const auto second = task.start_weights(); }) ==
          "alkn::Task: expected one scope of start_weights() or weights_at() at a time, got a "
          "second");
    tiny::set_gradients(model.params, 1);
    CHECK(
        error_of([&] { method.step(); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got a step inside the "
        "scope of start_weights()");
    CHECK(
        error_of([&] { ignore(task.end()); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got end() inside the "
        "scope of start_weights()");
    CHECK(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), tuned));
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  CHECK(same_bits(model.copies(), twin.copies()));  // masters too have come through
  {
    const auto scope = task.start_weights();
    task.abandon();  // ends the scope
    CHECK(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), before));

  alkn::GradientAscent<> without(model.params);
  auto bare = without.begin_task({.steps = 1});
  {
    const auto scope = bare.start_weights();  // nothing was written yet
    CHECK(same_bits(model.copies(), before));
    tiny::set_gradients(model.params, 1);
    CHECK(
        error_of([&] { without.step(); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got a step inside the "
        "scope of start_weights()");
    CHECK(same_bits(model.copies(), before));
  }
  tiny::step(without, bare, model);
  CHECK(error_of([&] { const auto scope = bare.start_weights(); }) ==
        "alkn::Task: expected held weights for start_weights() after the first step, got none; "
        "construct with rollback(true)");
}

TEST_CASE("a master takes over what the user wrote, to the sign of zero, wherever it lies") {
  Tensor w = at::zeros({64}, at::kBFloat16).set_requires_grad(true);
  alkn::TaskVector<> method(std::vector<alkn::NamedParameter>{{"w", w}}, {},
                            alkn::AdamWOptions(0.01).weight_decay(0));
  method.begin_task({.steps = 1}).abandon();  // makes the master
  {
    const at::NoGradGuard no_grad;
    w.neg_();
  }
  const Tensor negative = w.detach().clone();
  method.begin_task({.steps = 1}).abandon();
  CHECK(same_bits(w.detach(), negative));

  for (int trial = 0; trial < 50; ++trial) {  // now and then at the address of before
    w.set_data(at::full({64}, 1, at::kBFloat16));
    w.mutable_grad() = at::zeros({64}, at::kBFloat16);
    method.step();
    w.set_data(at::full({64}, 2, at::kBFloat16));
    w.set_data(at::full({64}, 5, at::kBFloat16));
    method.step();
    REQUIRE(w[0].item<double>() == 5);
  }
}

TEST_CASE("a group that cannot be added is not") {
  Model model;
  const Tensor extra = at::ones({20}).set_requires_grad(true);
  const Tensor more = at::ones({20}).set_requires_grad(true);
  alkn::TaskVector<> method(model.params);
  method.add_param_group(torch::optim::OptimizerParamGroup(
      std::vector<Tensor>{extra}, std::make_unique<alkn::AdamWOptions>(0.1)));
  const std::vector<alkn::NamedParameter> named{{"more", more}};
  CHECK(error_of([&] { method.add_named_parameters(named, alkn::AdamWOptions(0.1)); }) ==
        "alkn::TaskVector: expected the parameters that were named, got one without a name; use "
        "add_named_parameters (group 1, position 0)");
  CHECK(method.param_groups().size() == 2);
}
