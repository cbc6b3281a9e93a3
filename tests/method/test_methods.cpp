// A method is a torch::optim::Optimizer: policies in every combination, schedulers, closures, and
// models of all kinds.
#include <torch/csrc/jit/api/module.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <optional>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::core_of, tiny::error_of, tiny::Model, tiny::same_bits, tiny::unlearn;

namespace {

/// A checkerboard for weight and bias; embed and head are trained entirely.
std::vector<alkn::NamedParameter> checkerboard(const Model& model) {
  std::vector<alkn::NamedParameter> masks;
  for (const auto& p : model.params) {
    if (p.name != "weight" && p.name != "bias") continue;
    const Tensor even = at::arange(p.tensor.numel(), at::kLong).remainder(2).eq(0);
    masks.push_back({p.name, even.reshape(p.tensor.sizes())});
  }
  return masks;
}

template <class Objective, class Mask, class Ending>
void check_combination(Backend backend) {
  using Method = alkn::Unlearner<Objective, Mask, Ending>;
  Model model;
  auto options = typename Method::Options().backend(backend);
  if constexpr (std::is_same_v<Mask, alkn::GivenMask>) options.masks(checkerboard(model));
  if constexpr (Ending::kNegates) options.negation(1);
  if constexpr (Mask::kKind != alkn::kernel::MaskKind::none) options.masked(alkn::Masked::freeze);
  Method unlearner(model.params, options, alkn::AdamWOptions(1e-2).weight_decay(0.1));
  const auto before = model.copies();
  auto task = unlearner.begin_task({.steps = 2});
  CHECK(task.wants_memory() == Objective::kRemembers);
  CHECK(task.wants_retain_gradient() == (Mask::kKind == alkn::kernel::MaskKind::localized));
  tiny::prepare(task, model);
  for (int i = 0; i < 2; ++i) CHECK(std::isfinite(tiny::step(unlearner, task, model)));
  const auto tuned = model.copies();
  const double expected_share = unlearner.last_step().fraction_trained;
  const auto report = task.end();
  CHECK(report.lambda == (Ending::kNegates ? 1.0 : 0.0));
  CHECK(report.fraction_trained == expected_share);
  for (std::size_t i = 0; i < before.size(); ++i) {
    const Tensor& now = model.params[i].tensor;
    CHECK_FALSE(same_bits(now, before[i]));
    if (Ending::kNegates) {
      CHECK(tiny::distance(now, before[i].mul(2).sub(tuned[i])) < 1e-6);
    } else {
      CHECK(same_bits(now, tuned[i]));
    }
    if constexpr (std::is_same_v<Mask, alkn::GivenMask>) {
      const bool masked = model.params[i].name == "weight" || model.params[i].name == "bias";
      const Tensor off =
          masked ? at::arange(now.numel(), at::kLong).remainder(2).eq(1).reshape(now.sizes())
                 : at::zeros(now.sizes(), at::kBool);
      CHECK(same_bits(now.masked_select(off), before[i].masked_select(off)));
      CHECK(now.detach().ne(before[i]).logical_or(off).all().template item<bool>());
      CHECK(report.tensors[i].fraction_trained == (masked ? 0.5 : 1.0));
    } else if constexpr (std::is_same_v<Mask, alkn::NoMask>) {
      CHECK(report.tensors[i].fraction_trained == 1.0);
    } else {
      CHECK(report.tensors[i].threshold.has_value() == (now.numel() >= 10));
    }
  }
}

template <class Objective>
void check_combinations(Backend backend) {
  check_combination<Objective, alkn::NoMask, alkn::Keep>(backend);
  check_combination<Objective, alkn::NoMask, alkn::Negate>(backend);
  check_combination<Objective, alkn::GivenMask, alkn::Keep>(backend);
  check_combination<Objective, alkn::GivenMask, alkn::Negate>(backend);
  check_combination<Objective, alkn::LocalizedMask, alkn::Keep>(backend);
  check_combination<Objective, alkn::LocalizedMask, alkn::Negate>(backend);
}

}  // namespace

TEST_CASE("every combination of policies unlearns") {
  for (const Backend backend : tiny::kBackends) {
    INFO(tiny::name_of(backend));
    check_combinations<alkn::EntropicSoftLabels>(backend);
    check_combinations<alkn::TokenNLL>(backend);
    check_combinations<alkn::NegatedTokenNLL>(backend);
    check_combinations<alkn::NegativePreference>(backend);
  }
}

TEST_CASE("methods know their names, and presets their numbers") {
  CHECK(std::string(alkn::ALKN<>::method_name()) == "ALKN");
  CHECK(std::string(alkn::TaskVector<>::method_name()) == "TaskVector");
  CHECK(std::string(alkn::GradientAscent<>::method_name()) == "GradientAscent");
  CHECK(std::string(alkn::NPO<>::method_name()) == "NPO");
  CHECK(std::string(alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Keep>::method_name()) ==
        "Unlearner");
  const auto paper = alkn::ALKNOptions::paper(), reference = alkn::ALKNOptions::reference(),
             conflict = alkn::ALKNOptions::conflict(), ratio = alkn::ALKNOptions::ratio();
  CHECK(paper.steepness() == 10);
  CHECK(paper.alignment() == 1);
  CHECK(paper.penalty_scale() == alkn::PenaltyScale::gradient);
  CHECK(paper.penalty() == 1);
  CHECK(paper.modulation() == alkn::Modulation::parameter);
  CHECK(paper.negation() == 0.8);
  CHECK(reference.steepness() == 1.5);
  CHECK(reference.alignment() == 1);
  CHECK(reference.penalty_scale() == alkn::PenaltyScale::product);
  CHECK(reference.penalty() == 0.5);
  CHECK(reference.modulation() == alkn::Modulation::tensor);
  CHECK(reference.negation() == 1);
  CHECK(conflict.alignment() == -1);
  CHECK(conflict.negation() == 2);
  CHECK(conflict.score() == alkn::Score::product);
  CHECK(ratio.score() == alkn::Score::ratio);
  CHECK(ratio.negation() == 2);
  for (const auto& preset : {paper, reference, conflict, ratio}) {
    CHECK(preset.unmask_ratio() == 0.8);
    CHECK(preset.trim_ratio() == 0.15);
    CHECK(preset.threshold_every() == 1);
    CHECK(preset.low_lr_ratio() == 0.1);
    CHECK(preset.center() == 0.8);
    CHECK(preset.max_norm() == 1);
    CHECK(preset.lr_decay() == 1);
    CHECK(preset.negation_decay() == 1);
    CHECK(preset.masked() == alkn::Masked::gradient);
  }
}

TEST_CASE("a retain term is added, and KL takes reference logits of the start") {
  const auto term = GENERATE(alkn::RetainTerm::nll, alkn::RetainTerm::kl);
  Model model;
  alkn::GradientAscent<> unlearner(
      model.params,
      alkn::GradientAscentOptions().retain_term(term).retain_weight(3).rollback(true));
  const tiny::Batch forget(0), retain(7);
  auto task = unlearner.begin_task({.steps = 2});
  CHECK(task.wants_retain_loss());
  CHECK(task.wants_reference_logits() == (term == alkn::RetainTerm::kl));
  const Tensor at_start = model.forward(retain.tokens).detach();
  const double first = tiny::step(unlearner, task, model);
  const double ascent = -alkn::mean_nll(model.forward(forget.tokens), forget.labels).item<double>();
  const double nll = alkn::mean_nll(model.forward(retain.tokens), retain.labels).item<double>();
  const double kl =
      alkn::retain_kl(model.forward(retain.tokens), at_start, retain.labels).item<double>();
  CHECK(kl > 0);
  CHECK(tiny::loss_of(task, model).item<double>() ==
        Approx(ascent + 3 * (term == alkn::RetainTerm::kl ? kl : nll)).epsilon(1e-5));
  CHECK(std::isfinite(first));
  Model other;
  alkn::GradientAscent<> without(other.params);
  auto none = without.begin_task({.steps = 1});
  CHECK_FALSE(none.wants_retain_loss());
  CHECK_FALSE(none.wants_reference_logits());
}

TEST_CASE("a closure is called with gradients on, and its loss returned") {
  Model with, without;
  alkn::ALKN<> a(with.params), b(without.params);
  auto first = a.begin_task({.steps = 3}), second = b.begin_task({.steps = 3});
  tiny::prepare(first, with);
  tiny::prepare(second, without);
  for (int i = 0; i < 3; ++i) {
    const at::NoGradGuard no_grad;
    int calls = 0;
    const Tensor loss = a.step([&] {
      ++calls;
      a.zero_grad();
      Tensor value = tiny::loss_of(first, with);
      value.backward();
      return value;
    });
    const at::AutoGradMode with_grad(true);
    CHECK(calls == 1);
    CHECK(loss.item<double>() == tiny::step(b, second, without));
  }
  CHECK(same_bits(with.copies(), without.copies()));
  // outside a task as well
  first.abandon();
  const Tensor loss = a.step([&] { return tiny::wave({}, 1.0); });
  CHECK(loss.defined());
  CHECK_FALSE(a.step().defined());
}

TEST_CASE("a step is of what runs once its closure has returned") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto first = method.begin_task({.steps = 3});
  tiny::step(method, first, model);
  const auto ends = [&] {
    first.abandon();
    return Tensor();
  };
  CHECK_NOTHROW(method.step(ends));  // the base's own step
  CHECK_FALSE(core_of(method).in_task());
  std::optional<alkn::Task<alkn::TaskVector<>>> second;
  const auto begins = [&] {
    second.emplace(method.begin_task({.steps = 1}));
    return Tensor();
  };
  method.step(begins);
  CHECK(method.last_step().fraction_trained == 1);
  CHECK_THROWS_WITH(method.step(), Catch::Matchers::ContainsSubstring("expected at most 1 steps"));
}

TEST_CASE("gradients of micro-batches add up to those of the batch") {
  Model whole, parts;
  alkn::TaskVector<> a(whole.params), b(parts.params);
  auto first = a.begin_task({.steps = 4}), second = b.begin_task({.steps = 4});
  tiny::Batch batch(0);
  batch.labels = batch.tokens;  // equally many valid tokens everywhere
  for (int i = 0; i < 4; ++i) {
    a.zero_grad();
    first.loss(batch.ids, whole.forward(batch.tokens), batch.labels).backward();
    a.step();
    b.zero_grad();
    for (std::int64_t k = 0; k < 3; ++k) {
      const Tensor tokens = batch.tokens.narrow(0, k, 1), labels = batch.labels.narrow(0, k, 1);
      second.loss(batch.ids.narrow(0, k, 1), parts.forward(tokens), labels).div(3).backward();
    }
    b.step();
  }
  for (std::size_t i = 0; i < whole.params.size(); ++i) {
    CHECK(tiny::distance(whole.params[i].tensor, parts.params[i].tensor) < 1e-5);
  }
  CHECK(b.last_step().step == 3);  // steps, not micro-batches
}
