// Bootstrap intervals. What is drawn again is a cluster, all questions of one author together: the
// questions of an author resemble each other, and drawing them singly gives intervals that are too
// narrow.
//
// Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13
// (percentiles).
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {

/// Positions in an array of values.
using Positions = std::vector<Eigen::Index>;

/// Which positions are drawn together.
using Clusters = std::vector<Positions>;

/// How the bootstrap draws.
struct BootstrapOptions {
  int64_t resamples = 2000;  ///< draws, at least 1
  double confidence = 0.95;  ///< share of the resamples inside the interval, in (0, 1)
  uint64_t seed = 0;
};

/// A confidence interval.
struct Interval {
  double lower;
  double upper;
};

/// Every position for itself: a set without authors.
inline Clusters single_clusters(Eigen::Index size) {
  Clusters clusters(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < clusters.size(); ++i) clusters[i] = {static_cast<Eigen::Index>(i)};
  return clusters;
}

/// The positions of each author, authors in ascending order.
/// @param authors the author of every position
inline Clusters clusters_of(std::span<const int64_t> authors) {
  std::map<int64_t, Positions> by_author;
  for (std::size_t i = 0; i < authors.size(); ++i) {
    by_author[authors[i]].push_back(static_cast<Eigen::Index>(i));
  }
  Clusters clusters;
  for (auto& [author, positions] : by_author) clusters.push_back(std::move(positions));
  return clusters;
}

namespace detail {

/// Uniform in [0, bound), the same on every platform; std::uniform_int_distribution is not.
inline std::size_t draw_below(std::mt19937_64& generator, std::size_t bound) {
  const uint64_t size = bound;
  const uint64_t excess = (std::mt19937_64::max() % size + 1) % size;  // 2^64 mod size
  uint64_t value = generator();
  while (value > std::mt19937_64::max() - excess) value = generator();
  return static_cast<std::size_t>(value % size);
}

/// As many clusters as there are, drawn with replacement, and their positions.
inline Positions draw(std::mt19937_64& generator, const Clusters& clusters) {
  Positions drawn;
  for (std::size_t i = 0; i < clusters.size(); ++i) {
    const Positions& cluster = clusters[draw_below(generator, clusters.size())];
    drawn.insert(drawn.end(), cluster.begin(), cluster.end());
  }
  return drawn;
}

/// The quantile of sorted values, linear between neighbours; between a finite and an infinite one,
/// the infinite one.
inline double sorted_quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double share_above = place - std::floor(place);
  if (share_above == 0 || sorted[below] == sorted[above] || std::isinf(sorted[below]))
    return sorted[below];
  return sorted[below] + share_above * (sorted[above] - sorted[below]);
}

inline void require_clusters(const Clusters& clusters) {
  require_not_empty("bootstrap_interval", "clusters", static_cast<Eigen::Index>(clusters.size()));
  for (std::size_t i = 0; i < clusters.size(); ++i) {
    require_not_empty("bootstrap_interval", element_text("clusters", static_cast<Eigen::Index>(i)),
                      static_cast<Eigen::Index>(clusters[i].size()));
  }
}

inline void require_positions(std::string_view function, const Clusters& clusters,
                              Eigen::Index size) {
  for (std::size_t i = 0; i < clusters.size(); ++i) {
    for (const Eigen::Index position : clusters[i]) {
      if (position >= 0 && position < size) continue;
      fail(function, "positions below " + std::to_string(size), std::to_string(position),
           element_text("clusters", static_cast<Eigen::Index>(i)));
    }
  }
}

inline void require_options(const BootstrapOptions& options) {
  if (options.resamples < 1) {
    fail("bootstrap_interval", "resamples of at least 1", std::to_string(options.resamples));
  }
  if (!(options.confidence > 0 && options.confidence < 1)) {
    fail("bootstrap_interval", "confidence in (0, 1)", number_text(options.confidence));
  }
}

}  // namespace detail

/// Percentile interval of a statistic: the clusters of every set are drawn again with replacement,
/// sets in the order given and independently of each other. Two models measured on the same
/// questions are *one* set. Not for p-values: drawing again makes samples look more different than
/// they are.
/// @param statistic called with the drawn positions of every set (`const Positions&` each; an array
///        takes them as `values(positions)`), returns a number
/// @param clusters of each set (`clusters_of`, `single_clusters`)
/// @throws std::invalid_argument for options out of range, an empty set, an empty cluster, and a
///         statistic that gives NaN
/// Deterministic: the seed decides, on every platform.
template <typename Statistic, std::same_as<Clusters>... Sets>
requires(sizeof...(Sets) > 0) Interval
    bootstrap_interval(Statistic&& statistic, const BootstrapOptions& options,
                       const Sets&... clusters) {
  detail::require_options(options);
  (detail::require_clusters(clusters), ...);
  std::mt19937_64 generator(options.seed);
  std::vector<double> values(static_cast<std::size_t>(options.resamples));
  for (double& value : values) {
    // Braces, so that the sets are drawn from left to right.
    std::tuple<std::conditional_t<true, Positions, Sets>...> drawn{
        detail::draw(generator, clusters)...};
    value = std::apply(statistic, std::as_const(drawn));
    if (std::isnan(value)) detail::fail("bootstrap_interval", "a number from the statistic", "nan");
  }
  std::sort(values.begin(), values.end());
  const double outside = (1 - options.confidence) / 2;
  return {detail::sorted_quantile(values, outside), detail::sorted_quantile(values, 1 - outside)};
}

/// Interval of a mean.
/// @param values one a question  @param clusters positions in `values`
/// @throws std::invalid_argument as `bootstrap_interval`, and for values that are none or not
/// finite
inline Interval bootstrap_mean(const Values& values, const BootstrapOptions& options,
                               const Clusters& clusters) {
  detail::require_values("bootstrap_mean", "values", values);
  detail::require_positions("bootstrap_mean", clusters, values.size());
  return bootstrap_interval(
      [&](const Positions& drawn) {
        double sum = 0;
        for (const Eigen::Index i : drawn) sum += values[i];
        return sum / static_cast<double>(drawn.size());
      },
      options, clusters);
}

}  // namespace alkn::eval
