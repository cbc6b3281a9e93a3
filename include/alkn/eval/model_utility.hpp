// Model utility: one number for what the model can still do.
//
// Source: Maini et al. (2024), section 2.2.2.
#pragma once

#include <cmath>
#include <limits>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {

/// The means over one set of questions.
struct SetMetrics {
  double
      probability;  ///< of `probability`, or `normalized_probability` where the choices are given
  double rouge;     ///< of `rouge_l_recall`
  double truth_ratio;  ///< of `forget_truth_ratio` or `retain_truth_ratio`
};

/// n / sum 1/x; 0 if any x is 0.
/// @param values not negative
/// @throws std::invalid_argument if there are none or one is negative, infinite or NaN
inline double harmonic_mean(const Values& values) {
  detail::require_range("harmonic_mean", "values", values, 0, std::numeric_limits<double>::max());
  double sum = 0;
  for (const double value : values) {
    if (value == 0) return 0;
    sum += 1 / value;
  }
  return static_cast<double>(values.size()) / sum;
}

/// Harmonic mean of the nine means over what must not be forgotten: any one at 0 makes it 0.
/// @throws std::invalid_argument if one lies outside [0, 1]
inline double model_utility(const SetMetrics& retain, const SetMetrics& real_authors,
                            const SetMetrics& world_facts) {
  Eigen::Array<double, 9, 1> parts;
  Eigen::Index i = 0;
  for (const SetMetrics* set : {&retain, &real_authors, &world_facts}) {
    for (const double part : {set->probability, set->rouge, set->truth_ratio}) parts[i++] = part;
  }
  detail::require_range("model_utility", "retain, real_authors, world_facts", parts, 0, 1);
  return harmonic_mean(parts);
}

}  // namespace alkn::eval
