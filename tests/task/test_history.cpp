// What tasks leave to those after them, and what they report.
#include <alkn/tensor/bits.hpp>

#include <cmath>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::Model, tiny::same_bits;

namespace {

/// The negative log-likelihood of a batch, without a graph.
double nll_of(const Model& model, const Batch& batch) {
  const at::NoGradGuard no_grad;
  return alkn::mean_nll(model.forward(batch.tokens), batch.labels).item<double>();
}

}  // namespace

TEST_CASE("a second task knows what the first one trained") {
  Model model;
  alkn::ALKN<> method(model.params);
  const auto first = tiny::unlearn(method, model, 2, 0);
  const auto second = tiny::unlearn(method, model, 2, 1);
  CHECK(first.overlap == 0);
  CHECK(second.overlap > 0);
  CHECK(second.task == 1);
}

TEST_CASE("the report has the numbers of the task") {
  for (const Backend backend : tiny::kBackends) {
    Model model;
    alkn::ALKN<> method(
        model.params,
        alkn::ALKNOptions().backend(backend).negation(0.5).negation_decay(0.5).max_norm(0.01));
    std::vector<Tensor> used(4);
    for (int t = 0; t < 3; ++t) {
      auto task = method.begin_task({.steps = 3});
      tiny::prepare(task, model, t);
      for (int i = 0; i < 3; ++i) {
        tiny::step(method, task, model, t);
        const auto& last = method.last_step();
        CHECK(last.task == t);
        CHECK(last.step == i);
        double squares = 0;
        for (const auto& p : model.params) {
          squares += p.tensor.grad().to(at::kDouble).square().sum().item<double>();
        }
        CHECK(last.grad_norm == Approx(std::sqrt(squares)).epsilon(1e-6));
        CHECK(last.clip_scale == Approx(0.01 / (std::sqrt(squares) + 1e-6)).epsilon(1e-6));
        CHECK(last.clip_scale < 1);
      }
      std::vector<Tensor> masks;
      double on = 0, again = 0, all = 0;
      for (const auto& p : core_of(method).parameters()) {
        masks.push_back(alkn::detail::unpack_bits(p.mask, p.shape));
      }
      const double last_fraction = method.last_step().fraction_trained;
      const double last_scale = method.last_step().clip_scale;
      const auto report = task.end();
      CHECK(report.task == t);
      CHECK(report.steps == 3);
      CHECK(report.skipped_steps == 0);
      CHECK(report.lambda == 0.5 * std::pow(0.5, t));
      CHECK_FALSE(report.lambda_reduced);
      REQUIRE(report.tensors.size() == 4);
      for (std::size_t i = 0; i < 4; ++i) {
        const auto& row = report.tensors[i];
        const auto& p = core_of(method).parameters()[i];
        const auto count = masks[i].sum().item<double>();
        const auto both =
            used[i].defined() ? masks[i].logical_and(used[i]).sum().item<double>() : 0.0;
        CHECK(row.name == model.params[i].name);
        CHECK(row.size == p.param.numel());
        CHECK(row.fraction_trained == count / static_cast<double>(row.size));
        CHECK(row.overlap == (count > 0 ? both / count : 0));
        CHECK(row.threshold.has_value() == (row.size >= 10));
        if (row.threshold) CHECK(row.threshold.value() == p.threshold.value());
        used[i] = used[i].defined() ? used[i].logical_or(masks[i]) : masks[i];
        CHECK(same_bits(alkn::detail::unpack_bits(p.used, p.shape), used[i]));
        on += count;
        again += both;
        all += static_cast<double>(row.size);
      }
      CHECK(report.fraction_trained == on / all);
      CHECK(report.fraction_trained == last_fraction);
      CHECK(report.clip_scale == last_scale);
      CHECK(report.overlap == again / on);
      if (t > 0) CHECK(report.overlap > 0);
    }
  }
}

TEST_CASE("five tasks in a row forget their requests and keep their history") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-2));
  for (std::int64_t t = 0; t < 5; ++t) {
    const Batch request(t);
    const double before = nll_of(model, request);
    const auto report = tiny::unlearn(method, model, 5, t);
    CHECK(nll_of(model, request) > before);
    CHECK(report.task == t);
  }
  CHECK(method.num_tasks() == 5);
  CHECK(method.state().empty());
}

TEST_CASE("a tensor without a gradient in the last step is reported as not trained") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::step(method, task, model);
  method.zero_grad();
  model["bias"].mutable_grad() = at::ones({6});
  method.step();
  CHECK(method.last_tensors()[2].fraction_trained == 1);
  CHECK(method.last_tensors()[3].fraction_trained == 0);
  const auto report = task.end();
  CHECK(report.tensors[2].fraction_trained == 1);
  CHECK(report.tensors[0].fraction_trained == 0);
}
