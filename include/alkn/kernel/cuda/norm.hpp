// The first kernel of a step: sums of every chunk; its last block makes clip scale, deviations and
// skip of them. Where a step is on several devices or processes, another kernel does so after they
// have exchanged their sums.
//
// The tree of the sums is the CPU's: element i of a chunk goes to accumulator i mod 128, here
// accumulator i mod 4 of thread i / 4 mod 32; the accumulators are folded, and the chunks are added
// in their order.
#pragma once

#include <cstdint>
#include <limits>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

struct NormShared {
  double lanes[3][tuning::kSumLanes];
  double staged[tuning::kNormThreads * tuning::kFinishLoads];
  std::uint32_t last;
};

/// The accumulators of one thread.
struct NormLanes {
  double squares[4], products[4], product_squares[4];
};

/// Adds four elements. kind 0: g^2 alone; 1: also the score's product d; 2: also d = g.
template <int kKind>
ALKN_DEVICE inline void add_to_lanes(NormLanes& lanes, const Raw& grad, DType type,
                                     const Raw& retain, DType retain_type,
                                     const ProductLanes<D>& product, int count) {
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    if (j >= count) continue;
    const auto g = static_cast<double>(operand(element(grad, type, j)));
    lanes.squares[j] = ::fma(g, g, lanes.squares[j]);
    if (kKind == 0) continue;
    double d = g;
    if (kKind == 1) {
      const auto r = static_cast<double>(operand(element(retain, retain_type, j)));
      d = score_product(product, g, r);
    }
    lanes.products[j] += d;
    lanes.product_squares[j] = ::fma(d, d, lanes.product_squares[j]);
  }
}

template <int kKind, class Block>
ALKN_DEVICE inline void sum_chunk(const Block& block, const Tensor& tensor, const Chunk& chunk,
                                  const ProductLanes<D>& product, NormLanes& lanes) {
  constexpr int kRows = tuning::kNormRows;
  const StepTensor& t = tensor.t;
  const std::int64_t end = chunk.begin + chunk.size;
  for (std::int64_t row = chunk.begin; row < end; row += kRows * tuning::kSumLanes) {
    Raw grad[kRows] = {}, retain[kRows] = {};
    Span spans[kRows];
    ALKN_CUDA_UNROLL
    for (int k = 0; k < kRows; ++k) {
      spans[k] = span_at(row + k * tuning::kSumLanes + 4 * block.thread(), end);
      grad[k] = load_raw(block, t.grad, t.type, spans[k]);
      if (kKind == 1) retain[k] = load_raw(block, t.retain, t.retain_type, spans[k]);
    }
    ALKN_CUDA_UNROLL
    for (int k = 0; k < kRows; ++k) {
      add_to_lanes<kKind>(lanes, grad[k], t.type, retain[k], t.retain_type, product,
                          spans[k].count);
    }
  }
}

/// Folds kSumLanes accumulators in shared memory: the tree of kernel::fold.
template <class Block>
ALKN_DEVICE inline double fold_lanes(const Block& block, double* lanes) {
  for (int width = static_cast<int>(tuning::kSumLanes) / 2; width > 0; width /= 2) {
    block.sync();
    for (int i = block.thread(); i < width; i += block.num_threads()) lanes[i] += lanes[i + width];
  }
  block.sync();
  return lanes[0];
}

/// The sum of what other blocks have written, in order; loads several at a time.
template <class Block>
ALKN_DEVICE inline double sum_in_order(const Block& block, const double* values, std::int64_t n) {
  double sum = 0;
  for (std::int64_t first = 0; first < n; first += tuning::kFinishLoads) {
    double loaded[tuning::kFinishLoads];
    ALKN_CUDA_UNROLL
    for (int k = 0; k < tuning::kFinishLoads; ++k) {
      loaded[k] = first + k < n ? block.load_fresh(values + first + k) : 0;
    }
    ALKN_CUDA_UNROLL
    for (int k = 0; k < tuning::kFinishLoads; ++k) {
      if (first + k < n) sum += loaded[k];
    }
  }
  return sum;
}

/// What the norm says of the whole step.
ALKN_DEVICE inline void set_control(Control& control, const Header& header, double norm) {
  const bool skip = !(norm <= std::numeric_limits<double>::max());
  control.grad_norm = norm;
  control.clip_scale = skip ? 1.0 : clip_scale(norm, header.args.max_norm);
  control.scale = flushed_float(control.clip_scale);
  control.skip = skip ? 1 : 0;
  control.num_missed = 0;
  control.blocks_done = 0;
  control.step += 1;
}

/// The sum of g^2 over all chunks; thread 0 gets it.
template <class Block>
ALKN_DEVICE inline double sum_of_squares(const Block& block, NormShared& shared,
                                         const Table& table) {
  const Header& header = *table.header;
  constexpr int kBatch = tuning::kNormThreads * tuning::kFinishLoads;
  double squares = 0;
  const std::int64_t num_sums = header.sums ? header.num_chunks : 0;
  for (std::int64_t first = 0; first < num_sums; first += kBatch) {
    ALKN_CUDA_UNROLL
    for (int k = 0; k < tuning::kFinishLoads; ++k) {
      const int i = k * tuning::kNormThreads + block.thread();
      if (first + i < num_sums) shared.staged[i] = block.load_fresh(table.sums + first + i);
    }
    block.sync();
    const std::int64_t left = num_sums - first;
    const int count = left < kBatch ? static_cast<int>(left) : kBatch;
    if (block.thread() == 0) {
      for (int i = 0; i < count; ++i) squares += shared.staged[i];
    }
    block.sync();
  }
  return squares;
}

/// What follows from thread 0's sum of g^2: clip scale, skip, deviations. One block runs it, after
/// all others are done.
template <class Block>
ALKN_DEVICE inline void finish_step(const Block& block, NormShared& shared, const Table& table,
                                    double squares) {
  const Header& header = *table.header;
  const StepArgs& args = header.args;
  if (block.thread() == 0) {
    set_control(*table.control, header, ::sqrt(squares));
    shared.staged[0] = table.control->clip_scale;
    shared.last = table.control->skip;
  }
  block.sync();
  if (shared.last != 0) return;
  const auto scale = static_cast<double>(flushed_float(shared.staged[0]));
  for (std::int64_t k = block.thread(); k < header.num_tensors; k += block.num_threads()) {
    const Tensor& tensor = table.tensors[k];
    TensorState& state = table.states[k];
    state.num_trained = 0;
    state.threshold = tensor.t.threshold;
    state.deviation = 0;
    if (args.mask != MaskKind::localized || tensor.t.used == nullptr) continue;
    const double* sums = table.sums + header.num_chunks + tensor.first_chunk;
    const double sum = sum_in_order(block, sums, tensor.num_chunks);
    const double sum_squares = sum_in_order(block, sums + header.num_chunks, tensor.num_chunks);
    state.deviation = flushed_float(scale * unbiased_deviation(sum, sum_squares, tensor.t.size));
  }
}

/// The second kernel of a step that waits, of one block: the devices' sums in their order, the same
/// on each.
template <class Block>
ALKN_DEVICE inline void combine_kernel(const Block& block, NormShared& shared, const Table& table) {
  double squares = 0;
  for (int d = 0; d < table.header->num_devices; ++d) squares += block.load(table.squares + d);
  finish_step(block, shared, table, squares);
}

template <class Block>
ALKN_DEVICE inline void norm_kernel(const Block& block, NormShared& shared, const Table& table) {
  const Header& header = *table.header;
  const StepArgs& args = header.args;
  const ProductLanes<D> product = product_lanes<D>(args.score);
  const std::int64_t num_chunks = header.sums ? header.num_chunks : 0;
  for (std::int64_t c = block.index(); c < num_chunks; c += block.num_blocks()) {
    const Chunk chunk = table.chunks[c];
    const Tensor& tensor = table.tensors[chunk.tensor];
    const bool products = args.mask == MaskKind::localized && tensor.t.used != nullptr;
    NormLanes lanes = {};
    if (!products) {
      sum_chunk<0>(block, tensor, chunk, product, lanes);
    } else if (args.score.penalty_scale == PenaltyScale::product) {
      sum_chunk<1>(block, tensor, chunk, product, lanes);
    } else {
      sum_chunk<2>(block, tensor, chunk, product, lanes);
    }
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      shared.lanes[0][4 * block.thread() + j] = lanes.squares[j];
      shared.lanes[1][4 * block.thread() + j] = lanes.products[j];
      shared.lanes[2][4 * block.thread() + j] = lanes.product_squares[j];
    }
    for (int k = 0; k < (products ? 3 : 1); ++k) {
      const double sum = fold_lanes(block, shared.lanes[k]);
      if (block.thread() == 0) block.store(table.sums + k * header.num_chunks + c, sum);
    }
    block.sync();
  }
  block.fence();
  block.sync();
  if (block.thread() == 0) {
    const auto done = block.fetch_add(&table.control->blocks_done, 1) + 1;
    shared.last = done == static_cast<std::uint64_t>(block.num_blocks()) ? 1 : 0;
  }
  block.sync();
  const bool last = shared.last != 0;
  block.sync();
  if (!last) return;
  block.fence();
  const double squares = sum_of_squares(block, shared, table);
  if (!header.waits) {
    finish_step(block, shared, table, squares);
  } else if (block.thread() == 0) {
    block.store(table.squares + header.device, squares);
    table.control->blocks_done = 0;
  }
}

}  // namespace alkn::kernel::cuda
