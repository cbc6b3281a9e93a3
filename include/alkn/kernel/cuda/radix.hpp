// The fifth to seventh kernels: three digits of the order statistics that a bracket missed.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/digits.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

struct RadixShared {
  std::uint32_t bins[2][tuning::kRadixBins];
  DigitShared digits;
  std::uint32_t last;
};

/// After the last chunk of a tensor: the digit that holds the rank, and the histogram zero again.
template <class Block>
ALKN_DEVICE inline void finish_digit(const Block& block, RadixShared& shared, const Table& table,
                                     const Tensor& tensor, TensorState& state, int pass) {
  const Digit digit = radix_digit(pass);
  std::uint64_t* histogram = table.histograms + tensor.histogram * 2 * tuning::kRadixBins;
  ALKN_CUDA_UNROLL
  for (int which = 0; which < 2; ++which) {
    Target& target = state.targets[which];
    std::uint64_t* bins = histogram + which * tuning::kRadixBins;
    if (target.missed == 0) continue;
    choose_bin(
        block, shared.digits, [&](int bin) { return block.load_fresh(bins + bin); },
        1 << digit.bits, target.rank);
    if (block.thread() == 0) {
      target.prefix |= shared.digits.bin << digit.shift;
      target.rank = shared.digits.rank;
    }
    block.sync();
    for (int b = block.thread(); b < tuning::kRadixBins; b += block.num_threads())
      block.store(bins + b, std::uint64_t{0});
  }
  block.sync();
  if (block.thread() == 0) {
    state.chunks_done = 0;
    if (pass == 2) {
      set_threshold(table, tensor, state, state.targets[0].prefix, state.targets[1].prefix);
    }
  }
}

/// Counts one digit of a chunk's scores, of both targets.
template <class Block>
ALKN_DEVICE inline void count_digits(const Block& block, RadixShared& shared, const Tensor& tensor,
                                     const Chunk& chunk, const TensorState& state, Digit digit) {
  const std::int64_t end = chunk.begin + chunk.size;
  const Target& low = state.targets[0];
  const Target& high = state.targets[1];
  const bool wants[2] = {low.missed != 0, high.missed != 0};
  const std::uint32_t prefix[2] = {low.prefix, high.prefix};
  for (std::int64_t at = chunk.begin + 4 * block.thread(); at < end;
       at += 4 * block.num_threads()) {
    const Span span = span_at(at, end);
    const Raw raw = load_raw(block, tensor.t.score, tensor.t.state_type, span);
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j >= span.count) continue;
      const std::uint32_t key = order_key(element(raw, tensor.t.state_type, j));
      ALKN_CUDA_UNROLL
      for (int which = 0; which < 2; ++which) {
        if (wants[which] && has_prefix(key, prefix[which], digit)) {
          block.fetch_add_shared(&shared.bins[which][digit_of(key, digit)], 1);
        }
      }
    }
  }
}

/// The fifth to seventh kernels, one a digit: nothing to do unless a bracket missed.
template <class Block>
ALKN_DEVICE inline void radix_kernel(const Block& block, RadixShared& shared, const Table& table,
                                     int pass) {
  const Header& header = *table.header;
  if (table.control->skip != 0 || table.control->num_missed == 0) return;
  for (std::int64_t c = block.index(); c < header.num_chunks; c += block.num_blocks()) {
    const Chunk chunk = table.chunks[c];
    const Tensor& tensor = table.tensors[chunk.tensor];
    if (tensor.way != Way::bracketed) continue;
    TensorState& state = table.states[chunk.tensor];
    if (state.targets[0].missed == 0 && state.targets[1].missed == 0) continue;
    for (int b = block.thread(); b < 2 * tuning::kRadixBins; b += block.num_threads()) {
      shared.bins[b / tuning::kRadixBins][b % tuning::kRadixBins] = 0;
    }
    block.sync();
    count_digits(block, shared, tensor, chunk, state, radix_digit(pass));
    block.sync();
    std::uint64_t* histogram = table.histograms + tensor.histogram * 2 * tuning::kRadixBins;
    for (int b = block.thread(); b < 2 * tuning::kRadixBins; b += block.num_threads()) {
      const std::uint32_t count = shared.bins[b / tuning::kRadixBins][b % tuning::kRadixBins];
      if (count != 0) block.fetch_add(histogram + b, count);
    }
    block.fence();
    block.sync();
    if (block.thread() == 0) {
      const auto done = block.fetch_add(&state.chunks_done, 1) + 1;
      shared.last = done == static_cast<std::uint64_t>(tensor.num_chunks) ? 1 : 0;
    }
    block.sync();
    const bool last = shared.last != 0;
    block.sync();
    if (last) {
      block.fence();
      finish_digit(block, shared, table, tensor, state, pass);
      block.sync();
    }
  }
}

}  // namespace alkn::kernel::cuda
