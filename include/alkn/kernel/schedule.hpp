// What changes from step to step without anybody's doing: AdamW's bias corrections and the schedule
// of rho. Host and device, with the same bits: products are written out, and powers are products.
#pragma once

#include <cmath>
#include <cstdint>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// x^n for n >= 0, by squaring.
ALKN_HOST_DEVICE inline double power(double x, std::int64_t n) noexcept {
  double result = 1;
  for (; n > 0; n /= 2, x *= x) {
    if (n % 2 != 0) result *= x;
  }
  return result;
}

/// AdamW's hyperparameters of one tensor, in double.
struct AdamWSchedule {
  double lr = 0, lr_used = 0;  ///< of entries outside the union mask M, and in it
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;  ///< the number of the step, 1-based
};

/// The same, rounded to fp32 once, for step `step`.
ALKN_HOST_DEVICE inline AdamWNumbers adamw_numbers(const AdamWSchedule& s,
                                                   std::int64_t step) noexcept {
  AdamWNumbers n;
  const double bias1 = 1 - power(s.beta1, step);
  const double rates[2] = {s.lr, s.lr_used};
  for (int i = 0; i < 2; ++i) {
    n.decay[i] = flushed_float(std::fma(-rates[i], s.weight_decay, 1.0));
    n.step_size[i] = flushed_float(rates[i] / bias1);
  }
  n.beta1 = flushed_float(s.beta1);
  n.one_minus_beta1 = flushed_float(1 - s.beta1);
  n.beta2 = flushed_float(s.beta2);
  n.one_minus_beta2 = flushed_float(1 - s.beta2);
  n.bias2_sqrt = flushed_float(std::sqrt(1 - power(s.beta2, step)));
  n.eps = flushed_float(s.eps);
  return n;
}

/// rho after `done` of `announced` steps (spec: section 4): it falls from `start` to half of it in
/// five strides, each at the end of a period of announced / 5 steps.
ALKN_HOST_DEVICE inline double unmask_ratio_after(double start, std::int64_t done,
                                                  std::int64_t announced) noexcept {
  const std::int64_t fifth = announced / 5, period = fifth < 1 ? 1 : fifth;
  const std::int64_t last = announced - 1;  // no stride after the last step
  const std::int64_t whole = (done < last ? done : last) / period * period;
  if (whole <= 0) return start;
  return start - (start - start / 2) * static_cast<double>(whole) / static_cast<double>(announced);
}

}  // namespace alkn::kernel
