// The check values of the algorithm's description, through the public interface, in double
// precision; and the properties that hold to the bit.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/where.h>
#include <torch/optim/sgd.h>
#include <alkn/tensor/bits.hpp>

#include <cmath>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::core_of, tiny::same_bits;

namespace {

/// n = 40, i = 1..40.
Tensor index() { return at::arange(1, 41, at::kDouble); }
Tensor retain_gradient() { return index().mul(0.37).sin(); }
Tensor gradient(int t) { return index().mul(0.71 + 0.11 * t).sin().mul(0.5); }

}  // namespace

TEST_CASE("the mask step has the values of the description") {
  const double eta[] = {-0.25194583512637947, -0.23727468254134154, -0.2678272653410547};
  const std::int64_t first_unmasked[] = {33, 34, 33}, later_unmasked[] = {32, 21, 11};
  const double first_sum[] = {0.7479362463473382, 0.616069791598851, 0.18669809765206863};
  const double later_sum[] = {-3.5015521832792995, -7.906049867527444, -12.618355358636977};
  const double later_trained[] = {9.370435647566627, 7.221318694765621, 3.8774952171809645};

  const Tensor w = at::zeros({40}, at::kDouble).set_requires_grad(true);
  // under a foreign base g' stands in the parameter's gradient
  alkn::ALKN<torch::optim::SGD> unlearner(std::vector<alkn::NamedParameter>{{"w", w}},
                                          alkn::ALKNOptions::reference()
                                              .max_norm(0)
                                              .modulation(alkn::Modulation::none)
                                              .backend(Backend::aten),
                                          torch::optim::SGDOptions(1e-3));
  for (int number = 0; number < 2; ++number) {
    auto task = unlearner.begin_task({.steps = 100});  // rho stays at 0.8 for the first 20
    // two batches: G_r is their mean
    task.accumulate_retain_gradient(w.mul(retain_gradient().mul(0.5)).sum());
    task.accumulate_retain_gradient(w.mul(retain_gradient().mul(1.5)).sum());
    for (int t = 0; t < 3; ++t) {
      INFO("task " << number << ", step " << t);
      w.mutable_grad() = gradient(t);
      unlearner.step();
      const auto& state = core_of(unlearner).parameters()[0];
      const double sum = state.score.sum().item<double>();
      const double trained = w.grad().abs().sum().item<double>();
      CHECK(state.eta.value() == Approx(number == 0 ? eta[t] : eta[2]).epsilon(1e-12).margin(0));
      CHECK(state.num_trained == (number == 0 ? first_unmasked[t] : later_unmasked[t]));
      CHECK(sum == Approx(number == 0 ? first_sum[t] : later_sum[t]).epsilon(1e-12).margin(1e-12));
      if (number == 1) CHECK(trained == Approx(later_trained[t]).epsilon(1e-12).margin(0));
      CHECK(unlearner.last_step().fraction_trained == static_cast<double>(state.num_trained) / 40);
    }
    const auto report = task.end();
    CHECK(report.tensors[0].threshold.value() == Approx(eta[2]).epsilon(1e-12));
    CHECK(report.fraction_trained == (number == 0 ? 33.0 / 40 : 11.0 / 40));
    CHECK(report.tensors[0].overlap == (number == 0 ? 0.0 : report.overlap));
    CHECK(alkn::detail::count_bits(core_of(unlearner).parameters()[0].used) >= 33);
  }
}

TEST_CASE("the scores of task 2 do not see the thresholds of later steps") {
  // eta of task 2 is the last of task 1 whatever rho and the scores do
  tiny::Model model(at::kDouble);
  alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions().threshold_every(2));
  std::vector<double> learned;
  for (int t = 0; t < 3; ++t) {
    auto task = unlearner.begin_task({.steps = 5});
    tiny::prepare(task, model, t);
    for (int i = 0; i < 5; ++i) {
      tiny::step(unlearner, task, model, t);
      const double eta = core_of(unlearner).parameters()[0].eta.value();
      if (t == 0)
        learned.push_back(eta);
      else
        CHECK(eta == learned.back());
    }
    task.end();
  }
  CHECK(learned[0] == learned[1]);  // due at steps 0, 2, 4
  CHECK(learned[1] != learned[2]);
  CHECK(learned[2] == learned[3]);
  CHECK(learned[3] != learned[4]);
}

TEST_CASE("rho follows its schedule") {
  const auto ratios = [](std::int64_t steps) {
    const Tensor w = tiny::wave({4, 10}, 0.1).set_requires_grad(true);
    alkn::ALKN<> unlearner(std::vector<alkn::NamedParameter>{{"w", w}});
    auto task = unlearner.begin_task({.steps = steps});
    task.accumulate_retain_gradient(w.sin().sum());
    std::vector<double> in_force;
    for (std::int64_t i = 0; i < steps; ++i) {
      w.mutable_grad() = tiny::wave({4, 10}, static_cast<double>(i));
      unlearner.step();
      in_force.push_back(unlearner.last_step().unmask_ratio);
    }
    return in_force;
  };
  const std::vector<double> twelve{
      .8, .8, .733333333333, .733333333333, .666666666667, .666666666667,
      .6, .6, .533333333333, .533333333333, .466666666667, .466666666667};
  const auto got = ratios(12);
  for (std::size_t i = 0; i < twelve.size(); ++i) CHECK(got[i] == Approx(twelve[i]).epsilon(1e-11));
  const auto three = ratios(3);  // fewer than five: after every step
  CHECK(three[1] == Approx(.8 - .4 / 3));
  CHECK(three[2] == Approx(.8 - .8 / 3));
  CHECK(ratios(1) == std::vector<double>{.8});
  CHECK(ratios(13)[12] ==
        Approx(.8 - .4 * 12 / 13));  // 13 / 5 = 2: the last change is after step 12
}

TEST_CASE("soft labels have the values of the description") {
  CHECK(alkn::soft_label_weight(1, 1.5, .8) == Approx(0.342967300311).epsilon(1e-11));
  CHECK(alkn::soft_label_weight(.8, 1.5, .8) == Approx(0.268524783499).epsilon(1e-11));
  CHECK(alkn::soft_label_weight(.5, 1.5, .8) == Approx(0.157885549550).epsilon(1e-11));
  CHECK(alkn::soft_label_weight(1, 10, .8) == Approx(0.880461727847).epsilon(1e-11));
  CHECK(alkn::soft_label_weight(.8, 10, .8) == Approx(0.499664649870).epsilon(1e-11));
  CHECK(alkn::soft_label_weight(.5, 10, .8) == Approx(0.047090523047).epsilon(1e-10));
  CHECK(alkn::soft_label_weight(0, 10, .8) == 0);
}

TEST_CASE("the negation is lambda times the difference, with decay") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = backend == Backend::aten ? at::kDouble : at::kFloat;
    tiny::Model model(type);
    alkn::TaskVector<> unlearner(
        model.params, alkn::TaskVectorOptions().negation(0.7).negation_decay(0.5).backend(backend));
    for (int t = 0; t < 3; ++t) {
      const auto start = model.copies();
      auto task = unlearner.begin_task({.steps = 2});
      for (int i = 0; i < 2; ++i) tiny::step(unlearner, task, model, t);
      const auto tuned = model.copies();
      const auto report = task.end();
      const double lambda = 0.7 * std::pow(0.5, t);
      CHECK(report.lambda == lambda);
      for (std::size_t i = 0; i < start.size(); ++i) {
        const Tensor from = start[i].to(at::kDouble);
        const Tensor want = from.sub(tuned[i].to(at::kDouble).sub(from), lambda);
        CHECK(tiny::distance(model.params[i].tensor, want) < (type == at::kDouble ? 1e-15 : 1e-7));
        CHECK_FALSE(same_bits(model.params[i].tensor, tuned[i]));
      }
    }
  }
}

namespace {

/// Two tasks on tensors large enough for several chunks; what is left of them.
template <class Options>
std::vector<Tensor> two_tasks(const std::vector<alkn::NamedParameter>& params,
                              const Options& options) {
  alkn::ALKN<> unlearner(params, options, alkn::AdamWOptions(1e-2).weight_decay(0.1));
  for (int t = 0; t < 2; ++t) {
    auto task = unlearner.begin_task({.steps = 3});
    Tensor loss = at::zeros({});
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Tensor weight = tiny::wave(params[i].tensor.sizes(), 0.3 + static_cast<double>(i));
      loss = loss + params[i].tensor.to(at::kFloat).mul(weight).sum();
    }
    task.accumulate_retain_gradient(loss);
    for (int i = 0; i < 3; ++i) {
      tiny::set_gradients(params, 10 * t + i);
      unlearner.step();
    }
    task.end();
  }
  std::vector<Tensor> left;
  for (const auto& p : params) left.push_back(p.tensor.detach().clone());
  for (const auto& p : core_of(unlearner).parameters()) left.push_back(p.used.clone());
  return left;
}

}  // namespace

TEST_CASE("the fused backend gives the same bits for any number of threads") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  const auto preset = GENERATE(alkn::ALKNOptions::paper(), alkn::ALKNOptions::conflict(),
                               alkn::ALKNOptions::ratio());
  const int before = at::get_num_threads();
  std::vector<std::vector<Tensor>> results;
  for (const int threads : {1, 2, 3, 5}) {
    at::set_num_threads(threads);
    const std::vector<alkn::NamedParameter> params{
        {"a", tiny::wave({301, 700}, 0.1, 0.5, type).set_requires_grad(true)},
        {"b", tiny::wave({11}, 0.2, 0.5, type).set_requires_grad(true)},
        {"c", tiny::wave({65536}, 0.3, 0.5, type).set_requires_grad(true)},
        {"d", tiny::wave({65537}, 0.4, 0.5, type).set_requires_grad(true)}};
    results.push_back(two_tasks(params, alkn::ALKNOptions(preset).backend(Backend::cpu)));
  }
  at::set_num_threads(before);
  for (std::size_t i = 1; i < results.size(); ++i) CHECK(same_bits(results[0], results[i]));
}

TEST_CASE("without clip and mask, the same data split into other tensors gives the same bits") {
  const auto run = [](const std::vector<std::int64_t>& sizes, Backend backend, bool given) {
    const Tensor start = tiny::wave({140001}, 0.1), mask = tiny::wave({140001}, 0.8).gt(0);
    std::vector<alkn::NamedParameter> params, masks;
    const auto pieces = start.split_with_sizes(sizes), bits = mask.split_with_sizes(sizes);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      params.push_back({"p" + std::to_string(i), pieces[i].clone().set_requires_grad(true)});
      masks.push_back({"p" + std::to_string(i), bits[i]});
    }
    using Method = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Negate>;
    auto options = Method::Options().backend(backend).max_norm(0).masked(alkn::Masked::freeze);
    if (given) options.masks(masks);
    Method unlearner(params, options,
                     alkn::AdamWOptions(1e-2).weight_decay(0.1).decay_vectors(true));
    auto task = unlearner.begin_task({.steps = 3});
    for (int i = 0; i < 3; ++i) {
      const auto gradients = tiny::wave({140001}, i).split_with_sizes(sizes);
      for (std::size_t k = 0; k < params.size(); ++k)
        params[k].tensor.mutable_grad() = gradients[k].clone();
      unlearner.step();
    }
    task.end();
    std::vector<Tensor> all;
    for (const auto& p : params) all.push_back(p.tensor.detach());
    return at::cat(all);
  };
  for (const Backend backend : tiny::kBackends) {
    for (const bool given : {false, true}) {
      const Tensor whole = run({140001}, backend, given);
      CHECK(same_bits(whole, run({1, 65535, 65536, 7, 8922}, backend, given)));
      CHECK(same_bits(whole, run({70001, 70000}, backend, given)));
    }
  }
}

TEST_CASE("the backends agree") {
  std::vector<std::vector<Tensor>> results;
  for (const Backend backend : tiny::kBackends) {
    const std::vector<alkn::NamedParameter> params{
        {"a", tiny::wave({31, 70}, 0.1, 0.5).set_requires_grad(true)},
        {"b", tiny::wave({9}, 0.2, 0.5).set_requires_grad(true)}};
    results.push_back(two_tasks(
        params, alkn::ALKNOptions::paper().backend(backend).masked(alkn::Masked::freeze)));
  }
  for (std::size_t i = 0; i < 2; ++i) CHECK(tiny::distance(results[0][i], results[1][i]) < 2e-6);
}

namespace {

/// [n] of any sign, from 1 down to denormals, some of them zero.
Tensor over_forty_orders(std::int64_t n, double phase) {
  const Tensor exponent = tiny::wave({n}, phase, 73, at::kDouble).sub(73);
  const Tensor x = tiny::wave({n}, phase + 1, 1, at::kDouble).mul(exponent.exp2());
  return at::where(exponent.lt(-140), 0, x).to(at::kFloat);
}

/// What a task of `steps` leaves: the weight, both moments and the score.
std::vector<Tensor> task_on_tiny_gradients(Backend backend, int steps) {
  constexpr std::int64_t kSize = 70001;
  const Tensor w = tiny::wave({kSize}, 0.3, 0.5).set_requires_grad(true);
  alkn::ALKN<> unlearner(std::vector<alkn::NamedParameter>{{"w", w}},
                         alkn::ALKNOptions().backend(backend), alkn::AdamWOptions(1e-3));
  auto task = unlearner.begin_task({.steps = steps});
  task.accumulate_retain_gradient(w.mul(over_forty_orders(kSize, 0.7)).sum());
  for (int i = 0; i < steps; ++i) {
    w.mutable_grad() = over_forty_orders(kSize, 2.1 + 0.01 * i);
    unlearner.step();
  }
  const auto& state = core_of(unlearner).parameters()[0];
  const auto& moments =
      static_cast<const alkn::AdamWParamState&>(*unlearner.state().begin()->second);
  std::vector<Tensor> all = {w.detach().clone(), moments.exp_avg().clone(),
                             moments.exp_avg_sq().clone(), state.score.clone()};
  task.abandon();
  return all;
}

}  // namespace

TEST_CASE("tiny gradients leave no denormal number, with the same bits in either mode") {
  const double smallest = std::numeric_limits<float>::min();
  at::globalContext().setFlushDenormal(false);
  const auto ieee = task_on_tiny_gradients(Backend::cpu, 8);
  at::globalContext().setFlushDenormal(true);
  const auto flushed = task_on_tiny_gradients(Backend::cpu, 8);
  at::globalContext().setFlushDenormal(false);
  CHECK(same_bits(ieee, flushed));
  const auto plain = task_on_tiny_gradients(Backend::aten, 8);
  for (const auto* arrays : {&ieee, &plain}) {
    for (const Tensor& array : *arrays) {
      const Tensor x = array.to(at::kDouble).abs();
      CHECK(x.gt(0).logical_and(x.lt(smallest)).sum().item<std::int64_t>() == 0);
    }
  }
  for (std::size_t i = 0; i < ieee.size(); ++i) {
    const Tensor off = ieee[i].sub(plain[i]).abs();
    const Tensor scale = plain[i].abs().mul(1e-5).add(1e-37);
    if (i == 0) continue;  // a score within rounding of its threshold may fall on either side
    CHECK(off.gt(scale).sum().item<std::int64_t>() <= (i == 3 ? 0 : 5));
  }
}

TEST_CASE("thresholds, counts and masks of the fused step are those of at::topk, to the bit") {
  alkn::detail::StepRunner runners[2];
  alkn::kernel::StepArgs args;
  args.mask = alkn::kernel::MaskKind::localized;
  args.update = alkn::kernel::Update::gradient;
  args.threshold_due = true;
  for (std::int64_t n = 10; n <= 300; ++n) {
    for (const int percent : {0, 50, 99, 100}) {
      INFO(n << " entries, " << percent << " % of one value");
      Tensor score = tiny::wave({n}, 0.3 * static_cast<double>(n));
      score.masked_fill_(at::arange(n).mul(37).remainder(100).lt(percent), 0.25);
      std::vector<alkn::detail::StepSlot> slots[2];
      const Tensor zeros = at::zeros({n}), ones = at::ones({n});
      Tensor grad_out[2], scores[2], masks[2];
      for (int k = 0; k < 2; ++k) {
        grad_out[k] = at::zeros({n});
        scores[k] = score.clone();
        masks[k] = at::zeros({alkn::detail::num_mask_words(n)}, at::kLong);
        alkn::detail::StepSlot slot;
        slot.param = slot.grad = zeros;
        slot.grad_out = grad_out[k];
        slot.retain = ones;
        slot.score = scores[k];
        slot.mask = masks[k];
        slot.learns_threshold = true;
        slots[k].push_back(slot);
        runners[k].run(slots[k], args, tiny::kBackends[k]);
      }
      const auto &want = slots[0][0], &got = slots[1][0];
      CHECK(got.threshold == want.threshold);
      CHECK(got.num_trained == want.num_trained);
      CHECK(same_bits(masks[1], masks[0]));
    }
  }
}
