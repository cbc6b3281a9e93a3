// The last kernel of a step: mask, AdamW and the low-precision copy; it grows the score where no
// other kernel did.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

struct UpdateShared {
  std::uint32_t num_trained;
};

/// The numbers that update a tensor's elements.
struct UpdateNumbers {
  ScoreLanes score;
  AdamWLanes<F> adamw;
  float threshold = 0;
  bool grows = false;   ///< the score grows here
  bool all_on = false;  ///< too small for a threshold
  bool freeze = false;
  RoundingLanes rounding;
};

ALKN_DEVICE inline UpdateNumbers update_numbers(const Table& table, const Tensor& tensor,
                                                const TensorState& state, std::int64_t begin) {
  const StepArgs& args = table.header->args;
  return {score_lanes_of(*table.header, table.control->scale, tensor.t, state.deviation),
          adamw_lanes(tensor.t.adamw),
          flushed(state.threshold),
          tensor.way != Way::bracketed,
          !has_threshold(tensor.t.size),
          args.masked == Masked::freeze,
          rounding_of(tensor, begin)};
}

/// The arrays that a thread has loaded four elements of.
struct Loaded {
  Raw grad, retain, score, param, exp_avg, exp_avg_sq;
};

template <MaskKind kMask, bool kAdamW, class Block>
ALKN_DEVICE inline Loaded load_entries(const Block& block, const StepTensor& t,
                                       const float* weights, const UpdateNumbers& n,
                                       const Span& span) {
  Loaded in = {};
  in.grad = load_raw(block, t.grad, t.type, span);
  if (kMask == MaskKind::localized) {
    in.score = load_raw(block, t.score, t.state_type, span);
    if (n.grows) in.retain = load_raw(block, t.retain, t.retain_type, span);
  }
  if (kAdamW) {
    in.param = load_raw(block, weights, DType::float32, span);
    in.exp_avg = load_raw(block, t.exp_avg, t.state_type, span);
    in.exp_avg_sq = load_raw(block, t.exp_avg_sq, t.state_type, span);
  }
  return in;
}

/// Four elements; returns the bits of those that are on.
template <MaskKind kMask, bool kAdamW, class Block>
ALKN_DEVICE inline std::uint32_t update_entries(const Block& block, const StepTensor& t,
                                                float* weights, const UpdateNumbers& n,
                                                const Span& span) {
  const bool compact = t.state_type != DType::float32;
  const Loaded in = load_entries<kMask, kAdamW>(block, t, weights, n, span);
  const std::uint32_t used = load_nibble(block, t.used, span);
  std::uint32_t on_bits = kMask == MaskKind::given ? load_nibble(block, t.mask, span) : 0;
  float scores[4], params[4], exp_avgs[4], exp_avg_sqs[4], grads[4];
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    const M is_used = ((used >> j) & 1U) != 0;
    const U random = compact ? random_bits(n.rounding, number_of(span.at + j)) : 0;
    const F grad = clipped(n.score, element(in.grad, t.type, j));
    M on = kMask == MaskKind::none || ((on_bits >> j) & 1U) != 0;
    if (kMask == MaskKind::localized) {
      scores[j] = element(in.score, t.state_type, j);
      if (n.grows) {
        scores[j] =
            grown_score(n.score, grad, element(in.retain, t.retain_type, j), scores[j], is_used);
        if (compact) scores[j] = rounded_score(scores[j], random);
      }
      on = scores[j] > n.threshold || n.all_on;
      if (on && j < span.count) on_bits |= 1U << j;
    }
    grads[j] = kMask == MaskKind::none ? grad : keep_if(on, grad);
    if (kAdamW) {
      const AdamWState old{element(in.param, DType::float32, j),
                           element(in.exp_avg, t.state_type, j),
                           element(in.exp_avg_sq, t.state_type, j)};
      AdamWState now = adamw_step(n.adamw, grads[j], is_used, old);
      if (compact) {
        now.exp_avg = value_of(rounded_exp_avg(now.exp_avg, random) & 0xFFFF0000U);
        now.exp_avg_sq = value_of(rounded_exp_avg_sq(now.exp_avg_sq, random) & 0xFFFF0000U);
      }
      const M moves = on || !n.freeze;
      params[j] = blend(moves, now.param, old.param);
      exp_avgs[j] = blend(moves, now.exp_avg, old.exp_avg);
      exp_avg_sqs[j] = blend(moves, now.exp_avg_sq, old.exp_avg_sq);
    }
  }
  if (kMask == MaskKind::localized && n.grows)
    store_state(block, t.score, t.state_type, span, scores);
  if (kAdamW) {
    store_floats(block, weights, span, params);
    store_state(block, t.exp_avg, t.state_type, span, exp_avgs);
    store_state(block, t.exp_avg_sq, t.state_type, span, exp_avg_sqs);
    if (t.type != DType::float32) store_rounded(block, t.param, t.type, span, params);
  } else {
    store_floats(block, t.grad_out, span, grads);
  }
  return on_bits;
}

template <MaskKind kMask, bool kAdamW, class Block>
ALKN_DEVICE inline void update_unit(const Block& block, UpdateShared& shared, const Table& table,
                                    const Tensor& tensor, TensorState& state, std::int64_t begin,
                                    std::int64_t end) {
  const StepTensor& t = tensor.t;
  const UpdateNumbers n = update_numbers(table, tensor, state, begin);
  float* weights = t.type != DType::float32 ? t.master : static_cast<float*>(t.param);
  if (kMask == MaskKind::localized && block.thread() == 0) shared.num_trained = 0;
  std::uint32_t num_trained = 0;
  for (std::int64_t tile = begin; tile < end; tile += 4 * block.num_threads()) {
    const Span span = span_at(tile + 4 * block.thread(), end);
    const std::uint32_t bits = update_entries<kMask, kAdamW>(block, t, weights, n, span);
    if constexpr (kMask == MaskKind::localized) {
      ALKN_CUDA_UNROLL
      for (int j = 0; j < 4; ++j) num_trained += (bits >> j) & 1U;
      const std::uint32_t word = block.gather_nibbles(bits);
      if (block.thread() % 8 == 0 &&
          span.at < (end + 63) / 64 * 64) {  // unused bits of the last word: zero
        block.store(reinterpret_cast<std::uint32_t*>(t.mask) + (span.at >> 5U), word);
      }
    }
  }
  if constexpr (kMask == MaskKind::localized) {
    block.sync();
    block.sum_shared(&shared.num_trained, num_trained);
    block.sync();
    if (block.thread() == 0) block.fetch_add(&state.num_trained, shared.num_trained);
    block.sync();
  }
}

template <MaskKind kMask, bool kAdamW, class Block>
ALKN_DEVICE inline void update_kernel(const Block& block, UpdateShared& shared,
                                      const Table& table) {
  if (table.control->skip != 0) return;
  const std::int64_t num_units = table.header->num_chunks * tuning::kUnits;
  for (std::int64_t u = block.index(); u < num_units; u += block.num_blocks()) {
    Chunk unit;
    if (!find_unit(table, u, unit)) continue;
    update_unit<kMask, kAdamW>(block, shared, table, table.tensors[unit.tensor],
                               table.states[unit.tensor], unit.begin, unit.begin + unit.size);
  }
}

}  // namespace alkn::kernel::cuda
