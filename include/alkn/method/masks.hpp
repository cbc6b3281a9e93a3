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
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::none;

  template <class Self>
  class Options {
   public:
    template <class Visitor>
    void visit(Visitor&&) {}
  };
};

/// The user's own mask: bool tensors by parameter name; parameters without one are trained
/// entirely.
struct GivenMask {
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::given;

  template <class Self>
  class Options {
    /// Per parameter name a bool tensor of the parameter's shape, true: trained.
    ALKN_OPTION(Self, std::vector<NamedParameter>, masks, {});
    /// What happens to an entry whose mask is off; `freeze` requires alkn::AdamW.
    ALKN_OPTION(Self, Masked, masked, Masked::gradient);

   public:
    template <class Visitor>
    void visit(Visitor&& v) {
      v("masked", masked_);
    }
  };
};

/// Dynamic gradient sparsity: a score accumulated from the forget and the retain gradient against a
/// threshold per tensor. Section 3 to 5 of the algorithm; asks for the retain gradient.
struct LocalizedMask {
  static constexpr kernel::MaskKind kKind = kernel::MaskKind::localized;

  template <class Self>
  class Options {
    /// What the score accumulates.
    ALKN_OPTION(Self, Score, score, Score::product);
    /// a in m += a d, finite. +1 as published keeps entries where both gradients agree, -1 where
    /// they conflict.
    ALKN_OPTION(Self, double, alignment, -1);
    /// rho_0, the share of entries to train, (0, inf); it halves over the first task. At least 1:
    /// everything at first.
    ALKN_OPTION(Self, double, unmask_ratio, 0.8);
    /// The order statistics between which thresholds interpolate, (0, 0.5); rho_0 / 2 must be above
    /// it.
    ALKN_OPTION(Self, double, trim_ratio, 0.15);
    /// Steps between two thresholds in the first task, [1, inf).
    ALKN_OPTION(Self, std::int64_t, threshold_every, 1);
    /// k in m -= mu k M from the second task on, [0, inf).
    ALKN_OPTION(Self, double, penalty, 0.5);
    /// What mu is the standard deviation of.
    ALKN_OPTION(Self, PenaltyScale, penalty_scale, PenaltyScale::product);
    /// What happens to an entry whose mask is off; `freeze` requires alkn::AdamW.
    ALKN_OPTION(Self, Masked, masked, Masked::gradient);
    /// Where the low learning rate applies from the second task on.
    ALKN_OPTION(Self, Modulation, modulation, Modulation::tensor);
    /// The low learning rate as a share of the learning rate, [0, 1].
    ALKN_OPTION(Self, double, low_lr_ratio, 0.1);
    /// The precision in which the retain gradient is kept during a task.
    ALKN_OPTION(Self, RetainPrecision, retain_precision, RetainPrecision::automatic);
    /// Whether the score, and over alkn::AdamW the moments of a task, are kept as bfloat16, rounded
    /// stochastically: see AdamWOptions::compact_state, which has the same effect.
    ALKN_OPTION(Self, bool, compact_state, false);

   public:
    template <class Visitor>
    void visit(Visitor&& v) {
      using detail::Range;
      v("score", score_);
      v("alignment", alignment_, Range::finite());
      v("unmask_ratio", unmask_ratio_, Range::positive());
      v("trim_ratio", trim_ratio_, Range::open(0, 0.5));
      v("threshold_every", threshold_every_, Range::closed_open(1, Range::kInfinity));
      v("penalty", penalty_, Range::non_negative());
      v("penalty_scale", penalty_scale_);
      v("masked", masked_);
      v("modulation", modulation_);
      v("low_lr_ratio", low_lr_ratio_, Range::closed(0, 1));
      v("retain_precision", retain_precision_);
      v("compact_state", compact_state_);
    }

    [[nodiscard]] detail::LocalizedSettings localized() const {
      return {.score = score_,
              .alignment = alignment_,
              .unmask_ratio = unmask_ratio_,
              .trim_ratio = trim_ratio_,
              .threshold_every = threshold_every_,
              .penalty = penalty_,
              .penalty_scale = penalty_scale_,
              .masked = masked_,
              .modulation = modulation_,
              .low_lr_ratio = low_lr_ratio_,
              .retain_precision = retain_precision_,
              .compact_state = compact_state_};
    }
  };
};

}  // namespace alkn
