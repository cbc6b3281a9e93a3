// The step once more, straight from the specification: plain loops, double sums, a sort for the
// order statistics.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "inputs.hpp"

namespace alkn_test {

inline bool nan_last_less(float a, float b) { return std::isnan(b) ? !std::isnan(a) : a < b; }

/// A number below 2^-126 counts as 0.
inline float without_denormal(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x;
}

/// eta of section 4 by sorting.
inline float reference_threshold(std::vector<float> m, double rho, double trim) {
  const auto n = static_cast<std::int64_t>(m.size());
  std::sort(m.begin(), m.end(), nan_last_less);
  if (rho >= 1) return static_cast<float>(static_cast<double>(m.front()) - 1.0);
  const std::int64_t k = std::max<std::int64_t>(
      5, static_cast<std::int64_t>(std::floor(trim * static_cast<double>(n))));
  const double hi = static_cast<double>(m[static_cast<std::size_t>(n - k)]);
  const double lo = static_cast<double>(m[static_cast<std::size_t>(k - 1)]);
  const double fraction = (rho * static_cast<double>(n) - static_cast<double>(k) + 1) /
                          static_cast<double>(n - 2 * k + 2);
  return without_denormal(static_cast<float>(hi - (hi - lo) * fraction));
}

struct ReferenceResult {
  double norm = 0, scale = 1;
  bool skipped = false;
  std::vector<std::int64_t> num_trained;
};

/// One step on the fp32 arrays of `tensors` (param is the master). Moments and parameters in double
/// per operation.
inline ReferenceResult reference_step(std::vector<OwnedTensor>& tensors, const StepArgs& args) {
  ReferenceResult result;
  double squares = 0;
  for (const OwnedTensor& t : tensors) {
    for (std::int64_t i = 0; i < t.size; ++i) {
      squares += static_cast<double>(t.gradient(i)) * static_cast<double>(t.gradient(i));
    }
  }
  result.norm = std::sqrt(squares);
  if (!std::isfinite(result.norm)) {
    result.skipped = true;
    return result;
  }
  if (args.max_norm > 0) result.scale = std::min(1.0, args.max_norm / (result.norm + 1e-6));
  const auto scale = static_cast<float>(result.scale);
  for (OwnedTensor& t : tensors) {
    std::vector<float> clipped, products, scores;
    for (std::int64_t i = 0; i < t.size; ++i) {
      const float g = t.gradient(i) * scale;
      clipped.push_back(g);
      products.push_back(args.score.kind == ScoreKind::ratio ? std::fabs(g) * t.retain[t.at(i)]
                                                             : g * t.retain[t.at(i)]);
    }
    float penalty = 0;
    if (t.has_used && t.size > 1) {
      const auto& source = args.score.penalty_scale == PenaltyScale::product ? products : clipped;
      double mean = 0, variance = 0;
      for (const float x : source) mean += static_cast<double>(x) / static_cast<double>(t.size);
      for (const float x : source) {
        const double off = static_cast<double>(x) - mean;
        variance += off * off / static_cast<double>(t.size - 1);
      }
      penalty = static_cast<float>(std::sqrt(variance) * args.score.penalty);
    }
    const bool localized = args.mask == MaskKind::localized;
    for (std::int64_t i = 0; localized && i < t.size; ++i) {
      const float a =
          args.score.kind == ScoreKind::ratio ? 1.0F : static_cast<float>(args.score.alignment);
      float& m = t.score[t.at(i)];
      m = static_cast<float>(static_cast<double>(a) *
                                 static_cast<double>(products[static_cast<std::size_t>(i)]) +
                             static_cast<double>(m));
      if (t.has_used && OwnedTensor::bit(t.used, i)) m = m - penalty;
      scores.push_back(m);
    }
    const bool small = t.size < 10;
    if (localized && args.threshold_due && t.learns && !small) {
      t.threshold = reference_threshold(scores, args.unmask_ratio, args.trim_ratio);
    }
    std::int64_t num_trained = 0;
    for (std::int64_t i = 0; i < t.size; ++i) {
      bool on = true;
      if (args.mask == MaskKind::given) on = OwnedTensor::bit(t.mask, i);
      if (localized) {
        on = small || t.score[t.at(i)] > t.threshold;
        num_trained += on ? 1 : 0;
        auto& word = t.mask[static_cast<std::size_t>(i / 64)];
        const std::uint64_t bit = std::uint64_t{1} << (i % 64);
        word = on ? word | bit : word & ~bit;
      }
      const double g = on ? static_cast<double>(clipped[static_cast<std::size_t>(i)]) : 0.0;
      if (args.update == Update::gradient) {
        t.grad_out[t.at(i)] = static_cast<float>(g);
        continue;
      }
      if (!on && args.masked == Masked::freeze) continue;
      const AdamWLanes<float>& n = t.adamw;
      const bool used = t.has_used && OwnedTensor::bit(t.used, i);
      const float decay = used ? n.decay_used : n.decay;
      const float step_size = used ? n.step_size_used : n.step_size;
      float& m1 = t.exp_avg[t.at(i)];
      float& m2 = t.exp_avg_sq[t.at(i)];
      float& p = t.param[t.at(i)];
      const auto d = [](float x) { return static_cast<double>(x); };
      m1 = static_cast<float>(d(n.beta1) * d(m1) + d(n.one_minus_beta1) * g);
      m2 = static_cast<float>(d(n.beta2) * d(m2) + d(n.one_minus_beta2) * g * g);
      const double denominator = std::sqrt(d(m2)) / d(n.bias2_sqrt) + d(n.eps);
      p = static_cast<float>(d(p) * d(decay) - d(step_size) * d(m1) / denominator);
    }
    result.num_trained.push_back(num_trained);
  }
  return result;
}

}  // namespace alkn_test
