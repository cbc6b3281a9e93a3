// The protocol of a task: the order of its calls.
#include <c10/core/InferenceMode.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::error_of, tiny::everything, tiny::ignore, tiny::Model,
    tiny::same_bits;

TEST_CASE("a task: remember, retain gradient, steps, end") {
  Model model;
  alkn::ALKN<> method(model.params);
  const Batch forget(tiny::kForget), retain(tiny::kRetain);
  auto task = method.begin_task({.steps = 2});
  task.remember(forget.ids, model.forward(forget.tokens), forget.labels);
  task.accumulate_retain_gradient(alkn::mean_nll(model.forward(retain.tokens), retain.labels));
  for (int step = 0; step < 2; ++step) {
    method.zero_grad();
    task.loss(forget.ids, model.forward(forget.tokens), forget.labels).backward();
    method.step();
  }
  CHECK(task.end().steps == 2);
  CHECK(method.num_tasks() == 1);
}

TEST_CASE("calls out of order say so and change nothing") {
  Model model;
  alkn::ALKN<> method(model.params);
  const Batch batch(0);
  const auto logits = [&] { return model.forward(batch.tokens); };
  CHECK(error_of([&] { ignore(method.last_step()); }) ==
        "alkn::ALKN: expected last_step() during a task, got none running");
  CHECK(error_of([&] { ignore(method.begin_task({.steps = 0})); }) ==
        "alkn::ALKN: expected steps in [1, inf), got 0 (begin_task)");
  CHECK(error_of([&] { ignore(method.begin_task({.steps = -3})); }) ==
        "alkn::ALKN: expected steps in [1, inf), got -3 (begin_task)");
  CHECK(method.num_tasks() == 0);

  auto task = method.begin_task({.steps = 2});
  CHECK(error_of([&] { ignore(method.begin_task({.steps = 1})); }) ==
        "alkn::ALKN: expected end() or abandon() before the next begin_task, got a task that still "
        "runs (task 0)");
  CHECK(error_of([&] { ignore(task.end()); }) ==
        "alkn::ALKN: expected at least one step before end(), got none; abandon() leaves all as it "
        "was (task 0)");
  CHECK(
      error_of([&] { ignore(task.loss(batch.ids, logits(), batch.labels)); }) ==
      "alkn::Task: expected a sample that was remembered before the first step, got an unknown id "
      "(sample 0)");
  task.remember(batch.ids, logits(), batch.labels);
  tiny::set_gradients(model.params, 1);
  const auto before = everything(method);
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::ALKN: expected accumulate_retain_gradient before the first step, got no retain "
        "gradient");
  CHECK(same_bits(everything(method), before));
  task.accumulate_retain_gradient(alkn::mean_nll(logits(), batch.labels));
  method.step();

  const auto training = everything(method);
  CHECK(error_of([&] { task.remember(batch.ids, logits(), batch.labels); }) ==
        "alkn::Task: expected remember() before the first step, got it after 1 steps");
  CHECK(
      error_of([&] { task.accumulate_retain_gradient(alkn::mean_nll(logits(), batch.labels)); }) ==
      "alkn::Task: expected accumulate_retain_gradient() before the first step, got it after 1 "
      "steps");
  CHECK(error_of([&] { ignore(task.retain_loss(logits(), batch.labels)); }) ==
        "alkn::Task: expected retain_term(nll) or retain_term(kl) in the options, got none");
  CHECK(error_of([&] { ignore(task.end(-1.0)); }) ==
        "alkn::ALKN: expected lambda in [0, 1e+30], got -1 (end)");
  CHECK(error_of([&] { ignore(task.end(std::nan(""))); }) ==
        "alkn::ALKN: expected lambda in [0, 1e+30], got nan (end)");
  CHECK(same_bits(everything(method), training));
  method.step();
  const auto announced = everything(method);
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::ALKN: expected at most 2 steps as announced to begin_task, got one more (task 0)");
  CHECK(same_bits(everything(method), announced));
  task.end();
}

TEST_CASE("after its end a task answers nothing, whoever ended it") {
  Model model;
  auto method = std::make_unique<alkn::GradientAscent<>>(
      model.params,
      alkn::GradientAscentOptions().rollback(true).retain_term(alkn::RetainTerm::nll));
  const Batch batch(0);
  const Tensor logits = model.forward(batch.tokens);
  const auto check = [&](auto& task, const std::string& reason) {
    const auto error = [&](const std::string& call) {
      return reason.find("gone") == std::string::npos
                 ? "alkn::Task: expected " + call + " during the task, got it after the task ended"
                 : reason;
    };
    CHECK(error_of([&] { task.remember(batch.ids, logits, batch.labels); }) == error("remember()"));
    CHECK(error_of([&] { task.accumulate_retain_gradient(logits.sum()); }) ==
          error("accumulate_retain_gradient()"));
    CHECK(error_of([&] { ignore(task.loss(batch.ids, logits, batch.labels)); }) == error("loss()"));
    CHECK(error_of([&] { ignore(task.retain_loss(logits, batch.labels)); }) ==
          error("retain_loss()"));
    CHECK(error_of([&] { ignore(task.end()); }) == error("end()"));
    CHECK(error_of([&] { task.abandon(); }) == error("abandon()"));
    CHECK(error_of([&] { const auto start = task.start_weights(); }) == error("start_weights()"));
  };
  auto ended = method->begin_task({.steps = 1});
  tiny::step(*method, ended, model);
  ended.end();
  check(ended, "");
  auto abandoned = method->begin_task({.steps = 1});
  abandoned.abandon();
  check(abandoned, "");
  auto running = method->begin_task({.steps = 1});
  check(ended, "");  // the handle of another task, while one runs
  auto moved = std::move(running);
  const std::string gone =
      "alkn::Task: expected the unlearner to outlive its task, got one that is gone or moved from";
  check(running, gone);  // NOLINT(bugprone-use-after-move): that is the point
  ignore(moved.loss(batch.ids, logits, batch.labels));
  method.reset();
  check(moved, gone);
}

TEST_CASE("end is final for the negating methods as well") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 1});
  tiny::step(method, task, model);
  task.end();
  const auto after = everything(method);
  const std::string text =
      "alkn::Task: expected end() during the task, got it after the task ended";
  CHECK(error_of([&] { ignore(task.end(1.0)); }) == text);
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, 1.0)); }) == text);
  CHECK(same_bits(everything(method), after));
}

TEST_CASE("the protocol is typed: what a method does not want costs nothing") {
  Model model;
  alkn::GradientAscent<> ascent(model.params);
  alkn::NPO<> preference(model.params);
  alkn::ALKN<> knowledge(model.params);
  {
    auto task = ascent.begin_task({.steps = 1});
    CHECK_FALSE(task.wants_memory());
    CHECK_FALSE(task.wants_retain_gradient());
    CHECK_FALSE(task.wants_retain_loss());
    const Batch batch(0);
    const Tensor logits = model.forward(batch.tokens);
    task.remember(batch.ids, logits, batch.labels);  // harmless
    task.accumulate_retain_gradient(logits.sum());   // harmless
    CHECK(core_of(ascent).task().memory.entries().empty());
    CHECK_FALSE(core_of(ascent).parameters()[0].retain.defined());
    CHECK_FALSE(core_of(ascent).parameters()[0].start.defined());  // no second copy of the weights
    ignore(task.loss(Tensor(), logits, batch.labels));             // ids are not looked at
  }
  CHECK(preference.begin_task({.steps = 1}).wants_memory());
  CHECK(knowledge.begin_task({.steps = 1}).wants_retain_gradient());
  CHECK(std::is_nothrow_destructible_v<alkn::ALKN<>::TaskType>);
  CHECK_FALSE(std::is_copy_constructible_v<alkn::ALKN<>::TaskType>);
  CHECK_FALSE(std::is_move_constructible_v<alkn::ALKN<>>);
  CHECK_FALSE(std::is_copy_constructible_v<alkn::ALKN<>>);
}

TEST_CASE("tasks begin and end in inference mode as well") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto begin = [&] {
    const c10::InferenceMode inference;
    return method.begin_task({.steps = 1});
  };
  auto task = begin();
  tiny::step(method, task, model);
  const auto tuned = model.copies();
  { const auto start = task.start_weights(); }
  CHECK(same_bits(model.copies(), tuned));
  {
    const c10::InferenceMode inference;
    task.end();
  }
  tiny::set_gradients(model.params, 1);
  method.step();
}

TEST_CASE("a reference to a group's options is good across tasks") {
  Model model;
  alkn::TaskVector<> fused(model.params, alkn::TaskVectorOptions().lr_decay(0.5));
  alkn::TaskVector<torch::optim::SGD> foreign(model.params, alkn::TaskVectorOptions().lr_decay(0.5),
                                              torch::optim::SGDOptions(0.1));
  const auto check = [&](auto& method) {
    auto& options = method.param_groups()[0].options();
    const double rate = options.get_lr();
    for (int number = 0; number < 2; ++number) {
      auto task = method.begin_task({.steps = 1});
      CHECK(&method.param_groups()[0].options() == &options);
      CHECK(options.get_lr() == rate * std::pow(0.5, number));
      options.set_lr(0.003);
      tiny::set_gradients(model.params, number);
      method.step();
      task.end();
      CHECK(&method.param_groups()[0].options() == &options);
      CHECK(options.get_lr() == rate);
    }
    method.begin_task({.steps = 1}).abandon();
    CHECK(&method.param_groups()[0].options() == &options);
  };
  check(fused);
  check(foreign);
}
