// Order statistics by counting keys digit by digit: three reads, no copy, the same time for any
// input.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/parallel.hpp>

namespace alkn::kernel {

/// bfloat16 numbers, read as fp32.
struct Bfloat16Values {
  const std::uint16_t* data;
  float operator[](std::int64_t i) const noexcept { return bfloat16_to_float(data[i]); }
};

/// Two order statistics at once, in parallel.
class RadixSelect {
 public:
  void reserve(std::int64_t num_threads) {
    if (static_cast<std::int64_t>(parts_.size()) < num_threads) {
      parts_.resize(static_cast<std::size_t>(num_threads));
    }
  }

  /// The ranks.low-th and ranks.high-th largest (1-based) of values[n], a pointer or
  /// Bfloat16Values.
  template <class Values>
  void select(Values values, std::int64_t n, const Ranks& ranks, const ParallelFor& parallel,
              float& low, float& high) {
    const std::int64_t num_parts = std::min(parallel.num_threads(), (n + kPart - 1) / kPart);
    reserve(num_parts);
    std::uint32_t prefix[2] = {0, 0};
    std::int64_t rank[2] = {ranks.low, ranks.high};
    for (const Digit digit : {Digit{21, 11}, Digit{10, 11}, Digit{0, 10}}) {
      parallel(num_parts, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t p = begin; p < end; ++p) {
          const std::int64_t from = p * n / num_parts, to = (p + 1) * n / num_parts;
          count(values, from, to, digit, prefix, parts_[static_cast<std::size_t>(p)]);
        }
      });
      for (int target = 0; target < 2; ++target) {
        std::size_t bin = (std::size_t{1} << digit.bits) - 1;
        for (;; --bin) {
          std::int64_t in_bin = 0;
          for (std::int64_t p = 0; p < num_parts; ++p) {
            in_bin += parts_[static_cast<std::size_t>(p)].counts[target][bin];
          }
          if (rank[target] <= in_bin) break;
          rank[target] -= in_bin;
        }
        prefix[target] |= static_cast<std::uint32_t>(bin) << digit.shift;
      }
    }
    low = key_value(prefix[0]);
    high = key_value(prefix[1]);
  }

 private:
  static constexpr std::int64_t kPart = 65536;
  static constexpr std::size_t kBins = 2048;
  struct Digit {
    unsigned shift, bits;
  };
  struct Part {
    std::array<std::int64_t, kBins> counts[2];
  };

  /// Counts the digit of every key from .. to - 1 that starts with a target's prefix.
  template <class Values>
  static void count(Values values, std::int64_t from, std::int64_t to, Digit digit,
                    const std::uint32_t* prefix, Part& part) {
    part.counts[0].fill(0);
    part.counts[1].fill(0);
    const std::uint32_t bins = (1U << digit.bits) - 1;
    const unsigned above = digit.shift + digit.bits;  // 32 for the first digit
    for (std::int64_t i = from; i < to; ++i) {
      const std::uint32_t key = order_key(values[i]);
      const std::uint32_t bin = (key >> digit.shift) & bins;
      const std::uint64_t start = static_cast<std::uint64_t>(key) >> above;
      if (start == static_cast<std::uint64_t>(prefix[0]) >> above) ++part.counts[0][bin];
      if (start == static_cast<std::uint64_t>(prefix[1]) >> above) ++part.counts[1][bin];
    }
  }

  std::vector<Part> parts_;
};

}  // namespace alkn::kernel
