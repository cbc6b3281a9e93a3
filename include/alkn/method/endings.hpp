// The third policy of a method: what becomes of the fine-tuned weights at the end of a task.
#pragma once

#include <alkn/option.hpp>

namespace alkn {

/// The fine-tuned weights stay.
struct Keep {
  static constexpr const char* kName = "keep";
  static constexpr bool kNegates = false;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    ALKN_OPTIONS_END();
  };
};

/// The task's difference is negated: theta_t = theta_{t-1} - lambda_t (theta_ft - theta_{t-1}),
/// with lambda_t = negation negation_decay^t (task-vector negation, Ilharco et al. 2023; section 1
/// of the algorithm).
struct Negate {
  static constexpr const char* kName = "negate";
  static constexpr bool kNegates = true;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// lambda, [0, 1e30].
    ALKN_OPTION(Self, double, negation, 1, Range::non_negative_float());
    /// The factor on lambda from task to task, (0, inf).
    ALKN_OPTION(Self, double, negation_decay, 1, Range::positive());
    ALKN_OPTIONS_END();
  };
};

}  // namespace alkn
