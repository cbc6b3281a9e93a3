// Forget quality: can the truth ratios of the unlearned model be told from those of a model that
// never saw the forget set? The p-value of the exact two-sided two-sample Kolmogorov-Smirnov test.
//
// With n and m values, the distance is D = h / (n m), h an integer: read both samples in ascending
// order, i values of the first and j of the second so far, then h is the largest |i m - j n|. If
// both samples come from one distribution, every order in which they can be read is equally likely:
// a random path on a lattice from (0, 0) to (n, m), and p is the probability that it reaches
// |i m - j n| >= h.
//
// Source: Maini et al. (2024), section 2.2.3; Hodges, "The significance probability of the Smirnov
// two-sample test", Arkiv foer Matematik 3 (1958).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <vector>

#include "alkn/eval/arrays.hpp"
#include "alkn/eval/scaled_number.hpp"

namespace alkn::eval {

/// The test of two samples of truth ratios.
struct ForgetQuality {
  double distance;     ///< D, in [0, 1]
  double p_value;      ///< 1: indistinguishable; 0 where it is below the smallest double
  double log_p_value;  ///< natural logarithm of the p-value, finite for every D
};

namespace detail {

/// h = n m D of two sorted samples. Equal values are passed together: a step of both distributions.
inline int64_t ks_steps(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<int64_t>(a.size());
  const auto m = static_cast<int64_t>(b.size());
  int64_t i = 0, j = 0, largest = 0;
  while (i < n && j < m) {
    const double value = std::min(a[static_cast<std::size_t>(i)], b[static_cast<std::size_t>(j)]);
    while (i < n && a[static_cast<std::size_t>(i)] == value) ++i;
    while (j < m && b[static_cast<std::size_t>(j)] == value) ++j;
    largest = std::max(largest, std::abs(i * m - j * n));
  }
  return largest;
}

/// P(D >= k / n) for two samples of n values, 1 <= k <= n:
///   p = 2 sum_{i>=1} (-1)^{i-1} C(2n, n - i k) / C(2n, n),
/// where C(2n, n - s) / C(2n, n) = prod_{j=1}^{s} (n - j + 1) / (n + j). The first term stands in
/// front of the sum, so that what is summed lies between 0 and 1 however small p is.
inline ScaledNumber ks_tail_equal_sizes(int64_t n, int64_t k) {
  const auto factor = [n](int64_t j) {
    return static_cast<double>(n - j + 1) / static_cast<double>(n + j);
  };
  ScaledNumber first(2);
  for (int64_t j = 1; j <= k; ++j) first *= factor(j);
  double sum = 1, term = 1;
  for (int64_t i = 2; i * k <= n && term > 0; ++i) {
    for (int64_t j = (i - 1) * k + 1; j <= i * k; ++j) term *= factor(j);
    sum += i % 2 == 0 ? -term : term;
  }
  first *= sum;
  return first;
}

/// P(D >= h / (n m)), 1 <= h <= n m: the probability that a random path leaves |i m - j n| < h.
/// From (i, j) it goes on to (i + 1, j) with probability (n - i) / (n - i + m - j). Only the ways
/// out are added up, never 1 minus the rest: the relative error stays at a few (n + m) roundings.
/// Cost: one operation a lattice point inside, memory for one row of m + 1.
inline ScaledNumber ks_tail_any_sizes(int64_t n, int64_t m, int64_t h) {
  const auto inside = [=](int64_t i, int64_t j) { return std::abs(i * m - j * n) < h; };
  std::vector<ScaledNumber> row(
      static_cast<std::size_t>(m + 1));  // P(reach (i, j), inside all the way)
  row[0] = ScaledNumber(1);
  ScaledNumber tail;
  for (int64_t i = 0; i <= n; ++i) {
    const int64_t first = i * m < h ? 0 : (i * m - h) / n + 1;
    const int64_t last = std::min(m, (i * m + h - 1) / n);
    ScaledNumber from_left;  // of (i, j), by the step from (i, j - 1)
    for (int64_t j = first; j <= last; ++j) {
      ScaledNumber here = row[static_cast<std::size_t>(j)];
      here += from_left;
      const auto left = static_cast<double>(n - i + m - j);
      ScaledNumber down = here, right = here;
      down *= left > 0 ? static_cast<double>(n - i) / left : 0;
      right *= left > 0 ? static_cast<double>(m - j) / left : 0;
      if (i < n && !inside(i + 1, j)) {
        tail += down;
        down = ScaledNumber();
      }
      if (j < m && !inside(i, j + 1)) tail += right;
      row[static_cast<std::size_t>(j)] = down;
      from_left = right;
    }
  }
  return tail;
}

inline std::vector<double> sorted_sample(std::string_view function, std::string_view name,
                                         const Values& values) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  require_range(function, name, values, -kInfinity, kInfinity);  // orders anything but NaN
  std::vector<double> result(values.begin(), values.end());
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace detail

/// D, the largest distance between the empirical distribution functions of two samples.
/// @param unlearned, reference any sizes; infinities are in order
/// @throws std::invalid_argument if one is empty or holds a NaN
inline double ks_distance(const Values& unlearned, const Values& reference) {
  const auto a = detail::sorted_sample("ks_distance", "unlearned", unlearned);
  const auto b = detail::sorted_sample("ks_distance", "reference", reference);
  const double steps = static_cast<double>(detail::ks_steps(a, b));
  return steps / static_cast<double>(a.size()) / static_cast<double>(b.size());
}

/// Forget quality with its D. The p-value takes the questions for independent; those of one author
/// are not, and p comes out too small: judge it beside that of two reference models.
/// @param unlearned, reference truth ratios (`truth_ratio`) of the forget set, [questions] each;
/// the
///        sizes may differ
/// @throws std::invalid_argument if one is empty or holds a NaN
/// Cost: equal sizes n log n; else one operation a pair of values at most.
inline ForgetQuality forget_quality(const Values& unlearned, const Values& reference) {
  const auto a = detail::sorted_sample("forget_quality", "unlearned", unlearned);
  const auto b = detail::sorted_sample("forget_quality", "reference", reference);
  const auto n = static_cast<int64_t>(a.size());
  const auto m = static_cast<int64_t>(b.size());
  const int64_t h = detail::ks_steps(a, b);
  if (h == 0) return {0, 1, 0};
  const detail::ScaledNumber p =
      n == m ? detail::ks_tail_equal_sizes(n, h / n) : detail::ks_tail_any_sizes(n, m, h);
  return {static_cast<double>(h) / static_cast<double>(n) / static_cast<double>(m),
          std::min(p.value(), 1.0), std::min(p.log(), 0.0)};
}

}  // namespace alkn::eval
