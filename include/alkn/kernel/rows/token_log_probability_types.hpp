// The element types of logits, and their conversions one at a time. C++17, no LibTorch.
#pragma once

#include <cstdint>
#include <limits>

#include <alkn/kernel/math.hpp>

namespace alkn::kernel {

/// The upper 16 bits of a float.
struct BFloat16 {
  std::uint16_t bits;
};

/// IEEE binary16.
struct Half {
  std::uint16_t bits;
};

namespace rows {

inline float widen(float x) noexcept { return x; }
inline double widen(double x) noexcept { return x; }
inline float widen(BFloat16 x) noexcept { return bfloat16_to_float(x.bits); }
inline float widen(Half x) noexcept { return half_to_float(x.bits); }

/// Rounds to nearest even, by way of float where T is narrower; not to a denormal float.
template <class T>
T round_to(double x) noexcept;
template <>
inline double round_to<double>(double x) noexcept {
  return x;
}
template <>
inline float round_to<float>(double x) noexcept {
  return flushed_float(x);
}
template <>
inline BFloat16 round_to<BFloat16>(double x) noexcept {
  return {float_to_bfloat16(flushed_float(x))};
}
template <>
inline Half round_to<Half>(double x) noexcept {
  return {float_to_half(flushed_float(x))};
}

/// Minus infinity.
template <class T>
inline constexpr T kLowest{};
template <>
inline constexpr float kLowest<float> = -std::numeric_limits<float>::infinity();
template <>
inline constexpr BFloat16 kLowest<BFloat16>{0xFF80};
template <>
inline constexpr Half kLowest<Half>{0xFC00};

}  // namespace rows
}  // namespace alkn::kernel
