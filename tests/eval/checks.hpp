// What the tests of the metrics share.
#pragma once

#include <cmath>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <initializer_list>
#include <string>

#include "alkn/eval/arrays.hpp"

namespace checks {

inline Eigen::ArrayXd array(std::initializer_list<double> values) {
  Eigen::ArrayXd result(static_cast<Eigen::Index>(values.size()));
  Eigen::Index i = 0;
  for (const double value : values) result[i++] = value;
  return result;
}

/// |a - b| over the larger of |b| and the smallest normal double.
inline double relative_error(double a, double b) {
  return std::abs(a - b) / std::max(std::abs(b), 2.3e-308);
}

/// The text of what a call throws; "" if it does not.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& error) {
    return error.what();
  }
  return {};
}

/// A small generator with the same numbers everywhere.
class Integers {
 public:
  explicit Integers(uint64_t seed) : state_(seed) {}
  /// In [0, bound).
  int operator()(int bound) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<int>((state_ >> 33) % static_cast<uint64_t>(bound));
  }

 private:
  uint64_t state_;
};

/// The folder of the published logs and the TOFU files; it may be absent.
inline std::filesystem::path shared_folder() {
  const char* folder = std::getenv("ALKN_SHARED_DIR");
  return folder != nullptr ? folder : ALKN_SHARED_DIR;
}

}  // namespace checks
