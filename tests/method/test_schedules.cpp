// Learning rates and options over the tasks of a method.
#include <torch/csrc/jit/api/module.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::core_of, tiny::error_of, tiny::Model, tiny::same_bits, tiny::unlearn;

TEST_CASE("a learning rate that is set between steps is the next step's") {
  Model model;
  alkn::TaskVector<> method(model.params, {}, alkn::AdamWOptions(1e-2));
  auto task = method.begin_task({.steps = 2});
  tiny::step(method, task, model);
  const auto before = model.copies();
  method.param_groups()[0].options().set_lr(0);
  tiny::step(method, task, model);
  CHECK(same_bits(model.copies(), before));
  task.end();
  CHECK(method.param_groups()[0].options().get_lr() == 1e-2);
}

TEST_CASE("LibTorch's scheduler sets the rates of the steps, and the end of a task restores them") {
  Model scheduled, by_hand;
  alkn::TaskVector<> a(scheduled.params, {}, alkn::AdamWOptions(0.04)),
      b(by_hand.params, {}, alkn::AdamWOptions(0.04));
  auto first = a.begin_task({.steps = 6}), second = b.begin_task({.steps = 6});
  torch::optim::StepLR schedule(a, 2, 0.5);
  std::vector<double> rates;
  for (int i = 0; i < 6; ++i) {
    const double rate = a.param_groups()[0].options().get_lr();
    rates.push_back(rate);
    b.param_groups()[0].options().set_lr(rate);
    tiny::step(a, first, scheduled);
    tiny::step(b, second, by_hand);
    schedule.step();
  }
  CHECK(rates.front() == 0.04);
  CHECK(rates.back() < 0.02);
  CHECK(same_bits(scheduled.copies(), by_hand.copies()));
  CHECK(a.param_groups()[0].options().get_lr() < 0.02);
  first.end();
  CHECK(a.param_groups()[0].options().get_lr() == 0.04);
}

TEST_CASE("LinearSchedule warms up, decays to zero, and can be resumed") {
  Model model;
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
      {{"head"}, alkn::AdamWOverrides().lr(0.5)}};
  alkn::TaskVector<> unlearner(model.params, groups, {}, alkn::AdamWOptions(0.1));
  auto task = unlearner.begin_task({.steps = 8});
  const auto rates = [&] {
    return std::pair(unlearner.param_groups()[0].options().get_lr(),
                     unlearner.param_groups()[1].options().get_lr());
  };
  const std::vector<double> factors{0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0};
  alkn::LinearSchedule schedule(unlearner, 2, 6);
  const auto before = model.copies();
  for (std::size_t i = 0; i < factors.size(); ++i) {
    INFO("step " << i);
    CHECK(schedule.factor(static_cast<std::int64_t>(i)) == factors[i]);
    CHECK(rates() == std::pair(0.1 * factors[i], 0.5 * factors[i]));
    tiny::step(unlearner, task, model);
    if (i == 0) CHECK(same_bits(model.copies(), before));  // from 0: the first step moves nothing
    if (i == 1) CHECK_FALSE(same_bits(model.copies(), before));
    schedule.step();
  }
  task.end();
  CHECK(rates() == std::pair(0.1, 0.5));

  alkn::LinearSchedule no_warmup(unlearner, 0, 4);
  CHECK(rates().first == 0.1);
  no_warmup.step();
  CHECK(rates().first == 0.1 * 0.75);
  unlearner.param_groups()[0].options().set_lr(0.1);
  alkn::LinearSchedule all_warmup(unlearner, 4, 4);
  CHECK(rates().first == 0);
  for (int i = 0; i < 3; ++i) all_warmup.step();
  CHECK(rates().first == 0.1 * 0.75);
  all_warmup.step();
  CHECK(rates().first == 0);
}

TEST_CASE("lr_decay applies from task to task, to every group, and is undone at the end") {
  Model model;
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
      {{"head"}, alkn::AdamWOverrides().lr(0.5)}};
  alkn::TaskVector<> unlearner(model.params, groups, alkn::TaskVectorOptions().lr_decay(0.5),
                               alkn::AdamWOptions(0.1));
  for (int t = 0; t < 3; ++t) {
    auto task = unlearner.begin_task({.steps = 1});
    CHECK(unlearner.param_groups()[0].options().get_lr() == 0.1 * std::pow(0.5, t));
    CHECK(unlearner.param_groups()[1].options().get_lr() == 0.5 * std::pow(0.5, t));
    tiny::step(unlearner, task, model);
    if (t == 1) {
      task.abandon();
      CHECK(unlearner.param_groups()[0].options().get_lr() == 0.1);
      CHECK(unlearner.num_tasks() == 1);
      auto again = unlearner.begin_task({.steps = 1});
      tiny::step(unlearner, again, model);
      again.end();
    } else {
      task.end();
    }
    CHECK(unlearner.param_groups()[0].options().get_lr() == 0.1);
    CHECK(unlearner.param_groups()[1].options().get_lr() == 0.5);
  }
}

TEST_CASE("options that a user sets during a task return as well") {
  Model model;
  alkn::TaskVector<> unlearner(model.params, {}, alkn::AdamWOptions(0.1).weight_decay(0.2));
  auto task = unlearner.begin_task({.steps = 1});
  static_cast<alkn::AdamWOptions&>(unlearner.param_groups()[0].options())
      .weight_decay(0.7)
      .betas({0.1, 0.2});
  tiny::step(unlearner, task, model);
  task.end();
  const auto& after = static_cast<const alkn::AdamWOptions&>(unlearner.param_groups()[0].options());
  CHECK(after.weight_decay() == 0.2);
  CHECK(after.betas() == std::tuple(0.9, 0.999));
}
