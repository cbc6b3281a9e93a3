// A positive double with a wide exponent: probabilities far below 1e-308 keep their relative
// accuracy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace alkn::eval::detail {

/// mantissa * 2^(512 block), the mantissa 0 or in [2^-256, 2^256). Scaling by powers of two is
/// exact: an operation rounds as the same one on doubles does.
class ScaledNumber {
 public:
  ScaledNumber() = default;
  explicit ScaledNumber(double value) : mantissa_(value) { normalize(); }

  ScaledNumber& operator*=(double factor) {
    mantissa_ *= factor;
    normalize();
    return *this;
  }

  ScaledNumber& operator+=(const ScaledNumber& other) {
    if (other.mantissa_ == 0) return *this;
    if (mantissa_ == 0) return *this = other;
    const ScaledNumber& low = other.block_ < block_ ? other : *this;
    const ScaledNumber& high = other.block_ < block_ ? *this : other;
    const int64_t apart = high.block_ - low.block_;
    // Two blocks apart the lower one is below half an ulp of the higher.
    const double lower = apart == 0 ? low.mantissa_ : apart == 1 ? low.mantissa_ * kDown : 0.0;
    mantissa_ = high.mantissa_ + lower;
    block_ = high.block_;
    normalize();
    return *this;
  }

  /// Natural logarithm, -inf for 0.
  double log() const {
    return std::log(mantissa_) + static_cast<double>(block_ * 512) * 0.693147180559945309417;
  }

  /// As a double: 0 or subnormal where it is too small for one.
  double value() const {
    const auto exponent = static_cast<int>(std::clamp<int64_t>(block_ * 512, -4096, 4096));
    return std::ldexp(mantissa_, exponent);
  }

 private:
  static constexpr double kDown = 0x1p-512;
  static constexpr double kUp = 0x1p512;

  void normalize() {
    if (mantissa_ >= 0x1p256) {
      mantissa_ *= kDown;
      ++block_;
    } else if (mantissa_ < 0x1p-256 && mantissa_ != 0) {
      mantissa_ *= kUp;
      --block_;
    }
  }

  double mantissa_ = 0;
  int64_t block_ = 0;
};

}  // namespace alkn::eval::detail
