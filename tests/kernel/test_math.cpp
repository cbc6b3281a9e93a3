// The scalar mathematics against independent formulas, the conversions exhaustively, the vector
// kernels against scalar.
#include <cfenv>
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "inputs.hpp"

#include <alkn/kernel/adamw.hpp>
#include <alkn/kernel/cpu/arena.hpp>

using namespace alkn_test;

namespace {

std::uint32_t bits_of(float x) { return bit_copy<std::uint32_t>(x); }
bool same_number(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : bits_of(a) == bits_of(b);
}

}  // namespace

TEST_CASE("the software fused multiply-add is the processor's") {
  Numbers numbers(1);
  std::int64_t wrong = 0;
  for (int i = 0; i < 3000000; ++i) {
    const std::uint64_t x = numbers.next(), y = numbers.next();
    auto a = static_cast<std::uint32_t>(x), b = static_cast<std::uint32_t>(x >> 32);
    auto c = static_cast<std::uint32_t>(y);
    if (i % 2 == 0) {  // exponents near each other, so that c matters
      a = (a & 0x807FFFFFU) | ((100U + (a >> 23U) % 40U) << 23U);
      b = (b & 0x807FFFFFU) | ((100U + (b >> 23U) % 40U) << 23U);
      const std::uint32_t exponent = ((a >> 23U) & 0xFFU) + ((b >> 23U) & 0xFFU) - 127U;
      c = (c & 0x807FFFFFU) | (((exponent + (c >> 23U) % 64U - 32U) & 0xFFU) << 23U);
    }
    if (i % 16 == 3) c = bits_of(-(bit_copy<float>(a) * bit_copy<float>(b)));
    if (i % 16 == 5) a &= 0x80FFFFFFU;  // small and denormal
    const float fa = bit_copy<float>(a), fb = bit_copy<float>(b), fc = bit_copy<float>(c);
    wrong += !same_number(software_fma(fa, fb, fc), std::fma(fa, fb, fc));
  }
  CHECK(wrong == 0);
}

TEST_CASE("16-bit floats: every pattern there and back, and every rounding at its middle") {
  std::int64_t wrong = 0;
  for (std::uint32_t x = 0; x < 0x10000U; ++x) {
    const auto narrow_bits = static_cast<std::uint16_t>(x);
    for (const DType type : {DType::bfloat16, DType::float16}) {
      const float value = wide(narrow_bits, type);
      if (std::isnan(value)) {
        wrong += narrow(value, type) != (type == DType::bfloat16 ? 0x7FC0U : 0x7E00U);
        continue;
      }
      wrong += narrow(value, type) != narrow_bits;
      const float next = wide(static_cast<std::uint16_t>(x + 1), type);
      if (!std::isfinite(value) || !std::isfinite(next) || (x & 0x7FFFU) == 0x7FFFU) continue;
      const auto middle =
          static_cast<float>((static_cast<double>(value) + static_cast<double>(next)) / 2);
      const auto even = static_cast<std::uint16_t>((x & 1U) != 0 ? x + 1 : x);
      wrong += narrow(middle, type) != even;
      wrong += narrow(std::nextafter(middle, value), type) != narrow_bits;
      wrong += narrow(std::nextafter(middle, next), type) != static_cast<std::uint16_t>(x + 1);
    }
  }
  CHECK(wrong == 0);
  CHECK(half_to_float(0x3C00U) == 1.0F);
  CHECK(half_to_float(0x0001U) == std::ldexp(1.0F, -24));
  CHECK(float_to_half(65520.0F) == 0x7C00U);
  CHECK(float_to_half(65519.0F) == 0x7BFFU);
  CHECK(bfloat16_to_float(0x3F80U) == 1.0F);
}

TEST_CASE("all instruction sets convert alike") {
  Numbers numbers(2);
  std::vector<float> floats;
  std::vector<std::uint16_t> narrows;
  for (std::uint32_t x = 0; x < 0x10000U; ++x) narrows.push_back(static_cast<std::uint16_t>(x));
  for (int i = 0; i < 100003; ++i)
    floats.push_back(bit_copy<float>(static_cast<std::uint32_t>(numbers.next())));
  const Kernels& reference = kernels(SimdLevel::scalar);
  for (const SimdLevel level : simd_levels()) {
    INFO(simd_name(level));
    const Kernels& k = kernels(level);
    for (const bool half : {false, true}) {
      std::vector<std::uint16_t> a(floats.size()), b(floats.size());
      (half ? reference.round_half : reference.round_bfloat16)(floats.data(), a.data(), 100003);
      (half ? k.round_half : k.round_bfloat16)(floats.data(), b.data(), 100003);
      CHECK(a == b);
      std::vector<float> c(narrows.size()), d(narrows.size());
      (half ? reference.widen_half : reference.widen_bfloat16)(narrows.data(), c.data(), 65536);
      (half ? k.widen_half : k.widen_bfloat16)(narrows.data(), d.data(), 65536);
      CHECK(std::memcmp(c.data(), d.data(), c.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("sums follow one tree, and are right") {
  Numbers numbers(3);
  const Kernels& reference = kernels(SimdLevel::scalar);
  ScoreFormula ratio;
  ratio.kind = ScoreKind::ratio;
  for (const std::int64_t n : {0, 1, 5, 7, 8, 127, 128, 129, 2047, 2048, 2049, 2200, 65536}) {
    std::vector<float> g, r;
    long double squares = 0, products = 0, product_squares = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      g.push_back(numbers.normal(1.0F));
      r.push_back(numbers.normal(1.0F));
      const long double d =
          static_cast<long double>(std::fabs(g.back())) * static_cast<long double>(r.back());
      squares += static_cast<long double>(g.back()) * static_cast<long double>(g.back());
      products += d;
      product_squares += d * d;
    }
    std::vector<double> first;
    for (const SimdLevel level : simd_levels()) {
      INFO(simd_name(level) << ", " << n);
      std::vector<double> one(tuning::kSumLanes), three(3 * tuning::kSumLanes),
          plain(3 * tuning::kSumLanes);
      kernels(level).sum_squares({n, g.data(), nullptr, {}, one.data(), {}});
      kernels(level).sum_products({n, g.data(), r.data(), ratio, three.data(), {}});
      kernels(level).sum_products({n, g.data(), nullptr, {}, plain.data(), {}});
      std::vector<double> again = one;
      std::vector<double> sums = {reference.fold(one.data())};
      CHECK(kernels(level).fold(again.data()) == sums[0]);
      for (int k = 0; k < 3; ++k)
        sums.push_back(reference.fold(three.data() + k * tuning::kSumLanes));
      for (int k = 0; k < 3; ++k)
        sums.push_back(reference.fold(plain.data() + k * tuning::kSumLanes));
      CHECK(sums[0] == Approx(static_cast<double>(squares)).epsilon(1e-13));
      CHECK(sums[1] == sums[0]);
      CHECK(sums[2] == Approx(static_cast<double>(products)).epsilon(1e-11).margin(1e-11));
      CHECK(sums[3] == Approx(static_cast<double>(product_squares)).epsilon(1e-13));
      CHECK(sums[4] == sums[0]);
      CHECK(sums[6] == sums[0]);
      if (first.empty()) first = sums;
      CHECK(std::memcmp(first.data(), sums.data(), sums.size() * sizeof(double)) == 0);
    }
  }
}

TEST_CASE("thresholds, clipping and deviations by hand") {
  CHECK(trim_count(10, 0.15) == 5);
  CHECK(trim_count(40, 0.15) == 6);
  CHECK(trim_count(100, 0.15) == 15);
  CHECK(threshold_ranks(100, 0.8, 0.15).low == 86);
  CHECK(threshold_ranks(100, 0.8, 0.15).high == 15);
  CHECK(threshold_ranks(100, 1.0, 0.15).low == 100);
  // n = 100, k = 15: eta = hi - (hi - lo) (80 - 14) / 72
  CHECK(threshold(-1.0F, 2.0F, 100, 0.8, 0.15) == Approx(2.0 - 3.0 * 66.0 / 72.0).epsilon(1e-7));
  CHECK(threshold(-1.0F, 2.0F, 100, 1.0, 0.15) == -2.0F);
  CHECK(clip_scale(3.0, 1.0) == Approx(1.0 / 3.000001).epsilon(1e-15));
  CHECK(clip_scale(0.5, 1.0) == 1.0);
  CHECK(clip_scale(3.0, 0.0) == 1.0);
  CHECK(unbiased_deviation(6.0, 14.0, 3) == Approx(1.0).epsilon(1e-15));  // 1, 2, 3
  CHECK(unbiased_deviation(5.0, 25.0, 1) == 0.0);
  CHECK(unbiased_deviation(0.3, 0.03, 3) == Approx(0.0).margin(1e-8));
}

TEST_CASE("everything is trained at a share of 1: the threshold is below the smallest score") {
  const float infinity = std::numeric_limits<float>::infinity();
  const float most = std::numeric_limits<float>::max();
  for (const float least : {0.0F, -0.0F, 1e-40F, -3.25F, 16777216.0F, 16777218.0F, 33554432.0F,
                            -16777216.0F, -16777218.0F, 1e30F, -1e30F, infinity, -most}) {
    INFO(least);
    const float eta = threshold(least, infinity, 100, 1.5, 0.15);
    CHECK(eta < least);
    CHECK(static_cast<double>(eta) <= static_cast<double>(least) - 1);
    CHECK((eta == static_cast<float>(static_cast<double>(least) - 1) ||
           eta == std::nextafter(least, -infinity)));
  }
  CHECK(threshold(3.0F, 9.0F, 100, 1.0, 0.15) == 2.0F);
  CHECK(threshold(-infinity, 9.0F, 100, 1.0, 0.15) == -infinity);
  CHECK(std::isnan(threshold(std::nanf(""), std::nanf(""), 100, 1.0, 0.15)));
}

TEST_CASE("negation") {
  Numbers numbers(4);
  for (const std::int64_t n : {0, 1, 15, 16, 17, 65536, 70003}) {
    std::vector<float> param, start;
    for (std::int64_t i = 0; i < n; ++i) {
      param.push_back(numbers.normal(1.0F));
      start.push_back(numbers.normal(1.0F));
    }
    std::vector<float> right;
    for (std::size_t i = 0; i < param.size(); ++i)
      right.push_back(std::fma(-0.7F, param[i] - start[i], start[i]));
    for (const SimdLevel level : simd_levels()) {
      const WithSimd with(level);
      INFO(simd_name(level) << ", " << n);
      Threads pool{2};
      std::vector<float> got = param;
      negate(got.data(), start.data(), n, 0.7F, ParallelFor(pool, 2));
      CHECK(got == right);
    }
  }
}

TEST_CASE("one entry that is not finite is found, wherever it is") {
  Threads pool{3};
  const ParallelFor parallel(pool, 3);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    for (const std::size_t n : {0U, 1U, 17U, 130U, 200003U}) {
      INFO(simd_name(level) << ", " << n);
      std::vector<float> values(n, std::numeric_limits<float>::max());
      const auto finite = [&] {
        return all_finite(values.data(), static_cast<std::int64_t>(n), parallel);
      };
      CHECK(finite());
      for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
        for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
          if (n == 0) continue;
          values[at] = bad;
          CHECK_FALSE(finite());
          values[at] = 1;
        }
      }
    }
  }
}

TEST_CASE("a sum is right, and the same for any number of threads") {
  Numbers numbers(8);
  for (const std::int64_t size : {0, 1, 15, 17, 65536, 65537, 300001}) {
    std::vector<float> x(static_cast<std::size_t>(size));
    long double exact = 0;
    for (float& v : x) exact += static_cast<long double>(v = numbers.normal(1.0F) + 0.5F);
    Threads two{2}, three{3};
    const double one = sum(x.data(), size, ParallelFor::serial());
    CHECK(one == Approx(static_cast<double>(exact)).epsilon(1e-13).margin(1e-13));
    CHECK(sum(x.data(), size, ParallelFor(two, 2)) == one);
    CHECK(sum(x.data(), size, ParallelFor(three, 3)) == one);
  }
}

TEST_CASE("mask bits are counted, and those in common") {
  Threads pool{3};
  const ParallelFor parallel(pool, 3);
  for (const std::int64_t words : {0, 1, 7, 8, 9, 100003}) {
    INFO(words << " words");
    std::vector<std::uint64_t> used, mask;
    std::int64_t num_used = 0, num_common = 0;
    for (std::int64_t i = 0; i < words; ++i) {
      used.push_back(mixed(static_cast<std::uint64_t>(2 * i)));
      mask.push_back(mixed(static_cast<std::uint64_t>(2 * i + 1)));
      num_used += __builtin_popcountll(used.back());
      num_common += __builtin_popcountll(used.back() & mask.back());
    }
    CHECK(overlap(used.data(), mask.data(), words, parallel) == num_common);
    CHECK(count_bits(used.data(), words, parallel) == num_used);
  }
}

TEST_CASE("powers and the schedule of rho are those of the formulas") {
  for (const std::int64_t n : {0, 1, 2, 3, 7, 64, 1000, 123457}) {
    CHECK(power(0.999, n) ==
          Approx(std::pow(0.999, static_cast<double>(n))).epsilon(1e-13).margin(1e-15));
  }
  const double want[] = {.8, .8, .733333, .733333, .666667, .666667,
                         .6, .6, .533333, .533333, .466667, .466667};  // spec, section 10
  for (std::int64_t done = 0; done < 12; ++done) {
    CHECK(unmask_ratio_after(0.8, done, 12) == Approx(want[done]).epsilon(1e-5));
  }
  CHECK(unmask_ratio_after(0.8, 0, 1) == 0.8);
  CHECK(unmask_ratio_after(0.8, 2, 3) == Approx(0.8 - 0.4 * 2 / 3));  // a stride a step
}

TEST_CASE("the level of the instruction set is chosen, and refused where it is unknown") {
  const SimdLevel before = simd_level();
  set_simd_level(SimdLevel::scalar);
  CHECK(simd_level() == SimdLevel::scalar);
  set_simd_level(before);
  ::setenv("ALKN_SIMD", "scalar", 1);
  CHECK(alkn::kernel::detail::initial_simd_level() == SimdLevel::scalar);
  ::setenv("ALKN_SIMD", "sse9", 1);
  CHECK_THROWS_WITH(alkn::kernel::detail::initial_simd_level(),
                    "alkn::kernel::SimdLevel: expected scalar, avx2 or avx512, got \"sse9\" "
                    "(environment variable ALKN_SIMD)");
  ::unsetenv("ALKN_SIMD");
}

TEST_CASE("an arena hands out zeros, aligned and staggered") {
  Arena arena;
  arena.reserve(std::size_t{4} << 20U);
  std::vector<std::uintptr_t> offsets;
  std::vector<char*> blocks;
  for (int i = 0; i < 6; ++i) {
    auto* block = arena.allocate_array<float>(100000);
    blocks.push_back(reinterpret_cast<char*>(block));
    const auto address = reinterpret_cast<std::uintptr_t>(block);
    CHECK(address % Arena::kAlignment == 0);
    for (const std::uintptr_t other : offsets) CHECK(other != address % 4096);
    offsets.push_back(address % 4096);
    bool zero = true;
    for (int k = 0; k < 100000; ++k) {
      zero = zero && block[k] == 0;
      block[k] = 1;
    }
    CHECK(zero);
  }
  for (std::size_t i = 0; i + 1 < blocks.size(); ++i) CHECK(blocks[i + 1] >= blocks[i] + 400000);
  char* small = static_cast<char*>(arena.allocate(1));
  char* next = static_cast<char*>(arena.allocate(100));
  CHECK(next - small == 64);
  CHECK(arena.size_bytes() == 6 * 400000 + 101);
  arena.allocate(std::size_t{40} << 20U);  // more than a slab
  arena.release();
  CHECK(arena.size_bytes() == 0);
}
