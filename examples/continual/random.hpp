// Random integers that are the same with every compiler and library: no std::distribution, whose
// results differ from one standard library to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <utility>
#include <vector>

namespace continual {

/// SplitMix64 (Steele, Lea, Flood 2014): 64 random bits from a counter.
class Random {
 public:
  /// The same list of numbers gives the same sequence; another list an unrelated one.
  Random(std::initializer_list<std::uint64_t> seeds) {
    for (const std::uint64_t seed : seeds) {
      state_ = next() ^ seed;
    }
  }

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31U);
  }

  /// An integer from 0 to bound - 1; bound >= 1. The bias of the remainder is below bound / 2^64.
  std::size_t below(std::size_t bound) { return static_cast<std::size_t>(next() % bound); }

  template <typename List>
  const auto& pick(const List& list) {
    return list[below(std::size(list))];
  }

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[below(i)]);
    }
  }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace continual
