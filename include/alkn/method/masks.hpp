// The second policy of a method: which entries the gradient may move.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/option.hpp>
#include <alkn/parameters.hpp>
#include <alkn/task/settings.hpp>

#include <cstdint>
#include <utility>
#include <vector>

namespace alkn {

/// Every entry is trained.
struct NoMask {
  static constexpr const char* kName = "none";
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::none;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    ALKN_OPTIONS_END();
  };
};

/// The user's own mask: bool tensors by parameter name; parameters without one are trained
/// entirely.
struct GivenMask {
  static constexpr const char* kName = "given";
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::given;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// Per parameter name a bool tensor of the parameter's shape, true: trained.
    ALKN_OPTION(Self, std::vector<NamedParameter>, masks, {});
    /// What happens to an entry whose mask is off; `freeze` requires alkn::AdamW.
    ALKN_OPTION(Self, Masked, masked, Masked::gradient);
    ALKN_OPTIONS_END();
  };
};

/// Dynamic gradient sparsity: a score accumulated from the forget and the retain gradient against a
/// threshold per tensor. Section 3 to 5 of the algorithm; asks for the retain gradient.
struct LocalizedMask {
  static constexpr const char* kName = "localized";
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::localized;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// What the score accumulates.
    ALKN_OPTION_IN(Self, Score, score, localized_.score.kind);
    /// a in m += a d, finite. +1 as published keeps entries where both gradients agree, -1 where
    /// they conflict.
    ALKN_OPTION_IN(Self, double, alignment, localized_.score.alignment, Range::finite());
    /// rho_0, the share of entries to train, (0, inf); it halves over the first task. At least 1:
    /// everything at first.
    ALKN_OPTION_IN(Self, double, unmask_ratio, localized_.unmask_ratio, Range::positive());
    /// The order statistics between which thresholds interpolate, (0, 0.5); rho_0 / 2 must be above
    /// it.
    ALKN_OPTION_IN(Self, double, trim_ratio, localized_.trim_ratio, Range::open(0, 0.5));
    /// Steps between two thresholds in the first task, [1, inf).
    ALKN_OPTION_IN(Self, std::int64_t, threshold_every, localized_.threshold_every,
                   Range::closed_open(1, Range::kInfinity));
    /// k in m -= mu k M from the second task on, [0, inf).
    ALKN_OPTION_IN(Self, double, penalty, localized_.score.penalty, Range::non_negative());
    /// What mu is the standard deviation of.
    ALKN_OPTION_IN(Self, PenaltyScale, penalty_scale, localized_.score.penalty_scale);
    /// What happens to an entry whose mask is off; `freeze` requires alkn::AdamW.
    ALKN_OPTION_IN(Self, Masked, masked, localized_.masked);
    /// Where the low learning rate applies from the second task on.
    ALKN_OPTION_IN(Self, Modulation, modulation, localized_.modulation);
    /// The low learning rate as a share of the learning rate, [0, 1].
    ALKN_OPTION_IN(Self, double, low_lr_ratio, localized_.low_lr_ratio, Range::closed(0, 1));
    /// The precision in which the retain gradient is kept during a task.
    ALKN_OPTION_IN(Self, RetainPrecision, retain_precision, localized_.retain_precision);
    /// Whether the score, and over alkn::AdamW the moments of a task, are kept as bfloat16, rounded
    /// stochastically: see AdamWOptions::compact_state, which has the same effect.
    ALKN_OPTION_IN(Self, bool, compact_state, localized_.compact_state);
    ALKN_OPTIONS_END();

    /// All of them as plain values, whose defaults stand there.
    [[nodiscard]] const detail::LocalizedSettings& localized() const noexcept { return localized_; }

   private:
    detail::LocalizedSettings localized_;
  };
};

}  // namespace alkn
