// The third policy of a method: what becomes of the fine-tuned weights at the end of a task.
#pragma once

#include <alkn/option.hpp>

namespace alkn {

/// The fine-tuned weights stay.
struct Keep {
  static constexpr bool kNegates = false;

  template <class Self>
  class Options {
   public:
    template <class Visitor>
    void visit(Visitor&&) {}
  };
};

/// The task's difference is negated: theta_t = theta_{t-1} - lambda_t (theta_ft - theta_{t-1}),
/// with lambda_t = negation negation_decay^t (task-vector negation, Ilharco et al. 2023; section 1
/// of the algorithm).
struct Negate {
  static constexpr bool kNegates = true;

  template <class Self>
  class Options {
    /// lambda, [0, inf).
    ALKN_OPTION(Self, double, negation, 1);
    /// The factor on lambda from task to task, (0, inf).
    ALKN_OPTION(Self, double, negation_decay, 1);

   public:
    template <class Visitor>
    void visit(Visitor&& v) {
      v("negation", negation_, detail::Range::non_negative());
      v("negation_decay", negation_decay_, detail::Range::positive());
    }
  };
};

}  // namespace alkn
