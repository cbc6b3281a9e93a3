// Predicts where the order statistics of the next step lie, by the last steps.
//
// Nothing here decides a result: the counts notice a prediction that fails.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/passes.hpp>
#include <alkn/kernel/select/candidates.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

struct ThresholdRule {
  std::int64_t size = 0;
  double unmask_ratio = 0, trim_ratio = 0;

  [[nodiscard]] Ranks ranks() const { return threshold_ranks(size, unmask_ratio, trim_ratio); }
  [[nodiscard]] float eta(float low, float high) const {
    return threshold(low, high, size, unmask_ratio, trim_ratio);
  }
};

/// Fills in the threshold's interval from those of the two order statistics.
inline void bracket_threshold(Pivots& p, const ThresholdRule& rule) {
  const float corners[4] = {rule.eta(p.low_a, p.high_a), rule.eta(p.low_a, p.high_b),
                            rule.eta(p.low_b, p.high_a), rule.eta(p.low_b, p.high_b)};
  p.eta_a = corners[0], p.eta_b = corners[0];
  for (const float eta : corners) {
    if (!(std::fabs(eta) <
          std::numeric_limits<float>::infinity())) {  // no bound: set nothing aside
      p.eta_a = p.eta_b = std::numeric_limits<float>::infinity();
      return;
    }
    p.eta_a = std::min(p.eta_a, eta), p.eta_b = std::max(p.eta_b, eta);
  }
}

/// One order statistic over the steps: the next value is the last one and its last change; the
/// width by the errors of these predictions.
class Track {
 public:
  [[nodiscard]] bool ready() const { return seen_ >= 2; }
  /// The share of the scores that an interval should hold, by the density in the last one.
  [[nodiscard]] double share(float a, float b) const {
    return density_ * (static_cast<double>(b) - static_cast<double>(a));
  }
  void count(float a, float b, std::int64_t inside, std::int64_t n) {
    const double width = static_cast<double>(b) - static_cast<double>(a);
    if (width > 0 && width < 1e38)
      density_ = static_cast<double>(inside) / static_cast<double>(n) / width;
  }
  /// @param errors half the width, in largest recent errors
  void bracket(double errors, float& a, float& b) const {
    const float center = value_ + change_;
    const float half = seen_ == 2 ? 0.5F * std::fabs(change_) : static_cast<float>(errors) * error_;
    a = flushed(center - half), b = flushed(center + half);  // as the scores they bracket
  }
  void observe(float value) {
    if (!(std::fabs(value) < std::numeric_limits<float>::infinity())) {
      seen_ = 0;  // nothing to extrapolate from
      return;
    }
    if (seen_ >= 2) {
      const float error = std::fabs(value - (value_ + change_));
      error_ = std::max(error, seen_ == 2 ? 0.0F : tuning::kErrorDecay * error_);
    }
    change_ = seen_ >= 1 ? value - value_ : 0.0F;
    value_ = value;
    seen_ = std::min(seen_ + 1, 3);
  }

 private:
  float value_ = 0;
  float change_ = 0;
  float error_ = 0;
  double density_ = 0;
  int seen_ = 0;
};

/// How often the order statistics lay where they were predicted. A bracket by a sample that follows
/// one that missed counts as well.
struct PredictionCounts {
  std::int64_t hits = 0, misses = 0;                  ///< of brackets by the last steps
  std::int64_t widened = 0;                           ///< of them all, those made wider meanwhile
  std::int64_t sampled_hits = 0, sampled_misses = 0;  ///< of brackets by a sample

  PredictionCounts& operator+=(const PredictionCounts& other) noexcept {
    hits += other.hits, misses += other.misses, widened += other.widened;
    sampled_hits += other.sampled_hits, sampled_misses += other.sampled_misses;
    return *this;
  }
};

/// The share of all scores that both brackets by a sample hold on average, at the trim ratio .15.
inline double sampled_share(double sigmas, std::int64_t num_sampled) {
  return 4 * sigmas * 0.36 / std::sqrt(static_cast<double>(num_sampled));
}

/// What is remembered of one tensor's thresholds from step to step.
class Predictor {
 public:
  /// Brackets by the last steps; false where they predict nothing, or less than a sample of
  /// `num_sampled` would, and a sample has to.
  /// @param errors half a bracket's width, in largest recent errors
  [[nodiscard]] bool predict(const ThresholdRule& rule, std::int64_t num_sampled, double errors,
                             Pivots& p) const {
    const Ranks ranks = rule.ranks();
    if (ranks.low != ranks_.low || ranks.high != ranks_.high) return false;
    if (!low_.ready() || !high_.ready() || pause_ > 0 || tied_) return false;
    low_.bracket(errors, p.low_a, p.low_b);
    high_.bracket(errors, p.high_a, p.high_b);
    if (!(p.low_a <= p.low_b && p.high_a <= p.high_b)) return false;  // NaN after an overflow
    const double held = low_.share(p.low_a, p.low_b) + high_.share(p.high_a, p.high_b);
    if (held > sampled_share(sigmas(), num_sampled)) return false;
    bracket_threshold(p, rule);
    p.closed = true;
    return true;
  }
  /// Standard deviations for a sampled bracket: more after samples that misled.
  [[nodiscard]] double sigmas() const { return tuning::kSampleSigmas * widen_; }

  /// What the step's order statistics were.
  void observe(const ThresholdRule& rule, float low, float high) {
    const Ranks ranks = rule.ranks();
    if (ranks.low != ranks_.low || ranks.high != ranks_.high) low_ = high_ = Track();
    ranks_ = ranks;
    low_.observe(low), high_.observe(high);
    if (pause_ > 0) --pause_;
    if (crowd_pause_ > 0) --crowd_pause_;
  }
  /// Both lay in their intervals.
  void hit(const SelectedPair& pair, const Pivots& p, std::int64_t n, bool by_sample) {
    if (!pair.low.tied) low_.count(p.low_a, p.low_b, pair.low.inside, n);
    if (!pair.high.tied) high_.count(p.high_a, p.high_b, pair.high.inside, n);
    ++(by_sample ? counts_.sampled_hits : counts_.hits);
    if (by_sample) {
      widen_ = std::max(1.0, widen_ * 0.9);
      tied_ = pair.low.tied || pair.high.tied;
    } else {
      penalty_ = std::max(1, penalty_ - 1);
    }
  }
  /// One did not, or too many candidates lay there.
  void miss(bool by_sample) {
    ++(by_sample ? counts_.sampled_misses : counts_.misses);
    if (by_sample) {
      widen_ = std::min(8.0, widen_ * 1.5);
    } else {  // trust the last steps again after a while, longer each time
      penalty_ = std::min(32, penalty_ * 2);
      pause_ = penalty_;
    }
  }
  /// Too many scores lay where the threshold might: for a while, longer each time, brackets by the
  /// last steps have none for it. Under the heavy tails of real scores the two order statistics lie
  /// far out, where a small uncertainty is wide in the middle, where most scores are.
  void crowd() {
    crowd_penalty_ = std::min(32, crowd_penalty_ * 2);
    crowd_pause_ = crowd_penalty_;
  }
  [[nodiscard]] bool crowded() const { return crowd_pause_ > 0; }
  /// Counts a bracket by the last steps that was made wider.
  void widen() { ++counts_.widened; }
  [[nodiscard]] const PredictionCounts& counts() const { return counts_; }

 private:
  PredictionCounts counts_;
  Track low_, high_;
  Ranks ranks_;  ///< that the two follow
  double widen_ = 1;
  int penalty_ = 1;
  int pause_ = 0;
  int crowd_penalty_ = 1;
  int crowd_pause_ = 0;
  bool tied_ = false;  ///< many scores are equal: brackets by a sample count them, storing none
};

}  // namespace alkn::kernel
