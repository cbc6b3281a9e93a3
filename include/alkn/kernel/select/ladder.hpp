// The rungs on which the two order statistics of scores that stand are looked for, each slower and
// surer than the one before. They stand here once, for tensors of one chunk and of several.
#pragma once

#include <cstdint>
#include <limits>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/select/candidates.hpp>
#include <alkn/kernel/select/predict.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

/// The brackets of a tensor's order statistics, and where they are from.
struct Brackets {
  Pivots pivots;
  bool by_sample = false;  ///< else by the last steps
};

/// The threshold gets no bracket of its own: no candidate is set aside for the mask, which the
/// update then makes from the scores.
inline void drop_threshold_bracket(Pivots& p) {
  p.eta_a = p.eta_b = std::numeric_limits<float>::infinity();
}

/// Widens both brackets about their middle.
inline void widen(Pivots& p) {
  const auto wider = [](float& a, float& b) {
    const float more = 0.5F * (tuning::kWidening - 1) * (b - a);
    a = flushed(a - more), b = flushed(b + more);
  };
  wider(p.low_a, p.low_b), wider(p.high_a, p.high_b);
}

/// The scores of one tensor, as the ladder reads them:
///   size()          how many there are
///   read(pivots)    what lies in these brackets, by one more pass over the scores: a SelectedPair
///   overflow()      whether the last read found more candidates than there is room for
///   sample(history) brackets by a sample
///   radix(pair)     the exact values, whatever the scores are
///
/// Finds both order statistics by a sample, or else by radix, and tells the predictor how that
/// fared.
template <class Scores>
SelectedPair climb_by_sample(Scores& scores, Predictor& history, Brackets& brackets) {
  brackets.by_sample = true;
  brackets.pivots = scores.sample(history);
  drop_threshold_bracket(brackets.pivots);
  SelectedPair pair = scores.read(brackets.pivots);
  if (pair.found()) {
    history.hit(pair, brackets.pivots, scores.size(), true);
  } else {
    history.miss(true);
    scores.radix(pair);
  }
  return pair;
}

/// The same with brackets to begin with, and `first`, what the pass that grew the scores found in
/// them. Where that is not both: the same brackets without the threshold's, if there was too little
/// room; wider ones; a sample; radix.
template <class Scores>
SelectedPair climb(Scores& scores, Predictor& history, Brackets& brackets, SelectedPair first) {
  SelectedPair pair = first;
  if (!pair.found() && scores.overflow()) {
    if (!brackets.by_sample) history.crowd();
    drop_threshold_bracket(brackets.pivots);
    pair = scores.read(brackets.pivots);
  }
  if (!pair.found() && !brackets.by_sample) {
    widen(brackets.pivots);
    history.widen();
    drop_threshold_bracket(brackets.pivots);
    pair = scores.read(brackets.pivots);
  }
  if (pair.found()) {
    history.hit(pair, brackets.pivots, scores.size(), brackets.by_sample);
    return pair;
  }
  if (!scores.overflow()) history.miss(brackets.by_sample);  // wider ones would hold still more
  return climb_by_sample(scores, history, brackets);
}

}  // namespace alkn::kernel
