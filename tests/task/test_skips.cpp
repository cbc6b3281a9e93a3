// Steps that are skipped, as their gradient is not finite.
#include <torch/optim/adam.h>

#include <cmath>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::core_of, tiny::Model, tiny::same_bits;

TEST_CASE("a step with a finite gradient is none that was skipped") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::set_gradients(model.params, 1);
  method.step();
  CHECK_FALSE(method.last_step().skipped);
  model["head"].mutable_grad()[0][0].fill_(std::nan(""));
  method.step();
  CHECK(method.last_step().skipped);
  CHECK(task.end().skipped_steps == 1);
}

TEST_CASE("a gradient that is not finite skips the step and is counted") {
  for (const Backend backend : tiny::kBackends) {
    for (const double bad : {std::nan(""), double{INFINITY}, double{-INFINITY}}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        Model model(type);
        alkn::ALKN<> method(model.params, alkn::ALKNOptions().backend(backend));
        auto task = method.begin_task({.steps = 4});
        tiny::prepare(task, model);
        tiny::set_gradients(model.params, 1);
        model["head"].mutable_grad()[10][5].fill_(bad);
        const auto start = model.copies();
        method.step();  // the very first one
        CHECK(method.last_step().skipped);
        CHECK_FALSE(std::isfinite(method.last_step().grad_norm));
        CHECK(same_bits(model.copies(), start));
        CHECK(core_of(method).parameters()[0].score.eq(0).all().item<bool>());
        tiny::set_gradients(model.params, 1);
        method.step();
        CHECK_FALSE(method.last_step().skipped);
        const auto before = model.copies();
        const Tensor score = core_of(method).parameters()[0].score.clone();
        tiny::set_gradients(model.params, 2);
        model["embed"].mutable_grad()[0][0].fill_(bad);
        method.step();
        CHECK(method.last_step().skipped);
        CHECK(method.last_step().step == 2);
        CHECK(same_bits(model.copies(), before));
        CHECK(same_bits(core_of(method).parameters()[0].score, score));
        const auto& state = static_cast<const alkn::AdamWParamState&>(
            *method.state().at(model["head"].unsafeGetTensorImpl()));
        CHECK(state.step() == 1);
        const auto report = task.end();
        CHECK(report.steps == 3);
        CHECK(report.skipped_steps == 2);
      }
    }
  }
}

TEST_CASE("a task whose every step was skipped still ends, and learns its thresholds next time") {
  Model model;
  alkn::ALKN<> method(model.params);
  const auto before = model.copies();
  auto task = method.begin_task({.steps = 1});
  tiny::prepare(task, model);
  tiny::set_gradients(model.params, 1);
  model["bias"].mutable_grad().fill_(std::nan(""));
  method.step();
  const auto report = task.end();
  CHECK(report.skipped_steps == 1);
  CHECK(report.fraction_trained == 0);
  CHECK(same_bits(model.copies(), before));
  CHECK(tiny::unlearn(method, model, 2, 1).tensors[0].threshold.has_value());
}

TEST_CASE("a foreign base is not asked to step on a gradient that is not finite") {
  Model model;
  alkn::TaskVector<torch::optim::Adam> method(model.params, {}, torch::optim::AdamOptions(0.1));
  auto task = method.begin_task({.steps = 2});
  tiny::set_gradients(model.params, 1);
  model["head"].mutable_grad()[0][0].fill_(std::nan(""));
  const auto before = model.copies();
  method.step();
  CHECK(method.last_step().skipped);
  CHECK(same_bits(model.copies(), before));
  CHECK(method.state().empty());
}
