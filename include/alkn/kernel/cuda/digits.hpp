// Order statistics of keys by their digits: what the kernels of sample, selection and radix share.
//
// A tensor of few elements gets its threshold from all its scores before they are written. Of a
// larger one a sample predicts two brackets (sample.hpp); the score pass counts what lies above
// them and sets aside what lies inside (score.hpp); the selection finds the two values among that
// (select.hpp). What a bracket missed is found by three radix passes over all scores (radix.hpp). A
// prediction decides the time and never the result: the counts notice a miss.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/table.hpp>
#include <alkn/kernel/math.hpp>

namespace alkn::kernel::cuda {

/// What a block needs to find a rank by its digits.
struct DigitShared {
  std::uint32_t bins[tuning::kRadixBins];
  std::uint64_t scan[tuning::kThreads];
  std::uint64_t rank;
  std::uint32_t bin;
};

/// The digits of a key from the top: 11, 11 and 10 bits.
struct Digit {
  unsigned shift, bits;
};
ALKN_HOST_DEVICE inline Digit radix_digit(int pass) {
  return pass == 0 ? Digit{21, 11} : (pass == 1 ? Digit{10, 11} : Digit{0, 10});
}
ALKN_HOST_DEVICE inline std::uint32_t digit_of(std::uint32_t key, Digit digit) {
  return (key >> digit.shift) & ((1U << digit.bits) - 1U);
}
/// Whether a key starts with the digits above this one that are known already.
ALKN_HOST_DEVICE inline bool has_prefix(std::uint32_t key, std::uint32_t prefix, Digit digit) {
  const unsigned above = digit.shift + digit.bits;  // 32 for the first digit
  return (static_cast<std::uint64_t>(key) >> above) ==
         (static_cast<std::uint64_t>(prefix) >> above);
}

/// The bin that holds the rank-th largest by the bins' counts; shared.bin, and in shared.rank the
/// rank inside it.
/// @param count callable, count of a bin
template <class Block, class Count>
ALKN_DEVICE inline void choose_bin(const Block& block, DigitShared& shared, const Count& count,
                                   int num_bins, std::uint64_t rank) {
  const int threads = block.num_threads();
  const int part = (num_bins + threads - 1) / threads;
  const int top = num_bins - 1 - part * block.thread();  // this thread's bins: top, top - 1 ..
  std::uint64_t own = 0;
  for (int k = 0; k < part; ++k) own += top - k >= 0 ? count(top - k) : 0;
  shared.scan[block.thread()] = own;
  block.sync();
  for (int distance = 1; distance < threads; distance *= 2) {
    const std::uint64_t other =
        block.thread() >= distance ? shared.scan[block.thread() - distance] : 0;
    block.sync();
    shared.scan[block.thread()] += other;
    block.sync();
  }
  const std::uint64_t through = shared.scan[block.thread()];
  if (rank <= through && rank > through - own) {
    std::uint64_t left = rank - (through - own);
    int bin = top;
    while (left > count(bin)) left -= count(bin--);
    shared.bin = static_cast<std::uint32_t>(bin);
    shared.rank = left;
  }
  block.sync();
}

/// The rank-th largest (1-based) of keys(0) .. keys(n - 1), all between base and base + range. All
/// threads take part and get it. Reads the keys once for every 11 bits of the range.
template <class Block, class Keys>
ALKN_DEVICE inline std::uint32_t select_key(const Block& block, DigitShared& shared,
                                            const Keys& keys, std::int64_t n, std::int64_t rank,
                                            std::uint32_t base = 0,
                                            std::uint32_t range = 0xFFFFFFFFU) {
  unsigned left_bits = 0;
  while (left_bits < 32 && (range >> left_bits) != 0) ++left_bits;
  std::uint32_t prefix = 0;
  auto left = static_cast<std::uint64_t>(rank);
  while (left_bits > 0) {
    const unsigned bits = left_bits < 11 ? left_bits : 11;
    left_bits -= bits;
    const Digit digit{left_bits, bits};
    for (int b = block.thread(); b < tuning::kRadixBins; b += block.num_threads()) {
      shared.bins[b] = 0;
    }
    block.sync();
    for (std::int64_t i = block.thread(); i < n; i += block.num_threads()) {
      const std::uint32_t key = keys(i) - base;
      if (has_prefix(key, prefix, digit)) {
        block.fetch_add_shared(&shared.bins[digit_of(key, digit)], 1);
      }
    }
    block.sync();
    choose_bin(
        block, shared, [&](int bin) { return shared.bins[bin]; }, 1 << digit.bits, left);
    prefix |= shared.bin << digit.shift;
    left = shared.rank;
    block.sync();
  }
  return base + prefix;
}

/// Writes the threshold that follows from both order statistics.
ALKN_DEVICE inline void set_threshold(const Table& table, const Tensor& tensor, TensorState& state,
                                      std::uint32_t low, std::uint32_t high) {
  state.threshold = threshold(key_value(low), key_value(high), tensor.t.size,
                              table.header->args.unmask_ratio, table.header->args.trim_ratio);
}

}  // namespace alkn::kernel::cuda
