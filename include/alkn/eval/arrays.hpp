// The arrays that the metrics take, and the checks they share. No LibTorch in this folder.
#pragma once

#include <Eigen/Core>
#include <alkn/kernel/flags.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace alkn::eval {

/// One double a question, sequence or token, on the host. Takes any Eigen array or vector of
/// doubles.
using Values = Eigen::Ref<const Eigen::ArrayXd>;

/// One row a question, one column a wrong answer.
using ValueTable = Eigen::Ref<const Eigen::ArrayXXd>;

/// A std::vector (or other contiguous doubles) seen as an array; nothing is copied.
inline Eigen::Map<const Eigen::ArrayXd> as_array(std::span<const double> values) {
  return {values.data(), static_cast<Eigen::Index>(values.size())};
}

namespace detail {

inline std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

[[noreturn]] inline void fail(std::string_view function, std::string_view expected,
                              std::string_view got, std::string_view where = {}) {
  std::string text = "alkn::eval::";
  text.append(function).append(": expected ").append(expected).append(", got ").append(got);
  if (!where.empty()) text.append(" (").append(where).append(")");
  throw std::invalid_argument(text);
}

inline std::string element_text(std::string_view name, Eigen::Index row) {
  return std::string(name).append("[").append(std::to_string(row)).append("]");
}

inline std::string element_text(std::string_view name, Eigen::Index row, Eigen::Index column) {
  return element_text(name, row).append("[").append(std::to_string(column)).append("]");
}

inline void require_not_empty(std::string_view function, std::string_view name, Eigen::Index size) {
  if (size == 0) fail(function, "at least one value", "none", name);
}

/// At least one value, every one finite.
inline void require_values(std::string_view function, std::string_view name, const Values& values) {
  require_not_empty(function, name, values.size());
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      fail(function, "finite values", number_text(values[i]), element_text(name, i));
    }
  }
}

/// At least one value, every one finite.
inline void require_table(std::string_view function, std::string_view name,
                          const ValueTable& values) {
  require_not_empty(function, name, values.size());
  for (Eigen::Index i = 0; i < values.rows(); ++i) {
    for (Eigen::Index j = 0; j < values.cols(); ++j) {
      if (!std::isfinite(values(i, j))) {
        fail(function, "finite values", number_text(values(i, j)), element_text(name, i, j));
      }
    }
  }
}

/// At least one value, every one in [lowest, highest]; the bounds may be infinite, NaN never
/// passes.
inline void require_range(std::string_view function, std::string_view name, const Values& values,
                          double lowest, double highest) {
  require_not_empty(function, name, values.size());
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    if (!(values[i] >= lowest && values[i] <= highest)) {
      fail(function, "values in [" + number_text(lowest) + ", " + number_text(highest) + "]",
           number_text(values[i]), element_text(name, i));
    }
  }
}

inline void require_size(std::string_view function, std::string_view name, Eigen::Index expected,
                         Eigen::Index size) {
  if (size != expected) {
    fail(function, std::to_string(expected) + " values", std::to_string(size), name);
  }
}

}  // namespace detail
}  // namespace alkn::eval
