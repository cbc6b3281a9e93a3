// Predicts where the order statistics of scores lie, by a sample of them.
//
// Nothing here decides a result: the counts notice a prediction that fails.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/passes.hpp>
#include <alkn/kernel/select/predict.hpp>
#include <alkn/kernel/select/quickselect.hpp>

namespace alkn::kernel {

/// The places in a sorted sample, counted from the smallest, between which the rank-th largest of n
/// lies with the certainty of `sigmas`; a place outside of the sample: the interval has no such
/// end.
struct SampledBracket {
  std::int64_t a = 0, b = 0;

  SampledBracket(std::int64_t num_keys, std::int64_t n, std::int64_t rank, double sigmas) {
    const auto count = static_cast<double>(num_keys);
    const double share = (static_cast<double>(rank) - 0.5) / static_cast<double>(n);
    const double half = sigmas * std::sqrt(count * share * (1 - share)) + 1;
    a = num_keys - 1 - static_cast<std::int64_t>(std::ceil(share * count + half));
    b = num_keys - 1 - static_cast<std::int64_t>(std::floor(share * count - half));
  }
};

/// Room that SampledKeys needs beside `num_keys` keys.
constexpr std::int64_t num_spare_keys(std::int64_t num_keys) { return 3 * (num_keys + 1); }

/// The keys of a sample by their places in sorted order, without sorting them: counted by their
/// first digit, then the few of one digit are selected from. A quarter of nth_element's time, whose
/// branches on random keys are guessed wrong.
class SampledKeys {
 public:
  /// @param keys [num_keys] @param spare [num_spare_keys(num_keys)], overwritten
  SampledKeys(const std::uint32_t* keys, std::int64_t num_keys, std::uint32_t* spare)
      : keys_(keys), num_keys_(num_keys), spare_(spare) {
    for (std::int64_t i = 0; i < num_keys; ++i) ++counts_[keys[i] >> kShift];
  }

  /// @param place 0: that of the smallest; below num_keys
  std::uint32_t at(std::int64_t place) {
    std::uint32_t digit = 0;
    for (; counts_[digit] <= place; ++digit) place -= counts_[digit];
    if (digit != gathered_) gather(digit);
    std::uint32_t* copy = spare_ + num_keys_ + 1;
    const auto count = static_cast<std::size_t>(counts_[digit]);
    std::copy(spare_, spare_ + count, copy);
    return select_key(copy, copy + num_keys_ + 1, count, static_cast<std::size_t>(place));
  }

 private:
  static constexpr unsigned kShift = 21;  // sign, exponent and two bits: a quarter of an octave

  void gather(std::uint32_t digit) {
    std::size_t found = 0;
    for (std::int64_t i = 0; i < num_keys_; ++i) {
      spare_[found] = keys_[i];  // kept if the next one does not overwrite it
      found += keys_[i] >> kShift == digit ? 1 : 0;
    }
    gathered_ = digit;
  }

  const std::uint32_t* keys_;
  const std::int64_t num_keys_;
  std::uint32_t* spare_;
  std::array<std::int32_t, std::size_t{1} << (32 - kShift)> counts_{};
  std::uint32_t gathered_ = ~std::uint32_t{0};  // none
};

/// Brackets by a sample's keys.
/// @param spare [num_spare_keys(num_keys)], overwritten
inline Pivots pivots_by_sample(const std::uint32_t* keys, std::int64_t num_keys,
                               std::uint32_t* spare, const ThresholdRule& rule, double sigmas) {
  Pivots p;
  const Ranks ranks = rule.ranks();
  const SampledBracket low(num_keys, rule.size, ranks.low, sigmas);
  const SampledBracket high(num_keys, rule.size, ranks.high, sigmas);
  SampledKeys sampled(keys, num_keys, spare);
  const float infinity = std::numeric_limits<float>::infinity();
  const auto value = [&](std::int64_t place) {
    if (place < 0) return -infinity;
    if (place >= num_keys) return infinity;
    const float score = key_value(sampled.at(place));
    return std::isnan(score) ? infinity : score;
  };
  p.low_a = value(low.a), p.low_b = value(low.b);
  p.high_a = value(high.a), p.high_b = value(high.b);
  bracket_threshold(p, rule);
  return p;
}

}  // namespace alkn::kernel
