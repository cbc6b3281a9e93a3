// The row kernels of the token log-probability: every instruction set against each other, bit by
// bit, and against plain double. No LibTorch.
#include <algorithm>
#include <alkn/kernel/rows/token_log_probability.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "catch.hpp"

namespace {

using alkn::kernel::BFloat16;
using alkn::kernel::divergence_functions;
using alkn::kernel::Half;
using alkn::kernel::LogSumExp;
using alkn::kernel::row_functions;
using alkn::kernel::SimdLevel;
namespace rows = alkn::kernel::rows;

const double kInfinity = std::numeric_limits<double>::infinity();

std::vector<SimdLevel> levels() {
  std::vector<SimdLevel> all;
  for (const auto level : {SimdLevel::scalar, SimdLevel::avx2, SimdLevel::avx512}) {
    if (alkn::kernel::simd_supported(level)) {
      all.push_back(level);
    } else {
      WARN("not tested, as this processor lacks it: " << alkn::kernel::simd_name(level));
    }
  }
  return all;
}

/// Pseudo-random logits in [-scale, scale), with a few -inf, rounded to T.
template <class T>
std::vector<T> logits(std::int64_t size, double scale, std::uint64_t seed) {
  std::vector<T> x(static_cast<std::size_t>(size));
  std::uint64_t state = seed;
  for (T& value : x) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const double unit = static_cast<double>(state >> 33U) / 1073741824.0 - 1;
    value = rows::round_to<T>((state >> 20U) % 97 == 0 ? -kInfinity : scale * unit);
  }
  return x;
}

template <class T>
std::vector<double> widened(const std::vector<T>& x) {
  std::vector<double> y;
  y.reserve(x.size());
  for (const T value : x) y.push_back(static_cast<double>(rows::widen(value)));
  return y;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

struct Passes {
  LogSumExp lse, ref_lse;
  double divergence = 0;
};

/// Everything that the kernels compute of one row; `out` has a guard element on both sides.
template <class T>
Passes run(SimdLevel level, const std::vector<T>& x, const std::vector<T>& ref,
           std::vector<T>& soft, std::vector<T>& past, std::vector<T>& difference) {
  const alkn::kernel::FlushDenormals flush;
  const auto& row = row_functions<T>(level);
  const auto& kl = divergence_functions<T>(level);
  const auto size = static_cast<std::int64_t>(x.size());
  Passes p;
  p.lse = row.log_sum_exp(x.data(), size);
  p.ref_lse = row.log_sum_exp(ref.data(), size);
  p.divergence = kl.divergence(ref.data(), x.data(), size, p.ref_lse.max, p.lse.max);
  const T guard = rows::round_to<T>(77);
  for (auto* out : {&soft, &past, &difference}) out->assign(x.size() + 2, guard);
  row.scaled_softmax(x.data(), size, p.lse.max, -0.37, soft.data() + 1, false);
  row.scaled_softmax(x.data(), size, p.lse.max, -0.37, past.data() + 1, true);
  alkn::kernel::finish_streams();
  kl.softmax_difference(ref.data(), x.data(), size, p.ref_lse.max, p.lse.max, -0.21, 0.43,
                        difference.data() + 1);
  for (auto* out : {&soft, &past, &difference}) {
    CHECK(rows::widen(out->front()) == rows::widen(guard));
    CHECK(rows::widen(out->back()) == rows::widen(guard));
  }
  return p;
}

template <class T>
void check_sizes(double unit) {
  for (const std::int64_t size : {1,   2,   7,   8,    9,    15,   16,   17,   63,   64,   65,
                                  127, 128, 997, 4095, 4096, 4097, 8191, 8192, 8193, 12289}) {
    CAPTURE(size);
    auto x = logits<T>(size, 9, 11), ref = logits<T>(size, 9, 12);
    x[0] = ref[0] = rows::round_to<T>(1.5);  // a row of -inf alone has no softmax
    std::vector<T> soft, past, difference;
    const Passes first = run(SimdLevel::scalar, x, ref, soft, past, difference);
    CHECK(same_bits(soft, past));
    for (const auto level : levels()) {
      CAPTURE(alkn::kernel::simd_name(level));
      std::vector<T> s, p, d;
      const Passes other = run(level, x, ref, s, p, d);
      CHECK(other.lse.max == first.lse.max);
      CHECK(other.lse.log_sum == first.lse.log_sum);
      CHECK((other.divergence == first.divergence || std::isinf(first.divergence)));
      CHECK(same_bits(s, soft));
      CHECK(same_bits(p, soft));
      CHECK(same_bits(d, difference));
    }
    // against double
    const auto wide = widened(x), wide_ref = widened(ref);
    const auto& real = row_functions<double>();
    const auto lse = real.log_sum_exp(wide.data(), size);
    CHECK(first.lse.max == lse.max);
    CHECK(first.lse.log_sum == Approx(lse.log_sum).epsilon(3e-7).margin(3e-7));
    double worst = 0, worst_difference = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double e = std::exp(wide[i] - lse.max);
      const double e_ref = std::exp(wide_ref[i] - first.ref_lse.max);
      worst = std::max(worst, std::abs(static_cast<double>(rows::widen(soft[i + 1])) + 0.37 * e));
      worst_difference =
          std::max(worst_difference, std::abs(static_cast<double>(rows::widen(difference[i + 1])) -
                                              (0.43 * e - 0.21 * e_ref)));
    }
    CHECK(worst <= unit);
    CHECK(worst_difference <= unit);
  }
}

}  // namespace

TEST_CASE("token rows: all instruction sets give the same bits, at every size") {
  check_sizes<float>(4e-7);
  check_sizes<BFloat16>(2e-3);
  check_sizes<Half>(3e-4);
}

TEST_CASE("token rows: probabilities below 1e-30 leave no denormal number, in any set") {
  std::vector<float> x(4099), ref(4099);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = -0.025F * static_cast<float>(i), ref[i] = -0.0225F * static_cast<float>(i);
  }
  std::vector<float> soft, past, difference;
  const Passes first = run(SimdLevel::scalar, x, ref, soft, past, difference);
  for (const auto level : levels()) {
    CAPTURE(alkn::kernel::simd_name(level));
    std::vector<float> s, p, d;
    const Passes other = run(level, x, ref, s, p, d);
    CHECK(other.divergence == first.divergence);
    CHECK(same_bits(s, soft));
    CHECK(same_bits(p, soft));
    CHECK(same_bits(d, difference));
    std::int64_t small = 0;
    for (const auto* out : {&s, &p, &d}) {
      for (const float y : *out) {
        CHECK(std::fpclassify(y) != FP_SUBNORMAL);
        small += y != 0 && std::fabs(y) < 1e-30F ? 1 : 0;
      }
    }
    CHECK(small > 1000);
  }
}

TEST_CASE("token rows: the exponential is within 1 ulp") {
  // scaled_softmax with max 0 and scale 1 is the exponential itself
  constexpr std::int64_t kSize = 4096;
  std::vector<float> x(kSize), y(kSize);
  for (const auto level : levels()) {
    double worst = 0;
    std::uint32_t bits = 0x80000000U;  // -0 to -87, every 5003rd float
    while (bits < 0xC2AE0000U) {
      for (float& value : x) {
        value = alkn::kernel::bit_copy<float>(bits < 0xC2AE0000U ? bits : 0xC2AE0000U);
        bits += 5003;
      }
      row_functions<float>(level).scaled_softmax(x.data(), kSize, 0, 1, y.data(), false);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double exact = std::exp(static_cast<double>(x[i]));
        int exponent = 0;
        std::frexp(exact, &exponent);
        const double ulp = std::ldexp(1.0, exponent - 24);
        worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / ulp);
      }
    }
    CHECK(worst < 1);
    CHECK(worst > .5);
    x.assign(kSize, -87.5F);
    x[0] = 0;
    x[1] = -std::numeric_limits<float>::infinity();
    x[2] = std::numeric_limits<float>::quiet_NaN();
    row_functions<float>(level).scaled_softmax(x.data(), kSize, 0, 1, y.data(), false);
    CHECK(y[0] == 1);
    CHECK(y[1] == 0);
    CHECK(std::isnan(y[2]));
    CHECK(y[3] == 0);
  }
}

TEST_CASE("token rows: a NaN or +infinity anywhere is in the log-sum-exp, -infinity is not") {
  for (const auto level : levels()) {
    for (const std::int64_t at : {0, 1, 63, 64, 4095, 4096, 4160, 9999}) {
      CAPTURE(alkn::kernel::simd_name(level), at);
      const auto with = [&](double value, double others) {
        std::vector<float> x(10000, static_cast<float>(others));
        x[static_cast<std::size_t>(at)] = static_cast<float>(value);
        const auto lse = row_functions<float>(level).log_sum_exp(x.data(), 10000);
        return lse.max + lse.log_sum;
      };
      CHECK(std::isnan(with(std::nan(""), 1)));
      CHECK(std::isnan(with(std::nan(""), -kInfinity)));
      CHECK_FALSE(std::isfinite(with(kInfinity, 1)));
      CHECK_FALSE(std::isfinite(with(-kInfinity, -kInfinity)));
      CHECK(with(-kInfinity, 1) == Approx(1 + std::log(9999.)));
      CHECK(with(3, -kInfinity) == 3);
      CHECK(with(-1e4, 1e4) == Approx(1e4 + std::log(9999.)));
    }
  }
}

TEST_CASE("token rows: a maximum that grows from block to block") {
  std::vector<float> x(5 * 4096 + 5);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t block = i / 4096;
    x[i] = static_cast<float>(block) * 3.25F - 40.F;
  }
  for (const float value : x) sum += std::exp(static_cast<double>(value));
  for (const auto level : levels()) {
    const auto lse =
        row_functions<float>(level).log_sum_exp(x.data(), static_cast<std::int64_t>(x.size()));
    CHECK(lse.max + lse.log_sum == Approx(std::log(sum)).epsilon(1e-7));
    CHECK(lse.max == static_cast<double>(x.back()));
  }
}

TEST_CASE("token rows: the largest vocabulary keeps its digits") {
  const auto x = logits<float>(std::int64_t{1} << 18, 5, 5);
  const auto wide = widened(x);
  const auto exact = row_functions<double>().log_sum_exp(wide.data(), std::int64_t{1} << 18);
  const auto lse = row_functions<float>().log_sum_exp(x.data(), std::int64_t{1} << 18);
  CHECK(std::abs(lse.log_sum - exact.log_sum) < 1e-7);
}

TEST_CASE("token rows: divergence") {
  const auto x = logits<float>(5000, 4, 1), ref = logits<float>(5000, 4, 2);
  const auto wide = widened(x), wide_ref = widened(ref);
  auto finite = x, finite_ref = ref;
  for (auto* row : {&finite, &finite_ref}) {
    for (float& value : *row) value = std::isinf(value) ? 0 : value;
  }
  const auto a = widened(finite), b = widened(finite_ref);
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::exp(b[i] - 4) * ((b[i] - 4) - (a[i] - 3));
  CHECK(divergence_functions<double>().divergence(b.data(), a.data(), 5000, 4, 3) == Approx(sum));
  for (const auto level : levels()) {
    const auto& kl = divergence_functions<float>(level);
    const double divergence = kl.divergence(finite_ref.data(), finite.data(), 5000, 4, 3);
    CHECK(divergence == Approx(sum).epsilon(1e-6));
    CHECK(divergence == divergence_functions<float>(SimdLevel::scalar)
                            .divergence(finite_ref.data(), finite.data(), 5000, 4, 3));
    CHECK(std::isinf(
        kl.divergence(finite_ref.data(), x.data(), 5000, 4, 3)));  // p is 0 where p_ref is not
    CHECK(std::isfinite(kl.divergence(ref.data(), finite.data(), 5000, 4, 3)));
    CHECK(std::isfinite(kl.divergence(ref.data(), ref.data(), 5000, 4, 4)));
  }
}
