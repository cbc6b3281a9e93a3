// The options of a method: those common to all, and those of its policies, set in one chain.
#pragma once

#include <alkn/backend.hpp>
#include <alkn/method/endings.hpp>
#include <alkn/method/masks.hpp>
#include <alkn/objective/entropic_soft_labels.hpp>
#include <alkn/option.hpp>
#include <alkn/task/settings.hpp>

#include <concepts>
#include <cstdint>

namespace alkn {

namespace detail {

template <class Self>
struct CommonOptions {
  ALKN_OPTIONS_BEGIN();
  /// Gradient clipping by global norm, [0, inf); 0: none.
  ALKN_OPTION(Self, double, max_norm, 1.0, Range::non_negative());
  /// The factor on every group's learning rate from task to task, (0, inf).
  ALKN_OPTION(Self, double, lr_decay, 1.0, Range::positive());
  /// The retain term of the loss and its weight, [0, inf).
  ALKN_OPTION(Self, RetainTerm, retain_term, RetainTerm::none);
  ALKN_OPTION(Self, double, retain_weight, 1.0, Range::non_negative());
  /// Whether the weights of the start of a task are held although the ending does not need them, so
  /// that a task can be abandoned after its first step. Endings that negate hold them anyway.
  ALKN_OPTION(Self, bool, rollback, false);
  /// Whether the weights of the start of a task are held in host memory.
  ALKN_OPTION(Self, bool, start_on_host, false);
  /// Which code takes the step.
  ALKN_OPTION(Self, Backend, backend, Backend::automatic);
  ALKN_OPTIONS_END();
};

}  // namespace detail

/// All options of Unlearner<Objective, Mask, Ending, Base>, flat:
/// `ALKNOptions().steepness(10).alignment(1).negation(0.8)`.
template <class Objective, class Mask, class Ending>
class MethodOptions : public detail::CommonOptions<MethodOptions<Objective, Mask, Ending>>,
                      public Objective::template Options<MethodOptions<Objective, Mask, Ending>>,
                      public Mask::template Options<MethodOptions<Objective, Mask, Ending>>,
                      public Ending::template Options<MethodOptions<Objective, Mask, Ending>> {
  using Common = detail::CommonOptions<MethodOptions>;
  using ObjectiveOptions = typename Objective::template Options<MethodOptions>;
  using MaskOptions = typename Mask::template Options<MethodOptions>;
  using EndingOptions = typename Ending::template Options<MethodOptions>;
  static constexpr bool kIsALKN = std::same_as<Objective, EntropicSoftLabels> &&
                                  std::same_as<Mask, LocalizedMask> && std::same_as<Ending, Negate>;

 public:
  /// The defaults of the policies; of ALKN, the preset `conflict`.
  MethodOptions() {
    if constexpr (kIsALKN) this->negation(2);
  }

  /// The published algorithm: s = 10, a = +1, mu over the gradient with k = 1, modulation by
  /// parameter, lambda = 0.8.
  static MethodOptions paper() requires kIsALKN {
    return reference()
        .steepness(10)
        .penalty_scale(PenaltyScale::gradient)
        .penalty(1)
        .modulation(Modulation::parameter)
        .negation(0.8);
  }
  /// The published Python code: s = 1.5, a = +1, mu over the product with k = 0.5, modulation by
  /// tensor, lambda = 1.
  static MethodOptions reference() requires kIsALKN {
    return MethodOptions().alignment(1).negation(1);
  }
  /// `reference` with a = -1 and lambda = 2: trains where the two gradients conflict. The default.
  static MethodOptions conflict() requires kIsALKN { return MethodOptions(); }
  /// Experimental, in no publication: the score |g| / (|G_r| + mean|G_r|), lambda = 2.
  static MethodOptions ratio() requires kIsALKN { return MethodOptions().score(Score::ratio); }

  /// Calls `v(name, value, range)` for every number and `v(name, value)` for every choice, in a
  /// fixed order.
  template <class Visitor>
  void visit(Visitor&& v) const {
    Common::visit(v);
    ObjectiveOptions::visit(v);
    MaskOptions::visit(v);
    EndingOptions::visit(v);
  }

  /// Throws c10::ValueError, naming the field, for a value out of range.
  void validate(std::string_view owner) const {
    visit(detail::RangeChecker{owner});
    if constexpr (Mask::kKind == kernel::MaskKind::localized) {
      TORCH_CHECK_VALUE(this->unmask_ratio() / 2 > this->trim_ratio(), "alkn::", owner,
                        ": expected unmask_ratio / 2 above trim_ratio (", this->trim_ratio(),
                        "), got ", this->unmask_ratio() / 2);
    }
  }
};

}  // namespace alkn
