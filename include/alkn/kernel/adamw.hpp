// AdamW's numbers: as a step takes them, in double, and as a kernel does, rounded to fp32 once.
// Products are written out, and powers are products: the same bits everywhere.
#pragma once

#include <cmath>
#include <cstdint>

#include <alkn/kernel/flush.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// x^n for n >= 0, by squaring.
inline double power(double x, std::int64_t n) noexcept {
  double result = 1;
  for (; n > 0; n /= 2, x *= x) {
    if (n % 2 != 0) result *= x;
  }
  return result;
}

/// AdamW's hyperparameters of one tensor and step.
struct AdamWNumbers {
  double lr = 0;       ///< of entries outside the union mask M
  double lr_used = 0;  ///< of entries in M; equal to `lr` unless modulation is by parameter
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;  ///< the number of this step, 1-based

  [[nodiscard]] double bias1() const noexcept { return 1 - power(beta1, step); }
  [[nodiscard]] double bias2_sqrt() const noexcept { return std::sqrt(1 - power(beta2, step)); }

  friend bool operator==(const AdamWNumbers& a, const AdamWNumbers& b) noexcept {
    return a.lr == b.lr && a.lr_used == b.lr_used && a.beta1 == b.beta1 && a.beta2 == b.beta2 &&
           a.eps == b.eps && a.weight_decay == b.weight_decay && a.step == b.step;
  }
  friend bool operator!=(const AdamWNumbers& a, const AdamWNumbers& b) noexcept {
    return !(a == b);
  }
};

/// The same as a kernel takes them.
inline AdamWLanes<float> rounded(const AdamWNumbers& n) noexcept {
  const double bias1 = n.bias1();
  AdamWLanes<float> lanes;
  lanes.decay = flushed_float(std::fma(-n.lr, n.weight_decay, 1.0));
  lanes.decay_used = flushed_float(std::fma(-n.lr_used, n.weight_decay, 1.0));
  lanes.step_size = flushed_float(n.lr / bias1);
  lanes.step_size_used = flushed_float(n.lr_used / bias1);
  lanes.beta1 = flushed_float(n.beta1);
  lanes.one_minus_beta1 = flushed_float(1 - n.beta1);
  lanes.beta2 = flushed_float(n.beta2);
  lanes.one_minus_beta2 = flushed_float(1 - n.beta2);
  lanes.bias2_sqrt = flushed_float(n.bias2_sqrt());
  lanes.eps = flushed_float(n.eps);
  return lanes;
}

}  // namespace alkn::kernel
