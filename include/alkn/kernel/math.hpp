// Scalar mathematics that every backend shares: roundings, sums to numbers, the threshold's
// formula.
//
// Wherever a product meets a sum the fused multiply-add is written out, so that no compiler has a
// choice: the bits are the same on every instruction set and under every -ffp-contract. The
// elementwise formulas of score and AdamW stand in simd/formula.inl.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <alkn/kernel/flags.hpp>
#include <alkn/kernel/flush.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

/// a b + c, rounded once, without a fused multiply-add of the machine: the product is exact in
/// double, the sum is rounded to odd, and rounding that to float is then exact.
inline float software_fma(float a, float b, float c) noexcept {
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double addend = static_cast<double>(c);
  double sum = product + addend;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);
  auto bits = bit_copy<std::uint64_t>(sum);
  const bool inexact = error < 0 || error > 0;  // false for NaN: an infinite or undefined sum stays
  if (inexact && (bits & 1U) == 0) bits += ((error > 0) == (sum > 0)) ? 1U : ~std::uint64_t{0};
  return static_cast<float>(bit_copy<double>(bits));
}

/// a b + c, rounded once.
inline float exact_fma(float a, float b, float c) noexcept {
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return software_fma(a, b, c);
#endif
}

// --- 16-bit floats, as 16-bit patterns -------------------------------------------------------

ALKN_HOST_DEVICE inline float bfloat16_to_float(std::uint16_t x) noexcept {
  return bit_copy<float>(static_cast<std::uint32_t>(x) << 16U);
}

/// Round to nearest even; NaN becomes 0x7FC0.
ALKN_HOST_DEVICE inline std::uint16_t float_to_bfloat16(float x) noexcept {
  const auto bits = bit_copy<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0x7FC0U;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

ALKN_HOST_DEVICE inline float half_to_float(std::uint16_t x) noexcept {
  const std::uint32_t sign = (x & 0x8000U) << 16U;
  const std::uint32_t exponent = (x >> 10U) & 0x1FU;
  const std::uint32_t mantissa = x & 0x3FFU;
  if (exponent == 0x1FU) {  // infinity, or a NaN made quiet
    return bit_copy<float>(sign | 0x7F800000U | (mantissa << 13U) | (mantissa ? 0x400000U : 0U));
  }
  if (exponent == 0) {  // zero or denormal: mantissa 2^-24, exact
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8F;
    return bit_copy<float>(sign | bit_copy<std::uint32_t>(magnitude));
  }
  return bit_copy<float>(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
}

/// Round to nearest even; NaN becomes 0x7E00.
ALKN_HOST_DEVICE inline std::uint16_t float_to_half(float x) noexcept {
  const auto bits = bit_copy<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return 0x7E00U;
  if (magnitude >= 0x47800000U)
    return static_cast<std::uint16_t>(sign | 0x7C00U);  // 2^16 and above
  if (magnitude < 0x38800000U) {  // below 2^-14: adding 1/2 leaves the denormal in the last bits
    const float shifted = bit_copy<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (bit_copy<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rebiased = magnitude - (112U << 23U);
  return static_cast<std::uint16_t>(sign | ((rebiased + 0xFFFU + ((rebiased >> 13U) & 1U)) >> 13U));
}

// --- stochastic rounding of the compact state --------------------------------------------------
//
// An fp32 value becomes one of its two bfloat16 neighbours, the nearer the likelier, so that the
// expected value is the fp32 value and small changes add up. The random numbers are a function of
// tensor, step and element alone: any instruction set, thread or device makes the same. The 32
// bits of an element are simd/formula.inl's random_bits().

/// A well mixed number of a counter (SplitMix64).
ALKN_HOST_DEVICE inline std::uint64_t mixed(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31U);
}

/// Elements that share a RoundingKey: element i of a tensor has number i % kRoundingBlock under the
/// key of block i / kRoundingBlock.
inline constexpr std::int64_t kRoundingBlock = 65536;

/// The step of the Weyl sequence of a rounding block: 2^32 over the golden ratio.
inline constexpr std::uint32_t kWeyl = 0x9E3779B9U;

struct RoundingKey {
  std::uint32_t first = 0, second = 0;
};

/// StepTensor::rounding_seed of a tensor, by its place in the list of parameters, and a step.
ALKN_HOST_DEVICE inline std::uint64_t rounding_seed(std::int64_t tensor,
                                                    std::int64_t step) noexcept {
  return mixed(mixed(static_cast<std::uint64_t>(step)) + static_cast<std::uint64_t>(tensor));
}
/// The key of the block that holds `element`.
ALKN_HOST_DEVICE inline RoundingKey rounding_key(std::uint64_t seed,
                                                 std::int64_t element) noexcept {
  const std::uint64_t key = mixed(seed + static_cast<std::uint64_t>(element / kRoundingBlock));
  return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32U)};
}

// --- sums ------------------------------------------------------------------------------------

/// The sums of one chunk or tensor, in double.
struct Sums {
  double squares = 0;          ///< sum g^2
  double products = 0;         ///< sum d (of g itself for PenaltyScale::gradient), before clipping
  double product_squares = 0;  ///< sum d^2
};

/// min(1, max_norm / (norm + 1e-6)); 1 where max_norm is 0.
ALKN_HOST_DEVICE inline double clip_scale(double norm, double max_norm) noexcept {
  if (!(max_norm > 0)) return 1;
  const double scale = max_norm / (norm + 1e-6);
  return scale < 1 ? scale : 1;
}

/// The unbiased standard deviation of n numbers by their sum and sum of squares; 0 for n < 2.
ALKN_HOST_DEVICE inline double unbiased_deviation(double sum, double squares,
                                                  std::int64_t n) noexcept {
  if (n < 2) return 0;
  const auto count = static_cast<double>(n);
  const double centered = std::fma(-sum, sum / count, squares);
  return centered > 0 ? std::sqrt(centered / (count - 1)) : (centered <= 0 ? 0 : centered);
}

/// An integer that orders as the float does, both zeros alike, NaN above all else.
ALKN_HOST_DEVICE inline std::uint32_t order_key(float x) noexcept {
  const auto bits = bit_copy<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return 0xFFFFFFFFU;
  if ((bits & 0x7FFFFFFFU) == 0) return 0x80000000U;
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
ALKN_HOST_DEVICE inline float key_value(std::uint32_t key) noexcept {
  if (key == 0xFFFFFFFFU) return std::numeric_limits<float>::quiet_NaN();
  return bit_copy<float>((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}

/// The score's formula for a tensor. @param used whether it has a union mask M
ALKN_HOST_DEVICE inline ScoreNumbers score_numbers(const ScoreFormula& formula, float scale,
                                                   bool used, float deviation) noexcept {
  ScoreNumbers n;
  n.formula = formula;
  if (formula.kind == ScoreKind::ratio) n.formula.alignment = 1;
  n.scale = scale;
  const auto k = static_cast<float>(formula.penalty);
  const double penalty = static_cast<double>(deviation) * static_cast<double>(k);
  n.penalty = used ? flushed_float(penalty) : 0.0F;
  return n;
}

/// rho after `done` of `announced` steps (spec: section 4): it falls from `start` to half of it in
/// five strides, each at the end of a period of announced / 5 steps.
inline double unmask_ratio_after(double start, std::int64_t done, std::int64_t announced) noexcept {
  const std::int64_t fifth = announced / 5, period = fifth < 1 ? 1 : fifth;
  const std::int64_t last = announced - 1;  // no stride after the last step
  const std::int64_t whole = (done < last ? done : last) / period * period;
  if (whole <= 0) return start;
  return start - (start - start / 2) * static_cast<double>(whole) / static_cast<double>(announced);
}

// --- the threshold (spec: section 4) ---------------------------------------------------------

/// Whether a tensor of n elements has a threshold: of fewer than 10 every entry is trained.
ALKN_HOST_DEVICE constexpr bool has_threshold(std::int64_t n) noexcept { return n >= 10; }

/// k = max(5, floor(trim_ratio n)).
ALKN_HOST_DEVICE inline std::int64_t trim_count(std::int64_t n, double trim_ratio) noexcept {
  const auto k = static_cast<std::int64_t>(static_cast<double>(n) * trim_ratio);
  return k < 5 ? 5 : k;
}

/// Which two order statistics the threshold takes, counted from the largest (1): the k-th largest
/// and the k-th smallest; the smallest twice where everything is to be trained.
struct Ranks {
  std::int64_t low = 0, high = 0;
};
ALKN_HOST_DEVICE inline Ranks threshold_ranks(std::int64_t n, double unmask_ratio,
                                              double trim_ratio) noexcept {
  if (unmask_ratio >= 1) return {n, n};
  const std::int64_t k = trim_count(n, trim_ratio);
  return {n - k + 1, k};
}

/// The smaller of low - 1, rounded to float, and the next number below low: the one is low itself
/// from 2^24 on.
ALKN_HOST_DEVICE inline float below(float low) noexcept {
  const auto lowered = static_cast<float>(static_cast<double>(low) - 1);
  if (!(lowered >= low) || low == -std::numeric_limits<float>::infinity()) return lowered;
  return key_value(order_key(low) - 1);
}

/// eta = hi - (hi - lo) (rho n - k + 1) / (n - 2k + 2), in double, rounded once to float, which
/// is not denormal; for rho >= 1 below(lo).
ALKN_HOST_DEVICE inline float threshold(float low, float high, std::int64_t n, double unmask_ratio,
                                        double trim_ratio) noexcept {
  if (unmask_ratio >= 1) return below(low);
  const auto k = static_cast<double>(trim_count(n, trim_ratio));
  const auto count = static_cast<double>(n);
  const double fraction = (std::fma(unmask_ratio, count, -k) + 1) / (std::fma(-2.0, k, count) + 2);
  const double spread = static_cast<double>(high) - static_cast<double>(low);
  return flushed_float(std::fma(-spread, fraction, static_cast<double>(high)));
}

}  // namespace alkn::kernel
