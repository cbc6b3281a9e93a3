// The one strength axis of a method: where to try next.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace experiment {

/// A run on the axis: strength, and the forget probability that it left.
struct AxisPoint {
  double strength;
  double forgotten;
};

/// log(p / (1 - p)), probabilities taken for within [1e-6, 1 - 1e-6].
inline double log_odds(double p) {
  constexpr double kLeast = 1e-6;
  const double inside = std::clamp(p, kLeast, 1 - kLeast);
  return std::log(inside / (1 - inside));
}

/// The strength to try next, so that few runs lie near all levels: the level that no run is near to
/// is approached, by interpolation in log-odds over the logarithm of the strength between two runs
/// around it, or by at most a factor beyond the last run. Deterministic.
/// @param points of earlier runs, at least one, strengths above 0  @param levels in (0, 1)
inline double next_strength(std::vector<AxisPoint> points, const std::vector<double>& levels) {
  constexpr double kFactor = 2.5, kInner = 0.2;
  std::sort(points.begin(), points.end(),
            [](const AxisPoint& a, const AxisPoint& b) { return a.strength < b.strength; });
  double target = levels.front(), farthest = -1;
  for (const double level : levels) {
    double nearest = std::numeric_limits<double>::infinity();
    for (const AxisPoint& point : points) {
      nearest = std::min(nearest, std::abs(log_odds(point.forgotten) - log_odds(level)));
    }
    if (nearest > farthest) {
      farthest = nearest;
      target = level;
    }
  }
  // Between the last run that forgets too little and the next one, or beyond the ends.
  std::size_t above = points.size();
  for (std::size_t i = 0; i < points.size() && points[i].forgotten > target; ++i) {
    above = i;
  }
  if (above == points.size()) {
    return points.front().strength / kFactor;
  }
  if (above + 1 == points.size()) {
    return points.back().strength * kFactor;
  }
  const AxisPoint &low = points[above], &high = points[above + 1];
  const double a = log_odds(low.forgotten), b = log_odds(high.forgotten);
  const double share = std::clamp((a - log_odds(target)) / (a - b), kInner, 1 - kInner);
  return low.strength * std::pow(high.strength / low.strength, share);
}

/// The run nearest to a level in log-odds.
inline std::size_t nearest_point(const std::vector<AxisPoint>& points, double level) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < points.size(); ++i) {
    if (std::abs(log_odds(points[i].forgotten) - log_odds(level)) <
        std::abs(log_odds(points[best].forgotten) - log_odds(level))) {
      best = i;
    }
  }
  return best;
}

}  // namespace experiment
