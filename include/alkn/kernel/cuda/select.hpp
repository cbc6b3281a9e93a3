// The fourth kernel: exact thresholds from what the score pass counted and set aside.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/digits.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

/// What counts and candidates say of one target; sets target.missed if nothing. All threads take
/// part.
template <class Block>
ALKN_DEVICE inline std::uint32_t select_target(const Block& block, DigitShared& shared,
                                               const std::uint32_t* candidates,
                                               std::int64_t capacity, const Target& target,
                                               DType type, bool& missed) {
  const std::uint64_t through_b = target.above + target.equal_b;
  const std::uint64_t through_inside = through_b + target.inside;
  missed = target.rank <= target.above || target.rank > through_inside + target.equal_a;
  if (missed) return 0;
  if (target.rank <= through_b) return target.b;
  if (target.rank > through_inside) return target.a;
  missed = target.inside > static_cast<std::uint64_t>(capacity);  // some were not stored
  if (missed) return 0;
  // A bfloat16 score is told by the upper half of its key: fewer digits, fewer reads.
  const unsigned cut = type == DType::float32 ? 0 : 16;
  const auto keys = [&](std::int64_t i) { return block.load(candidates + i) >> cut; };
  const std::uint32_t base = (target.a + 1) >> cut;
  const std::uint32_t key = select_key(
      block, shared, keys, static_cast<std::int64_t>(target.inside),
      static_cast<std::int64_t>(target.rank - through_b), base, ((target.b - 1) >> cut) - base);
  if (cut == 0) return key;
  return key < 0x8000U ? (key << 16U) | 0xFFFFU : key << 16U;  // negative scores: ones below
}

/// The fourth kernel: thresholds from what the score pass counted and set aside.
template <class Block>
ALKN_DEVICE inline void select_kernel(const Block& block, DigitShared& shared, const Table& table) {
  const Header& header = *table.header;
  if (table.control->skip != 0) return;
  for (std::int64_t k = block.index(); k < header.num_tensors; k += block.num_blocks()) {
    const Tensor& tensor = table.tensors[k];
    if (tensor.way != Way::bracketed) continue;
    TensorState& state = table.states[k];
    const std::uint32_t* candidates = table.candidates + tensor.candidates;
    bool missed[2];
    std::uint32_t keys[2];
    ALKN_CUDA_UNROLL
    for (int which = 0; which < 2; ++which) {
      keys[which] =
          select_target(block, shared, candidates + which * tensor.capacity, tensor.capacity,
                        state.targets[which], tensor.t.state_type, missed[which]);
    }
    block.sync();
    if (block.thread() == 0) {
      if (!missed[0] && !missed[1]) {
        set_threshold(table, tensor, state, keys[0], keys[1]);
      } else {
        block.fetch_add(&table.control->num_missed, 1);
        ALKN_CUDA_UNROLL
        for (int which = 0; which < 2; ++which) {
          state.targets[which].missed = missed[which] ? 1 : 0;
          state.targets[which].prefix = missed[which] ? 0 : keys[which];
        }
      }
    }
    block.sync();
  }
}

}  // namespace alkn::kernel::cuda
