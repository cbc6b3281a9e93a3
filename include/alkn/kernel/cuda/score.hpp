// The third kernel: scores of large tensors grow; what lies above the brackets is counted, what
// lies inside is set aside.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

/// What the scores of a tensor grow by in this step.
ALKN_DEVICE inline ScoreLanes score_lanes_of(const Header& header, float scale, const StepTensor& t,
                                             float deviation) {
  return score_lanes(score_numbers(header.args.score, scale, t.used != nullptr, deviation));
}

/// The random bits of the element with this number, by the lanes of number 0.
ALKN_DEVICE inline U random_bits(const RoundingLanes& zero, U number) {
  return random_bits(RoundingLanes{zero.weyl + number * kWeyl, zero.second});
}

/// What rounds the compact state of elements that share a rounding block.
ALKN_DEVICE inline RoundingLanes rounding_of(const Tensor& tensor, std::int64_t element) {
  static_assert(kRoundingBlock % tuning::kChunk == 0, "one key a chunk");
  return rounding_lanes(rounding_key(tensor.t.rounding_seed, element), 0U);
}
/// The number of an element in its rounding block.
ALKN_DEVICE inline U number_of(std::int64_t element) {
  return static_cast<U>(element % kRoundingBlock);
}

/// Counts and candidates of one bracket in one unit of work.
struct Stage {
  std::uint32_t keys[tuning::kStaged];
  std::uint32_t inside, above, equal_b, equal_a;
  std::uint64_t base;
};
struct ScoreShared {
  Stage stages[2];
};

/// What one thread counts of one bracket.
struct BracketCounts {
  std::uint32_t above = 0, equal_b = 0, equal_a = 0;
};

/// Counts a key; sets it aside if it lies inside the bracket. What finds no room in shared memory
/// goes to the list.
template <class Block>
ALKN_DEVICE inline void take_key(const Block& block, Stage& stage, Target& target,
                                 std::uint32_t* candidates, std::int64_t capacity, std::uint32_t a,
                                 std::uint32_t b, std::uint32_t key, BracketCounts& counts) {
  counts.above += key > b ? 1 : 0;
  counts.equal_b += key == b ? 1 : 0;
  counts.equal_a += key == a && a != b ? 1 : 0;
  if (key <= a || key >= b) return;
  const std::uint32_t slot = block.fetch_add_shared(&stage.inside, 1);
  if (slot < tuning::kStaged) {
    stage.keys[slot] = key;
  } else {
    const std::uint64_t place = block.fetch_add(&target.inside, 1);
    if (place < static_cast<std::uint64_t>(capacity)) block.store(candidates + place, key);
  }
}

/// Writes what the unit counted and set aside. All threads take part.
template <class Block>
ALKN_DEVICE inline void flush_stage(const Block& block, Stage& stage, Target& target,
                                    std::uint32_t* candidates, std::int64_t capacity,
                                    const BracketCounts& counts) {
  block.sum_shared(&stage.above, counts.above);
  block.sum_shared(&stage.equal_b, counts.equal_b);
  block.sum_shared(&stage.equal_a, counts.equal_a);
  block.sync();
  const std::uint32_t staged = stage.inside < tuning::kStaged ? stage.inside : tuning::kStaged;
  if (block.thread() == 0) {
    if (stage.above != 0) block.fetch_add(&target.above, stage.above);
    if (stage.equal_b != 0) block.fetch_add(&target.equal_b, stage.equal_b);
    if (stage.equal_a != 0) block.fetch_add(&target.equal_a, stage.equal_a);
    stage.base = block.fetch_add(&target.inside, staged);
  }
  block.sync();
  for (std::uint32_t i = static_cast<std::uint32_t>(block.thread()); i < staged;
       i += static_cast<std::uint32_t>(block.num_threads())) {
    const std::uint64_t place = stage.base + i;
    if (place < static_cast<std::uint64_t>(capacity))
      block.store(candidates + place, stage.keys[i]);
  }
}

/// Grows the scores of elements begin .. end - 1 of a bracketed tensor.
template <class Block>
ALKN_DEVICE inline void score_unit(const Block& block, ScoreShared& shared, const Table& table,
                                   const Tensor& tensor, TensorState& state, std::int64_t begin,
                                   std::int64_t end) {
  const StepTensor& t = tensor.t;
  const ScoreLanes c = score_lanes_of(*table.header, table.control->scale, t, state.deviation);
  const bool compact = t.state_type != DType::float32;
  const RoundingLanes rounding = rounding_of(tensor, begin);
  if (block.thread() < 2) {
    Stage& stage = shared.stages[block.thread()];
    stage.inside = stage.above = stage.equal_b = stage.equal_a = 0;
  }
  block.sync();
  std::uint32_t* lists[2] = {table.candidates + tensor.candidates,
                             table.candidates + tensor.candidates + tensor.capacity};
  const std::uint32_t a[2] = {state.targets[0].a, state.targets[1].a};
  const std::uint32_t b[2] = {state.targets[0].b, state.targets[1].b};
  BracketCounts counts[2];
  for (std::int64_t at = begin + 4 * block.thread(); at < end; at += 4 * block.num_threads()) {
    const Span span = span_at(at, end);
    const Raw grads = load_raw(block, t.grad, t.type, span);
    const Raw retains = load_raw(block, t.retain, t.retain_type, span);
    const Raw scores = load_raw(block, t.score, t.state_type, span);
    const std::uint32_t used = load_nibble(block, t.used, span);
    float grown[4];
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const F grad = clipped(c, element(grads, t.type, j));
      grown[j] = grown_score(c, grad, element(retains, t.retain_type, j),
                             element(scores, t.state_type, j), ((used >> j) & 1U) != 0);
      if (compact) grown[j] = rounded_score(grown[j], random_bits(rounding, number_of(at + j)));
    }
    store_state(block, t.score, t.state_type, span, grown);
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j >= span.count) continue;
      const std::uint32_t key = order_key(grown[j]);
      ALKN_CUDA_UNROLL
      for (int which = 0; which < 2; ++which) {
        take_key(block, shared.stages[which], state.targets[which], lists[which], tensor.capacity,
                 a[which], b[which], key, counts[which]);
      }
    }
  }
  ALKN_CUDA_UNROLL
  for (int which = 0; which < 2; ++which) {
    flush_stage(block, shared.stages[which], state.targets[which], lists[which], tensor.capacity,
                counts[which]);
  }
  block.sync();
}

/// The unit of work number u: a part of a chunk. False where it is empty.
ALKN_DEVICE inline bool find_unit(const Table& table, std::int64_t u, Chunk& unit) {
  const Chunk& chunk = table.chunks[u / tuning::kUnits];
  const std::int64_t offset = u % tuning::kUnits * tuning::kUnit;
  unit.tensor = chunk.tensor;
  unit.begin = chunk.begin + offset;
  unit.size = chunk.size - offset < tuning::kUnit ? chunk.size - offset : tuning::kUnit;
  return unit.size > 0;
}

template <class Block>
ALKN_DEVICE inline void score_kernel(const Block& block, ScoreShared& shared, const Table& table) {
  if (table.control->skip != 0) return;
  const std::int64_t num_units = table.header->num_chunks * tuning::kUnits;
  for (std::int64_t u = block.index(); u < num_units; u += block.num_blocks()) {
    Chunk unit;
    if (!find_unit(table, u, unit)) continue;
    const Tensor& tensor = table.tensors[unit.tensor];
    if (tensor.way != Way::bracketed) continue;
    score_unit(block, shared, table, tensor, table.states[unit.tensor], unit.begin,
               unit.begin + unit.size);
  }
}

}  // namespace alkn::kernel::cuda
