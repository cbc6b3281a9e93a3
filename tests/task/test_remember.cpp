// What an objective remembers of a task's samples, and its loss.
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::Batch, tiny::error_of, tiny::everything, tiny::ignore, tiny::Model, tiny::same_bits;

namespace {

/// Its batch is one tensor and the number of values that count in each sample.
struct SquaredValues {
  static constexpr const char* kName = "squared_values";
  static constexpr bool kRemembers = true;
  template <class Self>
  using Options = alkn::TokenNLL::Options<Self>;  // none
  static std::vector<Tensor> remember(const Tensor& values, const Tensor& counts) {
    std::vector<Tensor> all;
    for (std::int64_t b = 0; b < values.size(0); ++b) {
      all.push_back(values[b].narrow(0, 0, counts[b].item<std::int64_t>()).detach());
    }
    return all;
  }
  static Tensor token_counts(const Tensor&, const Tensor& counts) { return counts; }
  template <class MethodOptions>
  static Tensor loss(const MethodOptions&, const std::vector<Tensor>& memory, const Tensor& values,
                     const Tensor& counts) {
    Tensor sum = at::zeros({});
    for (std::int64_t b = 0; b < values.size(0); ++b) {
      const std::int64_t size = counts[b].item<std::int64_t>();
      sum = sum + (values[b].narrow(0, 0, size) - memory[static_cast<std::size_t>(b)])
                      .add(1)
                      .square()
                      .sum();
    }
    return sum;
  }
};

}  // namespace

TEST_CASE("the loss is taken against what was remembered before the first step") {
  Model model;
  alkn::NPO<> method(model.params);
  const Batch forget(tiny::kForget);
  auto task = method.begin_task({.steps = 1});
  task.remember(forget.ids, model.forward(forget.tokens), forget.labels);
  const auto loss = [&] {
    return task.loss(forget.ids, model.forward(forget.tokens), forget.labels);
  };
  const double before = loss().item<double>();  // the model is what was remembered
  CHECK(before == Approx(2 / 0.1 * std::log(2.0)));
  loss().backward();
  method.step();
  CHECK(loss().item<double>() < before);
}

TEST_CASE("what is remembered is keyed by sample and valid token, not by padding") {
  Model model;
  for (const bool preference : {false, true}) {
    const Batch batch(0);
    // the same sequences, padded to the right, in another order and in smaller batches
    const Tensor padded_tokens = at::cat({batch.tokens, at::zeros({3, 4}, at::kLong)}, 1)
                                     .index_select(0, at::tensor({2, 0, 1}));
    const Tensor padded_labels = at::cat({batch.labels, at::full({3, 4}, -100, at::kLong)}, 1)
                                     .index_select(0, at::tensor({2, 0, 1}));
    const Tensor padded_ids = batch.ids.index_select(0, at::tensor({2, 0, 1}));
    const auto check = [&](auto& method) {
      auto task = method.begin_task({.steps = 1});
      task.remember(padded_ids.narrow(0, 0, 1), model.forward(padded_tokens.narrow(0, 0, 1)),
                    padded_labels.narrow(0, 0, 1));
      task.remember(padded_ids.narrow(0, 1, 2), model.forward(padded_tokens.narrow(0, 1, 2)),
                    padded_labels.narrow(0, 1, 2));
      // another model, so that what was remembered matters
      Model later;
      {
        const at::NoGradGuard no_grad;
        later["head"].mul_(0.5);
      }
      const double direct =
          task.loss(batch.ids, later.forward(batch.tokens), batch.labels).template item<double>();
      const double padded = task.loss(padded_ids, later.forward(padded_tokens), padded_labels)
                                .template item<double>();
      CHECK(direct == Approx(padded).epsilon(1e-6));
      Model reference;
      auto options = method.method_options();
      typename std::remove_reference_t<decltype(method)> other(reference.params, options);
      auto plain = other.begin_task({.steps = 1});
      plain.remember(batch.ids, reference.forward(batch.tokens), batch.labels);
      CHECK(plain.loss(batch.ids, later.forward(batch.tokens), batch.labels)
                .template item<double>() == Approx(direct).epsilon(1e-6));
      // remembering again replaces
      plain.remember(batch.ids, later.forward(batch.tokens), batch.labels);
      CHECK(plain.loss(batch.ids, later.forward(batch.tokens), batch.labels)
                .template item<double>() != Approx(direct).epsilon(1e-6));
    };
    if (preference) {
      alkn::NPO<> method(model.params);
      check(method);
    } else {
      alkn::ALKN<> method(model.params);
      check(method);
    }
  }
}

TEST_CASE("another number of valid tokens, unknown ids and ids of another shape are errors") {
  Model model;
  alkn::ALKN<> method(model.params);
  Batch batch(0);
  auto task = method.begin_task({.steps = 1});
  const Tensor logits = model.forward(batch.tokens);
  task.remember(batch.ids, logits, batch.labels);
  const auto before = everything(method);
  const auto error = [&](const Tensor& ids, const Tensor& labels) {
    return error_of([&] { ignore(task.loss(ids, logits, labels)); });
  };
  Tensor fewer = batch.labels.clone();
  fewer[1][2].fill_(-100);
  CHECK(error(batch.ids, fewer) ==
        "alkn::Task: expected 4 valid tokens as remembered, got 3 (sample 1)");
  CHECK(error(batch.ids.add(1), batch.labels) ==
        "alkn::Task: expected 4 valid tokens as remembered, got 3 (sample 1)");
  CHECK(
      error(at::tensor({0, 1, 77}, at::kLong), batch.labels) ==
      "alkn::Task: expected a sample that was remembered before the first step, got an unknown id "
      "(sample 77)");
  CHECK(error(batch.ids.narrow(0, 0, 2), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Long [2]");
  CHECK(error(batch.ids.unsqueeze(1), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Long [3, 1]");
  CHECK(error(batch.ids.to(at::kInt), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Int [3]");
  CHECK(error(Tensor(), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got an undefined tensor");
  CHECK(error_of([&] { task.remember(batch.ids.narrow(0, 0, 2), logits, batch.labels); }) ==
        "alkn::Task: expected ids of Long [3], got Long [2]");
  CHECK(same_bits(everything(method), before));
}

TEST_CASE("logits and labels that do not fit") {
  Model model;
  alkn::ALKN<> method(model.params);
  const Batch batch(0);
  auto task = method.begin_task({.steps = 1});
  const Tensor logits = model.forward(batch.tokens).detach();
  task.remember(batch.ids, logits, batch.labels);
  const auto before = everything(method);
  // the same text from every entry
  const auto error = [&](const Tensor& x, const Tensor& labels) {
    const std::string text = error_of([&] { task.remember(batch.ids, x, labels); });
    CHECK(error_of([&] { ignore(alkn::mean_nll(x, labels)); }) == text);
    return text;
  };
  CHECK(error(logits, batch.labels.narrow(1, 0, 4)) ==
        "alkn::token_log_probability: expected labels of shape [3, 5], got [3, 4] (labels)");
  CHECK(error(logits, batch.labels.to(at::kInt)) ==
        "alkn::token_log_probability: expected labels of type Long, got Int (labels)");
  Tensor outside = batch.labels.clone();
  outside[2][3].fill_(11);
  CHECK(error(logits, outside) ==
        "alkn::token_log_probability: expected a label in [0, 11) or -100, got 11 (sample 2, "
        "position 3)");
  outside[2][3].fill_(-1);
  CHECK(error(logits, outside) ==
        "alkn::token_log_probability: expected a label in [0, 11) or -100, got -1 (sample 2, "
        "position 3)");
  Tensor nan = logits.clone();
  nan[1][2][4].fill_(std::nan(""));
  CHECK(
      error(nan, batch.labels) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 2)");
  CHECK(
      error_of([&] { ignore(task.loss(batch.ids, nan, batch.labels)); }) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 2)");
  CHECK(same_bits(everything(method), before));
}

TEST_CASE("a batch without a valid token has loss 0 and gradient 0") {
  Model model;
  const auto check = [&](auto& method) {
    const Batch batch(0);
    const Tensor none = at::full({3, 5}, -100, at::kLong);
    auto task = method.begin_task({.steps = 1});
    task.remember(batch.ids, model.forward(batch.tokens), none);
    if (task.wants_retain_gradient()) {
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), none));
    }
    method.zero_grad();
    const Tensor loss = task.loss(batch.ids, model.forward(batch.tokens), none);
    CHECK(loss.template item<double>() == 0);
    loss.backward();
    for (const auto& p : model.params) CHECK(p.tensor.grad().eq(0).all().template item<bool>());
    method.step();
    CHECK_FALSE(method.last_step().skipped);
    CHECK(method.last_step().grad_norm == 0);
  };
  alkn::ALKN<> a(model.params);
  check(a);
  alkn::NPO<> b(model.params);
  check(b);
  alkn::GradientAscent<> c(model.params);
  check(c);
}

TEST_CASE("an objective of one's own takes a batch of its own, and counts its own tokens") {
  const Tensor w = tiny::wave({2, 3}, 0.4).set_requires_grad(true);
  alkn::Unlearner<SquaredValues, alkn::NoMask, alkn::Keep> method(
      std::vector<alkn::NamedParameter>{{"w", w}});
  auto task = method.begin_task({.steps = 1});
  const Tensor ids = at::arange(2, at::kLong), counts = at::arange(2, at::kLong).add(1);
  task.remember(ids, w, counts);
  const Tensor loss = task.loss(ids, w, counts);
  CHECK(loss.item<double>() == Approx(3));  // 1 + 2 values that count, each (0 + 1)^2
  CHECK(error_of([&] { static_cast<void>(task.loss(ids, w, counts.sub(1))); }) ==
        "alkn::Task: expected 1 valid tokens as remembered, got 0 (sample 0)");
  loss.backward();
  CHECK(w.grad()[0][1].item<double>() == 0);
  CHECK(w.grad()[1][1].item<double>() == Approx(2));
}
