// token_log_probability against log_softmax and gather, in every type, on both paths.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_make_dual.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <alkn/kernel/simd/dispatch.hpp>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/retain_kl.hpp>
#include <alkn/objective/token_log_probability.hpp>
#include <alkn/objective/token_log_probability_aten.hpp>
#include <alkn/objective/token_log_probability_cpu.hpp>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "support.hpp"

namespace {

using at::Tensor;
using namespace support;

const double kInfinity = std::numeric_limits<double>::infinity();

/// Both passes of one path.
struct Result {
  Tensor log_p, grad;
};

Result fused(const Tensor& logits, const Tensor& label, const Tensor& weight) {
  const Tensor x = leaf(logits);
  const Tensor log_p = alkn::token_log_probability(x, label);
  log_p.mul(weight.to(log_p.scalar_type())).sum().backward();
  return {log_p.detach(), x.grad()};
}

Result plain(const Tensor& logits, const Tensor& label, const Tensor& weight) {
  const Tensor x = leaf(logits);
  const Tensor log_p = plain_log_probability(x, label);
  log_p.mul(weight.to(log_p.scalar_type())).sum().backward();
  return {log_p.detach(), x.grad()};
}

/// What other devices run, here on the CPU.
Result aten(const Tensor& logits, const Tensor& label, const Tensor& weight) {
  const Tensor next = alkn::detail::next_labels(label);
  const auto wide = logits.options().dtype(alkn::detail::wide_type(logits.scalar_type()));
  const Tensor log_p = at::zeros(next.sizes(), wide);
  const Tensor stats = at::zeros({2, next.size(0), next.size(1)}, wide);
  alkn::detail::aten_log_probability(logits, next, log_p, stats);
  const Tensor grad = at::full(logits.sizes(), 7, logits.options());
  const Tensor none = at::full({next.size(0), 1}, 5, wide);
  alkn::detail::aten_gradient(logits, next, at::cat({weight.to(wide), none}, 1), stats, grad);
  return {log_p.narrow(1, 0, next.size(1) - 1), grad};
}

struct Case {
  Tensor logits, label, weight;
  Case(std::int64_t b, std::int64_t t, std::int64_t v, double scale, std::uint64_t seed = 1)
      : logits(noise({b, t, v}, scale, seed)),
        label(some_labels(b, t, v)),
        weight(noise({b, t - 1}, 1, seed + 1)) {}
};

std::string error(const Tensor& logits, const Tensor& label) {
  return error_of([&] { alkn::token_log_probability(logits, label); });
}

}  // namespace

TEST_CASE("token_log_probability: double, against log_softmax and gather") {
  for (const auto& c :
       {Case(2, 5, 6, 3), Case(3, 2, 1, 3), Case(1, 9, 1000, 20), Case(4, 3, 65, 300)}) {
    const Result reference = plain(c.logits, c.label, c.weight);
    for (const Result& ours :
         {fused(c.logits, c.label, c.weight), aten(c.logits, c.label, c.weight)}) {
      REQUIRE(ours.log_p.sizes() == reference.log_p.sizes());
      CHECK(ours.log_p.scalar_type() == at::kDouble);
      CHECK(ours.grad.scalar_type() == at::kDouble);
      CHECK(largest_difference(ours.log_p, reference.log_p) < 1e-12);
      CHECK(largest_difference(ours.grad, reference.grad) < 1e-14);
    }
  }
}

TEST_CASE("token_log_probability: low precision is at most twice as far from double as LibTorch") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const auto& c : {Case(4, 33, 50, 2), Case(4, 33, 4097, 8), Case(2, 9, 32000, 12),
                          Case(4, 17, 512, 1000), Case(1, 3, 1 << 18, 10)}) {
      const Tensor x = c.logits.to(type);
      const Result exact = plain(x.to(at::kDouble), c.label, c.weight.to(at::kFloat));
      // the unfused version in float, whose gradient is rounded to the type of the logits
      const Result unfused = plain(x.to(at::kFloat), c.label, c.weight);
      const double unfused_grad = largest_difference(unfused.grad.to(type), exact.grad);
      const double unfused_value = largest_difference(unfused.log_p, exact.log_p);
      CAPTURE(type, c.logits.sizes(), unfused_value, unfused_grad);
      for (const Result& ours : {fused(x, c.label, c.weight), aten(x, c.label, c.weight)}) {
        CHECK(ours.log_p.scalar_type() == at::kFloat);
        CHECK(ours.grad.scalar_type() == type);
        CHECK(largest_difference(ours.log_p, exact.log_p) <= 2 * unfused_value);
        CHECK(largest_difference(ours.grad, exact.grad) <= 2 * unfused_grad);
      }
    }
  }
}

TEST_CASE(
    "token_log_probability: -100 is exactly 0 in value and gradient, and its row is not read") {
  Case c(3, 7, 40, 4);
  const Tensor next = alkn::detail::next_labels(c.label);
  const Tensor x = c.logits.to(at::kFloat);
  const Result clean = fused(x, c.label, c.weight);
  const Tensor dirty_logits = x.clone();
  dirty_logits.masked_fill_(next.eq(-100).unsqueeze(-1), std::nan(""));
  const Result dirty = fused(dirty_logits, c.label, c.weight);
  CHECK(at::equal(clean.log_p, dirty.log_p));
  CHECK(at::equal(clean.grad, dirty.grad));
  CHECK(dirty.log_p.eq(0).eq(next.narrow(1, 0, 6).eq(-100)).all().item<bool>());
  CHECK(dirty.grad.eq(0).all(-1).eq(next.eq(-100)).all().item<bool>());
  CHECK(at::equal(next, at::cat({c.label.narrow(1, 1, 6), at::full({3, 1}, -100, at::kLong)}, 1)));
  const Result other = aten(dirty_logits, c.label, c.weight);
  CHECK(other.log_p.eq(0).eq(next.narrow(1, 0, 6).eq(-100)).all().item<bool>());
  CHECK(other.grad.eq(0).all(-1).eq(next.eq(-100)).all().item<bool>());
}

TEST_CASE("token_log_probability: extreme logits") {
  const Tensor x = noise({2, 6, 30}, 3, 1).to(at::kFloat);
  Tensor label = some_labels(2, 6, 30);
  x.select(2, 3).fill_(1e4);
  x.select(2, 4).fill_(-1e4);
  x.select(2, 5).fill_(-kInfinity);
  label = label.masked_fill(label.eq(5), 6);
  const Tensor weight = at::full({2, 5}, 1., at::kFloat);
  const Result exact = plain(x.to(at::kDouble), label, weight);
  for (const Result& ours : {fused(x, label, weight), aten(x, label, weight)}) {
    CHECK(ours.log_p.isfinite().all().item<bool>());
    CHECK(ours.grad.isfinite().all().item<bool>());
    CHECK(largest_difference(ours.log_p, exact.log_p) <= 1e-3);
    CHECK(largest_difference(ours.grad, exact.grad) <= 1e-7);
  }
  // a label that the model rules out: log p is -inf, its gradient is still a number
  label[0][3] = 5;
  for (const Result& ours : {fused(x, label, weight), aten(x, label, weight)}) {
    CHECK(ours.log_p[0][2].item<double>() == -kInfinity);
    CHECK(ours.grad.isfinite().all().item<bool>());
    CHECK(ours.grad[0][2][5].item<double>() == 1);
  }
}

TEST_CASE("token_log_probability: any strides, and nothing is written to the logits") {
  Case c(3, 5, 70, 4);
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf}) {
    const Tensor x = c.logits.to(type);
    const Result dense = fused(x, c.label, c.weight);
    const Tensor swapped = x.transpose(0, 1).contiguous().transpose(0, 1);
    const Tensor scattered = x.permute({2, 0, 1}).contiguous().permute({1, 2, 0});
    const Tensor shifted = at::zeros({3, 6, 73}, type).narrow(1, 1, 5).narrow(2, 3, 70);
    shifted.copy_(x);
    for (const Tensor& view : {swapped, scattered, shifted, x.narrow(0, 0, 1).expand({3, 5, 70})}) {
      const Tensor before = view.clone();
      const Tensor variable =
          view.detach().requires_grad_(true);  // no copy: a leaf with these strides
      const Tensor log_p = alkn::token_log_probability(variable, c.label);
      log_p.mul(c.weight.to(log_p.scalar_type())).sum().backward();
      CHECK(at::equal(view, before));
      if (view.stride(0) == 0) continue;
      CHECK(at::equal(log_p, dense.log_p));
      CHECK(at::equal(variable.grad(), dense.grad));
    }
  }
}

TEST_CASE("token_log_probability: positions that do not exist") {
  const Tensor one = leaf(at::zeros({3, 1, 8}, at::kFloat));
  const Tensor log_p = alkn::token_log_probability(one, at::zeros({3, 1}, at::kLong));
  CHECK(log_p.sizes() == at::IntArrayRef({3, 0}));
  log_p.sum().backward();
  CHECK(one.grad().abs().sum().item<double>() == 0);
  const Tensor none = leaf(at::zeros({0, 4, 8}, at::kFloat));
  const Tensor nothing = alkn::token_log_probability(none, at::zeros({0, 4}, at::kLong));
  CHECK(nothing.sizes() == at::IntArrayRef({0, 3}));
  nothing.sum().backward();
  CHECK(none.grad().sizes() == none.sizes());
  const Case c(2, 1, 8, 1);
  CHECK(aten(c.logits, c.label, c.weight).grad.abs().sum().item<double>() == 0);
}

TEST_CASE("token_log_probability: the same bits for any number of threads and instruction set") {
  const int threads = at::get_num_threads();
  const auto level = alkn::kernel::simd_level();
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const Case c(5, 13, 5003, 6);
    const Tensor x = c.logits.to(type);
    at::set_num_threads(1);
    const Result one = fused(x, c.label, c.weight);
    for (const int number : {2, 3, 8}) {
      at::set_num_threads(number);
      const Result many = fused(x, c.label, c.weight);
      CHECK(at::equal(one.log_p, many.log_p));
      CHECK(at::equal(one.grad, many.grad));
    }
    for (const auto other : {alkn::kernel::SimdLevel::scalar, alkn::kernel::SimdLevel::avx2}) {
      if (!alkn::kernel::simd_supported(other)) continue;
      alkn::kernel::set_simd_level(other);
      const Result again = fused(x, c.label, c.weight);
      alkn::kernel::set_simd_level(level);
      CHECK(at::equal(one.log_p, again.log_p));
      CHECK(at::equal(one.grad, again.grad));
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("token_log_probability, retain_kl: no denormal gradient, whatever the caller's mode is") {
  // probabilities of 1e-30 and less; a weight of 1e-4 takes the gradients below 2^-126
  const Tensor logits = noise({2, 7, 4999}, 43, 3), reference = noise({2, 7, 4999}, 43, 4);
  const Tensor label = some_labels(2, 7, 4999), weight = at::full({2, 6}, 1e-4, at::kDouble);
  const bool before = at::globalContext().setFlushDenormal(false);
  const auto gradients = [&](at::ScalarType type) {
    const Tensor x = leaf(logits.to(type));
    alkn::retain_kl(x, reference.to(type), label).mul(1e-4).backward();
    return at::cat({fused(logits.to(type), label, weight).grad, x.grad()});
  };
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    at::globalContext().setFlushDenormal(false);
    const Tensor grad = gradients(type);
    const Tensor wide = grad.to(at::kDouble).abs();
    const double smallest = std::numeric_limits<float>::min();
    CHECK(wide.gt(0).logical_and(wide.lt(smallest)).sum().item<std::int64_t>() == 0);
    CHECK(wide.gt(0).logical_and(wide.lt(1e-33)).sum().item<std::int64_t>() > 100);
    at::globalContext().setFlushDenormal(true);
    const Tensor again = gradients(type);
    at::globalContext().setFlushDenormal(false);
    CHECK(at::equal(again, grad));
  }
  CHECK(before);
  const volatile float tiny = 1e-40F;  // this thread computes with denormals again
  CHECK(tiny * 0.5F > 0);
}

TEST_CASE("token_log_probability: one tensor of the size of the logits, the gradient") {
  const Case c(4, 32, 2048, 4);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Tensor x = leaf(c.logits.to(type));
    const auto bytes = static_cast<std::int64_t>(x.nbytes());
    {
      const AllocationCounter counter;
      const at::NoGradGuard no_grad;
      alkn::token_log_probability(x, c.label);
      CHECK(counter.peak() > 0);
      CHECK(counter.peak() < bytes / 50);
    }
    const AllocationCounter counter;
    alkn::token_log_probability(x, c.label).sum().backward();
    CHECK(counter.peak() >= bytes);
    CHECK(counter.peak() < bytes + bytes / 50);
  }
  // the counter sees what the plain version takes
  const Tensor x = leaf(c.logits);
  const AllocationCounter counter;
  plain_log_probability(x, c.label).sum().backward();
  CHECK(counter.peak() > 2 * static_cast<std::int64_t>(x.nbytes()));
}

TEST_CASE("token_log_probability: a large gradient, written past the caches, is the same") {
  const Case c(1, 40, 1 << 18, 6);
  const Tensor x = c.logits.to(at::kFloat);
  const Result whole = fused(x, c.label, c.weight);
  CHECK(alkn::detail::exceeds_cache(whole.grad));
  for (const std::int64_t t : {0, 1, 17, 38}) {
    const Tensor part = x.narrow(1, t, 2);
    const Result row = fused(part, c.label.narrow(1, t, 2), c.weight.narrow(1, t, 1));
    CHECK(at::equal(row.grad[0][0], whole.grad[0][t]));
  }
  CHECK(whole.grad[0][39].abs().max().item<double>() == 0);
}

TEST_CASE("token_log_probability: what autograd asks for") {
  const Case c(2, 4, 9, 2);
  const Tensor x = leaf(c.logits);
  const Tensor log_p = alkn::token_log_probability(x, c.label);
  const auto grad = [&](const Tensor& y, bool retain, bool create) {
    return torch::autograd::grad({y}, {x}, {}, retain, create)[0];
  };
  CHECK(at::equal(grad(log_p.sum(), true, false), grad(log_p.sum(), true, false)));
  CHECK(
      error_of([&] { grad(log_p.sum(), true, true); }) ==
      "alkn::token_log_probability: expected a backward pass without create_graph, got one with it "
      "(second derivatives are not available)");
  CHECK_FALSE(alkn::token_log_probability(c.logits, c.label).requires_grad());
  {
    const at::NoGradGuard no_grad;
    CHECK_FALSE(alkn::token_log_probability(x, c.label).requires_grad());
    x.add_(1);  // the saved logits are no longer what they were
  }
  CHECK_THAT(error_of([&] { grad(log_p.sum(), true, false); }),
             Catch::Matchers::ContainsSubstring("modified by an inplace operation"));
}

TEST_CASE("token_log_probability: a graph that is gone, a result that is written to") {
  const Case c(2, 4, 9, 2);
  const Tensor loss = alkn::token_log_probability(leaf(c.logits), c.label).sum();
  loss.backward();
  CHECK_THAT(error_of([&] { loss.backward(); }),
             Catch::Matchers::ContainsSubstring("backward through the graph a second time"));

  const Tensor label = c.label.narrow(0, 0, 1);  // of one sample: no copy is made of its rows
  const Tensor x = leaf(c.logits.narrow(0, 0, 1)), twice = leaf(c.logits.narrow(0, 0, 1));
  alkn::token_log_probability(x, label).sum().backward();
  alkn::token_log_probability(twice, label).mul_(2).sum().backward();
  CHECK(at::equal(twice.grad(), x.grad().mul(2)));
}

TEST_CASE("token_log_probability, retain_kl: a forward-mode gradient is refused, not lost") {
  const Case c(2, 4, 9, 2);
  const auto level = torch::autograd::ForwardADLevel::get_next_idx();
  {
    const Tensor dual =
        at::_make_dual(c.logits, at::full_like(c.logits, 1), static_cast<std::int64_t>(level));
    const std::string rest =
        ": expected a tensor without a forward-mode gradient, got one with it (the function has "
        "none)";
    CHECK(error_of([&] { alkn::token_log_probability(dual, c.label); }) ==
          "alkn::token_log_probability" + rest);
    CHECK(error_of([&] { alkn::retain_kl(dual, c.logits, c.label); }) == "alkn::retain_kl" + rest);
  }
  torch::autograd::ForwardADLevel::release_idx(level);
}

TEST_CASE("token_log_probability: bad input") {
  const Case c(2, 4, 9, 2);
  const Tensor x = c.logits.to(at::kFloat), label = c.label;
  CHECK(error(x, label) == "nothing was thrown");
  CHECK(error(Tensor(), label) ==
        "alkn::token_log_probability: expected logits of shape [B, T, V] or [N, V], got an "
        "undefined tensor "
        "(logits)");
  CHECK(error(x[0][0], label) ==
        "alkn::token_log_probability: expected logits of shape [B, T, V] or [N, V] with T and V >= "
        "1, got [9] "
        "(logits)");
  CHECK(error(x.narrow(2, 0, 0), label) ==
        "alkn::token_log_probability: expected logits of shape [B, T, V] or [N, V] with T and V >= "
        "1, got [2, "
        "4, 0] (logits)");
  CHECK(error(x.narrow(1, 0, 0), label.narrow(1, 0, 0)) ==
        "alkn::token_log_probability: expected logits of shape [B, T, V] or [N, V] with T and V >= "
        "1, got [2, "
        "0, 9] (logits)");
  CHECK(error(x.to(at::kInt), label) ==
        "alkn::token_log_probability: expected logits of type Float, Double, BFloat16 or Half, got "
        "Int (logits)");
  CHECK(error(x.to(at::kComplexFloat), label) ==
        "alkn::token_log_probability: expected logits of type Float, Double, BFloat16 or Half, got "
        "ComplexFloat (logits)");
  CHECK(error(x.to_sparse(), label) ==
        "alkn::token_log_probability: expected logits of layout Strided, got Sparse (logits)");
  CHECK(error(x, Tensor()) ==
        "alkn::token_log_probability: expected labels of shape [B, T], got an undefined tensor "
        "(labels)");
  CHECK(
      error(x, label.view({8})) ==
      "alkn::token_log_probability: expected labels of shape [B, T] with T >= 1, got [8] (labels)");
  CHECK(error(x, label.narrow(1, 0, 3)) ==
        "alkn::token_log_probability: expected labels of shape [2, 4], got [2, 3] (labels)");
  CHECK(error(x, label.t().contiguous()) ==
        "alkn::token_log_probability: expected labels of shape [2, 4], got [4, 2] (labels)");
  CHECK(error(x, label.to(at::kInt)) ==
        "alkn::token_log_probability: expected labels of type Long, got Int (labels)");
  CHECK(error(x, label.to(at::kFloat)) ==
        "alkn::token_log_probability: expected labels of type Long, got Float (labels)");
  CHECK(error(x, at::zeros({2, 4}, at::TensorOptions(at::kLong).device(at::kMeta))) ==
        "alkn::token_log_probability: expected labels on cpu, where the logits are, got meta "
        "(labels)");
  for (const std::int64_t bad :
       {std::int64_t{9}, std::int64_t{-1}, std::int64_t{-101}, std::int64_t{1} << 40}) {
    const Tensor wrong = label.clone();
    wrong[1][3] = bad;
    CHECK(error(x, wrong) ==
          "alkn::token_log_probability: expected a label in [0, 9) or -100, got " +
              std::to_string(bad) + " (sample 1, position 3)");
  }
  const Tensor counted = at::full({2, 4}, 1, at::kLong);
  const auto with = [&](double value, std::int64_t b, std::int64_t t) {
    const Tensor y = x.clone();
    y[b][t][4] = value;
    return error(y, counted);
  };
  CHECK(
      with(std::nan(""), 1, 2) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 2)");
  CHECK_THAT(with(kInfinity, 0, 1), Catch::Matchers::ContainsSubstring("(sample 0, position 1)"));
  CHECK(with(std::nan(""), 1, 3) == "nothing was thrown");  // the last position predicts nothing
  CHECK(with(-kInfinity, 0, 0) == "nothing was thrown");
  const Tensor y = x.clone();
  y[0][0].fill_(-kInfinity);
  CHECK(
      error(y, counted) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got -inf (sample 0, "
      "position 0)");
}

TEST_CASE("token_log_probability: where a check would wait for the device, a bad row becomes NaN") {
  const Case c(2, 4, 9, 2);
  for (const std::int64_t bad : {std::int64_t{9}, std::int64_t{-1}, std::int64_t{1} << 40}) {
    const Tensor label = at::full({2, 4}, 3, at::kLong);
    label[1][2] = bad;
    const Result r = aten(c.logits, label, c.weight);
    CHECK(r.log_p.isnan().sum().item<std::int64_t>() == 1);
    CHECK(std::isnan(r.log_p[1][1].item<double>()));
    CHECK(r.grad.isnan().any(-1).sum().item<std::int64_t>() == 1);
    CHECK(r.grad[1][1].isnan().any().item<bool>());
  }
  const Tensor x = c.logits.clone(), label = at::full({2, 4}, 3, at::kLong);
  x[0][2][8] = std::nan("");
  const Result r = aten(x, label, c.weight);
  CHECK(std::isnan(r.log_p[0][2].item<double>()));
  CHECK(r.log_p.isnan().sum().item<std::int64_t>() == 1);
  CHECK(r.grad[0][2].isnan().all().item<bool>());
}
