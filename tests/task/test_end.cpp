// The end of a task: negation by a lambda, or by what a judge says.

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::Batch, tiny::error_of, tiny::everything, tiny::ignore, tiny::Model, tiny::same_bits;

TEST_CASE("the end of a task walks lambda times the way of its steps, backwards") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const Tensor start = model["head"].detach().clone();
  auto task = method.begin_task({.steps = 1});
  tiny::step(method, task, model);
  const Tensor tuned = model["head"].detach().clone();
  const auto report = task.end(0.5);
  CHECK(report.lambda == 0.5);
  const Tensor want = start.sub(tuned.sub(start).mul(0.5));
  CHECK(tiny::distance(model["head"], want) < 1e-6);
}

TEST_CASE("end with another lambda") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
    const auto run = [&](std::optional<double> lambda, double negation) {
      Model model(type);
      alkn::TaskVector<> method(model.params,
                                alkn::TaskVectorOptions().negation(negation).backend(backend));
      auto task = method.begin_task({.steps = 2});
      for (int i = 0; i < 2; ++i) tiny::step(method, task, model);
      const auto report = lambda ? task.end(*lambda) : task.end();
      CHECK(report.lambda == lambda.value_or(negation));
      CHECK_FALSE(report.lambda_reduced);
      return model.copies();
    };
    CHECK(same_bits(run(0.3, 1), run({}, 0.3)));
    CHECK(same_bits(run(0.0, 1), Model(type).copies()));  // lambda 0: the weights of the start
    CHECK_FALSE(same_bits(run(0.3, 1), run({}, 1)));
  }
}

TEST_CASE("a judge finds the largest lambda within its bound, to the bit of end with that lambda") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
    const auto run = [&](auto&& finish) { return tiny::ended_by(type, backend, finish); };
    int calls = 0;
    std::vector<double> seen;
    const auto [reduced, weights, overlap] = run([&](auto& task, Model& model) {
      // the largest distance from the start grows with lambda
      const auto distance = [&] { return tiny::distance(model["head"], Model(type)["head"]); };
      const auto report = task.end(
          [&] {
            ++calls;
            seen.push_back(distance());
            return seen.back();
          },
          0.1, 12);
      CHECK(distance() <= 0.1);
      return report;
    });
    CHECK(reduced.lambda_reduced);
    CHECK(reduced.lambda > 0);
    CHECK(reduced.lambda < 2);
    CHECK(calls == 13);
    CHECK(seen.front() > 0.1);
    CHECK(seen[1] == Approx(seen.front() / 2).epsilon(0.02));  // halfway
    const auto [direct, same, same_overlap] =
        run([&](auto& task, Model&) { return task.end(reduced.lambda); });
    CHECK(same_bits(weights, same));
    CHECK(overlap == same_overlap);
    CHECK(direct.fraction_trained == reduced.fraction_trained);
    // the next of the 2^12 steps to lambda_t, which was judged as well, passes the bound
    const auto [above, farther, unused] = run([&](auto& task, Model& model) {
      auto report = task.end(reduced.lambda + 2.0 / 4096);
      CHECK(tiny::distance(model["head"], Model(type)["head"]) > 0.1);
      return report;
    });
    // a bound that holds: the whole lambda, asked once
    calls = 0;
    const auto [whole, full, unused_too] =
        run([&](auto& task, Model&) { return task.end([&] { return ++calls, 0.0; }, 0.0); });
    CHECK(whole.lambda == 2);
    CHECK_FALSE(whole.lambda_reduced);
    CHECK(calls == 1);
    const auto [plain, expected, unused_three] =
        run([&](auto& task, Model&) { return task.end(); });
    CHECK(same_bits(full, expected));
    // NaN is within no bound; nor is anything: lambda 0, the weights of the start
    const auto [never, untouched, unused_four] = run([&](auto& task, Model& model) {
      auto report = task.end([&] { return std::nan(""); }, 1e9);
      CHECK(same_bits(model.copies(), Model(type).copies()));
      return report;
    });
    CHECK(never.lambda == 0);
    CHECK(never.lambda_reduced);
  }
}

TEST_CASE("a judge that throws leaves the task going") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type), twin(type);
  alkn::ALKN<> method(model.params), undisturbed(twin.params);
  auto task = method.begin_task({.steps = 4});
  auto same = undisturbed.begin_task({.steps = 4});
  tiny::prepare(task, model);
  tiny::prepare(same, twin);
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  const auto tuned = everything(method);
  for (const int good : {0, 3}) {
    int calls = 0;
    CHECK(error_of([&] {
            ignore(task.end(
                [&]() -> double {
                  if (calls++ == good) throw std::runtime_error("the judge is ill");
                  return 2;
                },
                1));
          }) == "the judge is ill");
    CHECK(same_bits(everything(method), tuned));
  }
  CHECK(error_of([&] { ignore(task.end(std::function<double()>(), 1.0)); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got no judge, bound 1 "
        "and 10 iterations (end)");
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, std::nan(""))); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got a judge, bound nan "
        "and 10 iterations (end)");
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, 1.0, 0)); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got a judge, bound 1 "
        "and 0 iterations (end)");
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  task.end();
  same.end();
  CHECK(same_bits(everything(method), everything(undisturbed)));
}

TEST_CASE("a judge may look, but not act") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions().retain_term(alkn::RetainTerm::nll));
  auto task = method.begin_task({.steps = 3});
  tiny::prepare(task, model);
  tiny::step(method, task, model);
  const Batch batch(0);
  int calls = 0;
  task.end(
      [&] {
        ++calls;
        const Tensor logits = model.forward(batch.tokens);
        const auto inside = [](const std::string& call) {
          return "alkn::Task: expected " + call + " outside the judge of end(), got it inside";
        };
        CHECK(error_of([&] { task.abandon(); }) == inside("abandon()"));
        CHECK(error_of([&] { ignore(task.end()); }) == inside("end()"));
        CHECK(error_of([&] { ignore(task.end(1.0)); }) == inside("end()"));
        CHECK(error_of([&] { task.remember(batch.ids, logits, batch.labels); }) ==
              inside("remember()"));
        CHECK(error_of([&] { method.step(); }) ==
              "alkn::ALKN: expected a step outside the judge of end(), got it inside");
        CHECK(task.loss(batch.ids, logits, batch.labels).item<double>() > 0);
        return task.retain_loss(logits, batch.labels).item<double>();
      },
      1e9);
  CHECK(calls == 1);
  CHECK(method.num_tasks() == 1);
}

TEST_CASE("a judge is asked under the conditions of end, and reports only in a task") {
  Model model;
  alkn::ALKN<> method(model.params);
  CHECK(error_of([&] { static_cast<void>(method.last_tensors()); }) ==
        "alkn::ALKN: expected last_tensors() during a task, got none running");
  CHECK(error_of([&] { static_cast<void>(method.last_step()); }) ==
        "alkn::ALKN: expected last_step() during a task, got none running");
  auto task = method.begin_task({.steps = 2});
  int calls = 0;
  const auto judge = [&] { return ++calls, 0.0; };
  CHECK(error_of([&] { task.end(judge, 1.0); }) ==
        "alkn::ALKN: expected at least one step before end(), got none; abandon() leaves all as it "
        "was (task 0)");
  tiny::prepare(task, model);
  tiny::step(method, task, model);
  {
    const auto scope = task.start_weights();
    CHECK(error_of([&] { task.end(judge, 1.0); }) ==
          "alkn::ALKN: expected the fine-tuned weights in the model, got end() inside the scope of "
          "start_weights()");
  }
  CHECK(calls == 0);  // nor are weights tried that it would have judged
  const auto before = everything(method);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double lambda : {-1.0, nan, 1e300, std::numeric_limits<double>::infinity()}) {
    CHECK(error_of([&] { task.end(lambda); }) ==
          fmt::format("alkn::ALKN: expected lambda in [0, 1e+30], got {} (end)", lambda));
  }
  CHECK(same_bits(everything(method), before));
  task.end();
}
