// The calls of a task, each with arguments that are drawn from bytes: good ones, and others.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/sgd.h>
#include <alkn/alkn.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "task_fixture.hpp"

namespace fuzz {

template <class Method>
class Calls : protected Fixture<Method> {
  using Base = Fixture<Method>;

 protected:
  using Base::attempt, Base::broken, Base::bytes_, Base::check_restored, Base::core,
      Base::difference, Base::forward, Base::is_whole, Base::method_, Base::model_, Base::now,
      Base::sample, Base::shown_, Base::start_, Base::task_;
  using Base::Base;
  using typename Base::Task;
  ~Calls() = default;

  /// Any call, for a closure.
  virtual void call(std::uint32_t code) = 0;
  /// One that a judge may try.
  virtual void call_of_judge(std::uint32_t code) = 0;

  // --- before a task and up to its first step ------------------------------------------------

  void begin(std::int64_t steps) {
    const State before = now();
    std::optional<Task> made;
    if (attempt("begin_task", [&] { made.emplace(method_->begin_task({.steps = steps})); }))
      this->take(std::move(*made), before, false);
  }
  void remember(Task& task) {
    const Sample s = sample();
    attempt("remember", [&] { task.remember(s.ids, s.logits, s.labels); });
  }
  void accumulate(Task& task) {
    Tensor loss;
    const tiny::Batch batch(tiny::kRetain + static_cast<std::int64_t>(bytes_.pick(2)));
    switch (bytes_.pick(10)) {
      case 0:
        break;
      case 1:
        loss = at::full({}, 1.0);
        break;
      case 2:
        loss = forward(batch.tokens);
        break;
      case 3:
        loss = at::full({1}, 1.0).set_requires_grad(true).mul(2);
        break;
      case 4:
        loss = forward(batch.tokens).sum().mul(std::numeric_limits<double>::quiet_NaN());
        break;
      default:
        if (!attempt("mean_nll",
                     [&] { loss = alkn::mean_nll(forward(batch.tokens), batch.labels); }))
          return;
    }
    attempt("accumulate_retain_gradient", [&] { task.accumulate_retain_gradient(loss); });
  }
  void add_parameters() {
    std::vector<alkn::NamedParameter> added;
    const std::string name = "extra" + std::to_string(model_.params.size());
    const Tensor& head = model_.params[3].tensor;
    const Tensor fresh = tiny::wave({5}, 0.3, 0.9, head.scalar_type()).set_requires_grad(true);
    switch (bytes_.pick(8)) {
      case 0:
        break;
      case 1:
        added = {{"head", fresh}};
        break;
      case 2:
        added = {{name, head}};
        break;
      case 3:
        added = {{name, Tensor()}};
        break;
      case 4:
        added = {{name, at::zeros({3}, at::kLong)}};
        break;
      case 5:
        added = {{name, head.detach().reshape({-1}).narrow(0, 0, 0)}};
        break;
      case 6:
        added = {{name, fresh}, {name, fresh.clone()}};
        break;
      default:
        added = {{name, fresh}};
    }
    constexpr double kRates[] = {0.01, 0.1, -1, std::numeric_limits<double>::quiet_NaN()};
    const double rate = bytes_.one_of(kRates);
    const bool worked = attempt("add_named_parameters", [&] {
      if constexpr (Method::kFused)
        method_->add_named_parameters(added, alkn::AdamWOverrides().lr(rate));
      else
        method_->add_named_parameters(added, torch::optim::SGDOptions(rate));
    });
    if (!worked) return;
    model_.params.push_back(added.at(0));
    this->aside_.emplace_back();
  }

  // --- steps ---------------------------------------------------------------------------------

  void loss(Task& task) {
    const Sample s = sample();
    Tensor result;
    if (!attempt("loss", [&] { result = task.loss(s.ids, s.logits, s.labels); })) return;
    if (bytes_.pick(2) == 0) {
      const Sample retain = sample();
      const Tensor reference =
          bytes_.pick(8) == 0 || !retain.logits.defined() ? Tensor() : retain.logits.detach();
      Tensor term;
      if (attempt("retain_loss",
                  [&] { term = task.retain_loss(retain.logits, retain.labels, reference); }))
        result = result + term;
    }
    if (!result.requires_grad()) return;
    this->clear_gradients();
    State before = now();
    result.backward();
    const State after = now();
    before.gradients = after.gradients;
    if (!(after == before)) violated("backward", difference(before, after));
  }
  void step() {
    const State before = now();
    if (!attempt("step", [&] { method_->step(); }) || !core().in_task()) return;
    if (core().task().last.skipped && now().weights != before.weights)
      violated("step", "a step that was skipped has changed weights");
  }
  void step_with_closure() {
    State before = now();
    const auto what = bytes_.pick(4);
    attempt(
        "step with a closure",
        [&] {
          method_->step([&] {
            if (what == 0) throw TheirError();
            if (what == 1) nested([&] { call(bytes_.next()); });
            before = now();
            return Tensor();
          });
        },
        before);
  }
  void read(Task& task) {
    attempt("last_step", [&] { tiny::ignore(method_->last_step()); });
    attempt("last_tensors", [&] { tiny::ignore(method_->last_tensors()); });
    attempt("warnings", [&] { tiny::ignore(task.warnings()); });
  }

  // --- scopes --------------------------------------------------------------------------------

  void start_weights(Task& task) {
    const State before = now();
    std::unique_ptr<alkn::StartWeights> made;
    if (!attempt("start_weights",
                 [&] { made.reset(new alkn::StartWeights(task.start_weights())); }))
      return;
    if (!start_ && bytes_.pick(2) == 0) {
      start_ = std::move(made);
      return;
    }
    made.reset();
    if (const State after = now(); !(after == before))
      violated("the scope of start_weights", difference(before, after));
  }
  void weights_at(Task& task) {
    if constexpr (Method::kNegates) {
      const State before = now();
      const double strength = lambda();
      std::unique_ptr<alkn::WeightsAt> made;
      if (!attempt("weights_at",
                   [&] { made.reset(new alkn::WeightsAt(task.weights_at(strength))); }))
        return;
      if (!shown_ && bytes_.pick(2) == 0) {
        shown_ = std::move(made);
        return;
      }
      made.reset();
      if (const State after = now(); !(after == before))
        violated("the scope of weights_at", difference(before, after));
    } else {
      start_weights(task);
    }
  }
  double lambda() {
    constexpr double kLambdas[] = {
        0.5, 1, 0, 2, -1, 1e300, std::numeric_limits<double>::quiet_NaN()};
    return bytes_.one_of(kLambdas);
  }

  // --- ends ----------------------------------------------------------------------------------

  void end(Task& task) {
    if (attempt("end", [&] { tiny::ignore(task.end()); })) this->retire();
  }
  void end_with_lambda(Task& task) {
    if constexpr (Method::kNegates) {
      const double strength = lambda();
      std::optional<std::string> shown;
      attempt("weights_at", [&] {
        const auto scope = task.weights_at(strength);
        shown = now().weights;
      });
      if (!attempt("end(lambda)", [&] { tiny::ignore(task.end(strength)); })) return;
      this->retire();
      if (shown && now().weights != *shown)
        violated("end(lambda)", "other weights than weights_at(lambda) has shown");
    } else {
      end(task);
    }
  }
  /// What a judge does; its answer.
  double judge() {
    switch (bytes_.pick(12)) {
      case 0:
        throw TheirError();
      case 1:
        return std::numeric_limits<double>::quiet_NaN();
      case 2:
        if (task_) start_weights(*task_);
        return 0;
      case 3:
        start_.reset();
        return 2;
      case 4:
        this->set_data();
        return 2;
      case 5:
        task_.reset();
        return 2;  // the handle of the task that ends
      case 6:
        nested([&] { call_of_judge(bytes_.next()); });
        return 0;
      default:
        return model_.params[3]
            .tensor.detach()
            .abs()
            .to(at::kDouble)
            .mean()
            .template item<double>();
    }
  }
  void end_with_judge(Task& task) {
    if constexpr (Method::kNegates) {
      constexpr double kBounds[] = {0.5, 1, -1, std::numeric_limits<double>::quiet_NaN()};
      const double bound = bytes_.one_of(kBounds);
      const int iterations = static_cast<int>(bytes_.pick(4));
      std::function<double()> asked;
      if (bytes_.pick(8) != 7) asked = [this] { return judge(); };
      alkn::EndTarget target;
      target.forget = asked, target.forget_bound = bound, target.iterations = iterations;
      const bool aims = bytes_.pick(2) == 0;
      if (aims) target.max_lambda = lambda();
      if (aims && bytes_.pick(2) == 0) target.keep = asked;
      const bool had = task_.has_value(), was_broken = broken();
      const bool worked = attempt(
          "end with a judge",
          [&] { tiny::ignore(aims ? task.end(target) : task.end(asked, bound, iterations)); },
          now(), [&] { return (broken() && !was_broken) || (had && !task_); });
      if (worked) this->retire();
      if (!worked && had && !task_ && is_whole())
        check_restored("a handle that a judge drops", true);
    } else {
      end(task);
    }
  }
  void abandon(Task& task) {
    const bool held = core().holds_start();
    if (!attempt("abandon", [&] { task.abandon(); })) return;
    check_restored("abandon", held);
    this->retire();
  }
  void drop() {
    if (!task_ || !core().in_task()) return;
    const bool held = core().holds_start(), restores = held || core().task().done == 0;
    task_.reset();
    if (!is_whole()) return;
    if (core().in_task()) violated("a handle that goes", "its task runs on");
    if (restores) check_restored("a handle that goes", held);
  }

  template <class Fn>
  void nested(Fn&& fn) {
    if (depth_ > 0) return;
    ++depth_;
    fn();
    --depth_;
  }

  int depth_ = 0;
};

}  // namespace fuzz
