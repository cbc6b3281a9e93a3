// Logits of the answer rows alone: everything that takes the logits of all positions gives the same
// bits.
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <alkn/objective/entropic_soft_labels.hpp>
#include <alkn/objective/logit_rows.hpp>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/negated_token_nll.hpp>
#include <alkn/objective/negative_preference.hpp>
#include <alkn/objective/retain_kl.hpp>
#include <alkn/objective/retain_kl_rows.hpp>
#include <alkn/objective/token_log_probability_aten.hpp>
#include <alkn/objective/token_nll.hpp>
#include <string>
#include <vector>

#include "catch.hpp"
#include "support.hpp"

namespace {

using at::Tensor;
using namespace support;
using alkn::answer_rows;

struct SoftOptions : alkn::EntropicSoftLabels::Options<SoftOptions> {};
struct PreferenceOptions : alkn::NegativePreference::Options<PreferenceOptions> {};
struct NoOptions : alkn::TokenNLL::Options<NoOptions> {};

Tensor gathered(const Tensor& logits, const Tensor& label) {
  return logits.flatten(0, 1).index_select(0, answer_rows(label));
}

struct Result {
  Tensor value, grad;
};

template <class F>
Result result_of(const Tensor& logits, F&& f) {
  const Tensor x = leaf(logits);
  const Tensor y = f(x);
  // a slope of its own for every entry
  y.mul(noise(y.sizes(), 1, 5).to(y.scalar_type())).sum().backward();
  return {y.detach(), x.grad()};
}

/// f of all logits and f of the rows that count: the same value, the same gradient where it counts.
template <class F>
void check_same(const Tensor& logits, const Tensor& label, F&& f) {
  const Result whole = result_of(logits, f);
  const Result rows = result_of(gathered(logits, label), f);
  CHECK(at::equal(rows.value, whole.value));
  CHECK(rows.value.scalar_type() == whole.value.scalar_type());
  CHECK(at::equal(rows.grad, gathered(whole.grad, label)));
}

/// Every loss of the library, with what it remembers taken in the same form as its logits.
void check_losses(const Tensor& x, const Tensor& ref, const Tensor& label) {
  const auto like = [&](const Tensor& l) { return l.dim() == 2 ? gathered(ref, label) : ref; };
  check_same(x, label, [&](const Tensor& l) { return alkn::token_log_probability(l, label); });
  check_same(x, label, [&](const Tensor& l) { return alkn::mean_nll(l, label); });
  check_same(x, label, [&](const Tensor& l) { return alkn::sequence_nll(l, label); });
  check_same(x, label, [&](const Tensor& l) { return alkn::retain_kl(l, like(l), label); });
  const auto check_objective = [&]<class Objective, class Options>(Objective,
                                                                   const Options& options) {
    check_same(x, label, [&](const Tensor& l) {
      return Objective::loss(options, Objective::remember(like(l), label), l, label);
    });
  };
  check_objective(alkn::TokenNLL(), NoOptions());
  check_objective(alkn::NegatedTokenNLL(), NoOptions());
  check_objective(alkn::EntropicSoftLabels(), SoftOptions());
  check_objective(alkn::NegativePreference(), PreferenceOptions());
}

}  // namespace

TEST_CASE("answer rows: the positions whose next label counts") {
  const Tensor label = labels({-100, -100, 3, 1, 5, -100, 2, 0, 4, -100});
  CHECK(at::equal(answer_rows(label), at::tensor({1, 2, 3, 5, 6, 7}, at::kLong)));
  // the first label is predicted by nothing, the last position predicts nothing
  CHECK(at::equal(answer_rows(labels({1, -100, 2, 5, 4, -100})), at::tensor({1, 3}, at::kLong)));
  CHECK(answer_rows(at::full({2, 3}, -100, at::kLong)).sizes() == at::IntArrayRef({0}));
  CHECK(answer_rows(at::zeros({3, 1}, at::kLong)).sizes() == at::IntArrayRef({0}));
  CHECK(error_of([] { answer_rows(at::zeros({3}, at::kLong)); }) ==
        "alkn::answer_rows: expected labels of shape [B, T] with T >= 1, got [3] (labels)");
}

TEST_CASE("answer rows: every loss and gradient has the bits of the whole") {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    for (const std::int64_t vocabulary : {1, 6, 65, 5003}) {
      const Tensor x = noise({5, 13, vocabulary}, 6, 1).to(type);
      const Tensor ref = noise({5, 13, vocabulary}, 6, 2).to(type);
      CAPTURE(type, vocabulary);
      check_losses(x, ref, some_labels(5, 13, vocabulary));
      Tensor label = some_labels(5, 13, vocabulary);
      label[0].fill_(-100);
      label[3].fill_(-100);
      label[4][12] = 0;
      check_losses(x, ref, label);
    }
  }
}

TEST_CASE("answer rows: none at all") {
  const Tensor x = forget_logits();
  check_losses(x, forget_reference(), at::full({2, 5}, -100, at::kLong));
  check_losses(x.narrow(1, 0, 1), forget_reference().narrow(1, 0, 1), at::zeros({2, 1}, at::kLong));
  check_losses(x.narrow(0, 0, 0), x.narrow(0, 0, 0), at::zeros({0, 5}, at::kLong));
}

TEST_CASE("answer rows: the plain path of other devices has the bits of the whole too") {
  const Tensor label = some_labels(5, 13, 5003);
  const Tensor x = noise({5, 13, 5003}, 6, 1).to(at::kFloat),
               ref = noise(x.sizes(), 6, 2).to(at::kFloat);
  const auto both = [&](const Tensor& given, const Tensor& reference) {
    const alkn::detail::LogitRows rows(given, label);
    const auto wide = given.options();
    const Tensor log_p = at::zeros(rows.next.sizes(), wide), kl = at::zeros_like(log_p);
    const Tensor stats = at::zeros({2, rows.next.size(0), rows.next.size(1)}, wide);
    alkn::detail::aten_log_probability(rows.logits, rows.next, log_p, stats);
    alkn::detail::aten_divergence(rows.logits, alkn::detail::as_rows(reference), rows.next, kl);
    const Tensor slope = rows.to_rows(noise({5, 12}, 1, 3).to(at::kFloat));
    const Tensor grad = at::zeros_like(given), kl_grad = at::zeros_like(given);
    alkn::detail::aten_gradient(rows.logits, rows.next, slope, stats, alkn::detail::as_rows(grad));
    alkn::detail::aten_divergence_gradient(rows.logits, alkn::detail::as_rows(reference), rows.next,
                                           slope, alkn::detail::as_rows(kl_grad));
    return std::vector<Tensor>{rows.to_positions(log_p), rows.to_positions(kl), grad, kl_grad};
  };
  const auto whole = both(x, ref), part = both(gathered(x, label), gathered(ref, label));
  CHECK(at::equal(part[0], whole[0]));
  CHECK(at::equal(part[1], whole[1]));
  CHECK(at::equal(part[2], gathered(whole[2], label)));
  CHECK(at::equal(part[3], gathered(whole[3], label)));
}

TEST_CASE("answer rows: the logits, their gradient, and nothing else of their size") {
  const Tensor label = some_labels(4, 96, 2048);
  const Tensor x = leaf(gathered(noise({4, 96, 2048}, 4, 1).to(at::kFloat), label));
  const auto bytes = static_cast<std::int64_t>(x.nbytes());
  const AllocationCounter counter;
  alkn::mean_nll(x, label).backward();
  CHECK(counter.peak() >= bytes);
  CHECK(counter.peak() < bytes + bytes / 50);
}

TEST_CASE("answer rows: the labels of a batch may be written over before the backward pass") {
  const Tensor label = forget_labels(), x = leaf(gathered(forget_logits(), label));
  const Tensor y = alkn::mean_nll(x, label);
  label.fill_(-100);
  y.backward();
  CHECK(at::equal(x.grad(), gathered(gradient(forget_logits(),
                                              [](const Tensor& l) {
                                                return alkn::mean_nll(l, forget_labels());
                                              }),
                                     forget_labels())));
}

TEST_CASE("answer rows: bad input") {
  const Tensor label = forget_labels(), x = gathered(forget_logits(), label);
  const auto error = [&](const Tensor& l) { return error_of([&] { alkn::mean_nll(l, label); }); };
  CHECK(error(x) == "nothing was thrown");
  CHECK(error(x.narrow(0, 0, 5)) ==
        "alkn::token_log_probability: expected logits of 6 rows, as many as labels that count, got "
        "[5, 6] (logits)");
  CHECK(error(at::cat({x, x})) ==
        "alkn::token_log_probability: expected logits of 6 rows, as many as labels that count, got "
        "[12, 6] (logits)");
  Tensor bad = x.clone();
  bad[4][2] = std::nan("");  // of the second sample, position 1
  CHECK(
      error(bad) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 1)");
  CHECK(error_of([&] { alkn::retain_kl(x, bad, label); }) ==
        "alkn::retain_kl: expected reference logits with a finite log-sum-exp, got nan (sample 1, "
        "position 1)");
  CHECK(error_of([&] { alkn::retain_kl(x, forget_logits(), label); }) ==
        "alkn::retain_kl: expected reference logits of shape [6, 6], got [2, 5, 6] "
        "(reference_logits)");
}

TEST_CASE("answer rows: where a check would wait for the device, a wrong number makes all NaN") {
  const Tensor label = forget_labels(), x = gathered(forget_logits(), label);
  for (const Tensor& wrong : {x.narrow(0, 0, 5), at::cat({x, x}), x.narrow(0, 0, 0)}) {
    const alkn::detail::LogitRows rows(wrong, label);
    CHECK(rows.next.sizes() == at::IntArrayRef({1, wrong.size(0)}));
    const Tensor values = rows.to_positions(at::zeros(rows.next.sizes(), at::kFloat));
    CHECK(values.sizes() == at::IntArrayRef({2, 4}));
    CHECK(values.isnan().all().item<bool>());
    CHECK(rows.to_rows(at::zeros({2, 4}, at::kFloat)).isnan().all().item<bool>());
  }
}
