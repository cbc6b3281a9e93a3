// How strong a negation is, by what it does: weights_at(lambda), end(target), a task's warnings.
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::error_of, tiny::everything, tiny::ignore, tiny::Model, tiny::same_bits;

namespace {

const std::string kOneScope =
    "alkn::Task: expected one scope of start_weights() or weights_at() at a time, got a second";

}  // namespace

TEST_CASE("weights_at shows what end(lambda) leaves, and is undone to the bit") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kHalf, at::kDouble);
    const bool compact = GENERATE(false, true), host = GENERATE(false, true);
    const auto options = alkn::ALKNOptions()
                             .backend(type == at::kDouble ? Backend::aten : backend)
                             .compact_state(compact && type != at::kDouble)
                             .start_on_host(host);
    const auto begun = [&](Model& model, auto& method) {
      auto task = method.begin_task({.steps = 4});
      tiny::prepare(task, model);
      for (int i = 0; i < 2; ++i) tiny::step(method, task, model);
      return task;
    };
    Model model(type), twin(type);
    alkn::ALKN<> method(model.params, options), undisturbed(twin.params, options);
    auto task = begun(model, method), same = begun(twin, undisturbed);
    const auto tuned = everything(method);
    const auto weights = model.copies();
    for (const double lambda : {0.0, 0.7, 2.0, 31.0}) {
      Model other(type);
      alkn::ALKN<> ends(other.params, options);
      auto ended = begun(other, ends);
      CHECK(ended.end(lambda).lambda == lambda);
      {
        const auto scope = task.weights_at(lambda);
        CHECK(same_bits(model.copies(), other.copies()));
        CHECK_FALSE(same_bits(model.copies(), weights));
        // who asks for the masters meanwhile does not take the shown weights for the user's
        auto& masters = tiny::core_of(method).base().masters();
        for (const auto& p : model.params) masters.get(p.tensor);
      }
      CHECK(same_bits(everything(method), tuned));
    }
    // nothing of it is seen by what follows, masters included
    for (int i = 0; i < 2; ++i) {
      tiny::step(method, task, model);
      tiny::step(undisturbed, same, twin);
    }
    CHECK(same_bits(everything(method), everything(undisturbed)));
    task.end();
    same.end();
    CHECK(same_bits(everything(method), everything(undisturbed)));
  }
}

TEST_CASE("inside weights_at nothing may be changed, and abandon ends the scope") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type);
  const auto before = model.copies();
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  {
    const auto scope = task.weights_at(3);  // before the first step: the weights of the start
    CHECK(same_bits(model.copies(), before));
  }
  tiny::step(method, task, model);
  const auto tuned = everything(method);
  CHECK(error_of([&] { const auto scope = task.weights_at(-1); }) ==
        "alkn::TaskVector: expected lambda in [0, 1e+30], got -1 (weights_at)");
  CHECK(error_of([&] { const auto scope = task.weights_at(std::nan("")); }) ==
        "alkn::TaskVector: expected lambda in [0, 1e+30], got nan (weights_at)");
  {
    const auto scope = task.start_weights();
    CHECK(error_of([&] { const auto second = task.weights_at(1); }) == kOneScope);
  }
  {
    const auto scope = task.weights_at(1);
    const auto shown = model.copies();
    CHECK(error_of([&] { const auto second = task.weights_at(2); }) == kOneScope);
    CHECK(error_of([&] { const auto second = task.start_weights(); }) == kOneScope);
    CHECK(error_of([&] { ignore(task.end()); }) ==
          "alkn::TaskVector: expected the fine-tuned weights in the model, got end() inside the "
          "scope of weights_at()");
    tiny::set_gradients(model.params, 1);
    CHECK(error_of([&] { method.step(); }) ==
          "alkn::TaskVector: expected the fine-tuned weights in the model, got a step inside the "
          "scope of weights_at()");
    CHECK(same_bits(model.copies(), shown));
  }
  CHECK(same_bits(everything(method), tuned));
  {
    const auto scope = task.weights_at(1);
    task.abandon();  // ends the scope
    CHECK(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), before));
  auto next = method.begin_task({.steps = 1});  // and leaves no trace
  tiny::step(method, next, model);
  CHECK(next.end().steps == 1);
}

TEST_CASE("weights_at after a parameter was replaced says so, and keeps its scope open") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::step(method, task, model);
  const Tensor head = model["head"].detach();
  {
    const auto scope = task.weights_at(1);
    model["head"].set_data(at::zeros({3, 3}));
  }
  CHECK(error_of([&] { ignore(task.end()); }) ==
        "alkn::TaskVector: expected the fine-tuned weights in the model, got end() inside the "
        "scope of weights_at()");
  model["head"].set_data(head);
  task.abandon();
  CHECK(same_bits(model.copies(), Model().copies()));
  auto again = method.begin_task({.steps = 1});
  const auto before = model.copies();
  model["head"].set_data(at::zeros({3, 3}));
  CHECK(error_of([&] { const auto scope = again.weights_at(1); }) ==
        "alkn::TaskVector: expected Float [11, 6] on cpu as at construction, got Float [3, 3] on "
        "cpu (group 0, parameter \"head\")");
  model["head"].set_data(head);
  CHECK(same_bits(model.copies(), before));
}

TEST_CASE("end with a target finds the smallest lambda that forgets, to the bit of end(lambda)") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
    const auto run = [&](auto&& finish) { return tiny::ended_by(type, backend, finish); };
    // the distance from the start grows with lambda: minus it falls
    const auto distance = [&](Model& m) { return tiny::distance(m["head"], Model(type)["head"]); };
    std::vector<double> seen;
    int kept = 0;
    const auto ended = [&](alkn::EndTarget target, double keep_bound) {
      seen.clear();
      kept = 0;
      return run([&](auto& task, Model& model) {
        target.forget = [&] { return seen.emplace_back(-distance(model)); };
        target.keep = [&] { return ++kept, distance(model); };
        target.keep_bound = keep_bound;
        const auto report = task.end(target);
        CHECK(*report.forget_judged == -distance(model));
        CHECK(*report.keep_judged == distance(model));
        return report;
      });
    };
    const auto [report, weights, overlap] = ended({.forget_bound = -0.1, .max_lambda = 4}, 1e9);
    CHECK(report.target_met);
    CHECK(report.lambda > 0);
    CHECK(report.lambda < 2);
    CHECK(report.lambda_reduced);
    CHECK(*report.forget_judged <= -0.1);
    // doubled from 4 / 1024 until it is enough, then bisected
    const auto enough = std::find_if(seen.begin(), seen.end(), [](double v) { return v <= -0.1; });
    const auto doubled = static_cast<int>(enough - seen.begin());
    CHECK(report.lambda <= std::ldexp(4, doubled - 10));
    CHECK(report.lambda > std::ldexp(4, doubled - 11));
    CHECK(std::ssize(seen) == 2 * doubled);
    const double smallest = report.lambda;
    const auto [direct, same, same_overlap] =
        run([&](auto& task, Model&) { return task.end(smallest); });
    CHECK(same_bits(weights, same));
    CHECK(overlap == same_overlap);
    // the one below, which was judged as well, does not forget enough
    ignore(run([&](auto& task, Model& model) {
      auto below = task.end(smallest - 4.0 / 1024);
      CHECK(distance(model) < 0.1);
      return below;
    }));
    for (const int iterations : {5, 6, 7, 8}) {  // whichever candidate was the last
      const auto [again, again_weights, unused_again] =
          ended({.forget_bound = -0.1, .max_lambda = 4, .iterations = iterations}, 1e9);
      CHECK(again.target_met);
      CHECK(std::abs(again.lambda - smallest) <= 4 * std::pow(0.5, iterations));
    }
    // what is kept comes first: the largest lambda at which it holds
    const auto [held, held_weights, unused] = ended({.forget_bound = -0.1, .max_lambda = 4}, 0.05);
    CHECK_FALSE(held.target_met);
    CHECK(held.lambda > 0);
    CHECK(held.lambda < smallest);
    CHECK(*held.keep_judged <= 0.05);
    CHECK(*held.keep_judged > 0.045);
    // both change between two candidates: the lower one, at which it holds
    const auto [coarse, coarse_weights, unused_coarse] =
        ended({.forget_bound = -0.1, .max_lambda = 4, .iterations = 1}, 0.05);
    CHECK_FALSE(coarse.target_met);
    CHECK(coarse.lambda == 0);
    // broken by a large lambda, and judged as if it had not forgotten: still the smallest
    const auto [whole, whole_weights, unused_whole] = run([&](auto& task, Model& model) {
      return task.end({.forget = [&] { return distance(model) < 0.4 ? -distance(model) : 0; },
                       .forget_bound = -0.1,
                       .max_lambda = 64,
                       .iterations = 14});
    });
    CHECK(whole.target_met);
    CHECK(whole.lambda == smallest);
    // not met at max_lambda: all of it
    const auto [all, all_weights, unused_too] = ended({.forget_bound = -1e9, .max_lambda = 3}, 1e9);
    CHECK_FALSE(all.target_met);
    CHECK(all.lambda == 3);
    CHECK_FALSE(all.lambda_reduced);
    CHECK(seen.size() == 11);
    // forgotten from the start: 0
    const auto [none, none_weights, unused_three] = ended({.forget_bound = 0}, 1e9);
    CHECK(none.target_met);
    CHECK(none.lambda == 0);
    // forgotten from the start, and not kept even there
    const auto [lost, lost_weights, unused_four] = ended({.forget_bound = 0}, -1);
    CHECK_FALSE(lost.target_met);
    CHECK(lost.lambda == 0);
    // NaN is within no bound: of the forget set, as if never forgotten; of what is kept, 0
    const auto nan = [&](bool forget) {
      return std::get<0>(run([&](auto& task, Model&) {
        alkn::EndTarget target{.forget = [=] { return forget ? std::nan("") : 0.0; },
                               .keep = [=] { return forget ? 0.0 : std::nan(""); },
                               .max_lambda = 1};
        return task.end(target);
      }));
    };
    CHECK(nan(true).lambda == 1);
    CHECK_FALSE(nan(true).target_met);
    CHECK(nan(false).lambda == 0);
    CHECK_FALSE(nan(false).target_met);
  }
}

TEST_CASE("a target without a judge of what is kept, bad targets, and judges that throw") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type);
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::step(method, task, model);
  const auto tuned = everything(method);
  const auto error = [&](const alkn::EndTarget& target) {
    const std::string text = error_of([&] { ignore(task.end(target)); });
    CHECK(same_bits(everything(method), tuned));
    return text;
  };
  const auto fine = [] { return 0.0; };
  CHECK(error({}) == "alkn::TaskVector: expected a judge of the forget set, got none (end)");
  CHECK(error({.forget = fine, .forget_bound = std::nan("")}) ==
        "alkn::TaskVector: expected bounds that are numbers, got forget_bound nan and keep_bound 0 "
        "(end)");
  CHECK(error({.forget = fine, .max_lambda = 0}) ==
        "alkn::TaskVector: expected max_lambda in (0, 1e+30], got 0 (end)");
  CHECK(error({.forget = fine, .iterations = 0}) ==
        "alkn::TaskVector: expected iterations in [1, inf), got 0 (end)");
  for (const int good : {0, 3}) {
    int calls = 0;
    const auto ill = [&] {
      if (calls++ == good) throw std::runtime_error("the judge is ill");
      return 1.0;
    };
    CHECK(error({.forget = ill, .keep = [] { return 0.0; }}) == "the judge is ill");
    calls = 0;
    CHECK(error({.forget = [] { return 1.0; }, .keep = ill, .keep_bound = 1}) ==
          "the judge is ill");
  }
  CHECK(error({.forget = [&]() -> double { return method.step(), 0.0; }}) ==
        "alkn::TaskVector: expected a step outside the judge of end(), got it inside");
  CHECK(error({.forget = [&]() -> double {
          const auto scope = task.weights_at(1);
          return 0;
        }}) == "alkn::Task: expected weights_at() outside the judge of end(), got it inside");
  const auto report = task.end({.forget = fine, .forget_bound = 1});
  CHECK(report.target_met);
  CHECK(report.lambda == 0);
  CHECK_FALSE(report.keep_judged);
  CHECK(*report.forget_judged == 0);
}

TEST_CASE("a task of fewer than ten steps is said to be one, and a warm-up that takes them") {
  Model model;
  alkn::TaskVector<> method(model.params);
  using Warnings = std::vector<std::string>;
  const auto run = [&](std::int64_t announced, std::int64_t taken, std::int64_t warmup) {
    auto task = method.begin_task({.steps = announced});
    alkn::LinearSchedule schedule(method, warmup, announced);
    for (std::int64_t i = 0; i < taken; ++i) {
      tiny::step(method, task, model, i);  // another request each time: never by heart
      schedule.step();
    }
    return task.end().warnings;
  };
  CHECK(run(10, 10, 5) == Warnings());
  CHECK(run(10, 10, 6) ==
        Warnings{"the learning rate rose until step 7 of 10: a warm-up took more than half of the "
                 "steps"});
  CHECK(run(20, 11, 11) ==
        Warnings{"the learning rate rose until step 11 of 11: a warm-up took more than half of the "
                 "steps"});
  CHECK(run(10, 9, 0) ==
        Warnings{"9 steps, fewer than 10: they move little, and a schedule has no room in them"});
  CHECK(run(1, 1, 1) ==
        Warnings{"1 step, fewer than 10: they move little, and a schedule has no room in them",
                 "no step had a learning rate above 0: nothing was trained"});
  auto task = method.begin_task({.steps = 9});  // known before the first step
  CHECK(task.warnings() ==
        Warnings{"9 steps, fewer than 10: they move little, and a schedule has no room in them"});
  task.abandon();
  CHECK(error_of([&] { ignore(task.warnings()); }) ==
        "alkn::Task: expected warnings() during the task, got it after the task ended");
}

TEST_CASE("a forget loss that starts near 0 is said to be one, where a negation follows") {
  Model model;
  const tiny::Batch batch(0);
  const Tensor labels = batch.labels.clone();
  const auto logits = [&](double known) {  // the label's logit above all others
    const Tensor next = at::cat({labels.narrow(1, 1, 4), at::zeros({3, 1}, at::kLong)}, 1);
    const Tensor hot =
        at::zeros({3, 5, tiny::kVocabulary}).scatter_(2, next.clamp_min(0).unsqueeze(2), known);
    return hot.add(model.params[2].tensor.sum().mul(0));
  };
  const auto run = [&](auto& method, double first, double later) {
    auto task = method.begin_task({.steps = 10});
    for (int i = 0; i < 10; ++i) {
      method.zero_grad();
      const double known = i == 0 ? first : later;
      task.loss(batch.ids, logits(known), labels).backward();
      if (i == 1) CHECK(task.warnings().size() == (first > 5 ? 1U : 0U));
      tiny::set_gradients(model.params, i);
      method.step();
    }
    return task.end().warnings;
  };
  alkn::TaskVector<> vector(model.params);
  const auto warned = run(vector, 7.5, 1);
  REQUIRE(warned.size() == 1);
  CHECK(warned[0] ==
        "the forget loss starts at 0.0055, near 0: the samples are known by heart, or not at all, "
        "and loss and norm say nothing of what is forgotten; evaluate");
  CHECK(run(vector, 1, 9).empty());  // later losses are no start
  {
    auto task = vector.begin_task({.steps = 10});  // nor is the first one after a step
    tiny::set_gradients(model.params, 0);
    vector.step();
    CHECK(task.loss(batch.ids, logits(9), labels).item<double>() < 0.01);
    CHECK(task.warnings().empty());
    task.abandon();
  }
  alkn::GradientAscent<> ascent(model.params);  // starts from there
  auto task = ascent.begin_task({.steps = 10});
  CHECK(task.loss(batch.ids, logits(9), labels).item<double>() > -0.01);
  CHECK(task.warnings().empty());
}
