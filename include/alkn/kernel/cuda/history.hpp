// What happens to weights and masks at the end of a task, as per-thread code.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/tuning.hpp>

namespace alkn::kernel::cuda {

/// param = start - lambda (param - start) over `size` elements.
struct Negation {
  float* param = nullptr;  ///< [size] fp32, the masters of a 16-bit parameter, in place
  /// [size] fp32. On the device or in pinned host memory: each element is read once, so that a
  /// stream of them over the bus overlaps with what the other threads read and write.
  const float* start = nullptr;
  std::int64_t size = 0;
  float lambda = 1;
};

template <class Block>
ALKN_DEVICE inline void negate_kernel(const Block& block, const Negation& n) {
  const std::int64_t stride = 4 * block.num_blocks() * block.num_threads();
  for (std::int64_t at = 4 * (block.index() * block.num_threads() + block.thread()); at < n.size;
       at += stride) {
    const Span span = span_at(at, n.size);
    const Raw params = load_raw(block, n.param, DType::float32, span);
    const Raw starts = load_raw(block, n.start, DType::float32, span);
    float x[4];
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      x[j] = negated(-n.lambda, element(params, DType::float32, j),
                     element(starts, DType::float32, j));
    }
    store_floats(block, n.param, span, x);
  }
}

ALKN_HOST_DEVICE inline std::uint32_t count_ones(std::uint64_t x) {
#if defined(__CUDA_ARCH__)
  return static_cast<std::uint32_t>(__popcll(x));
#else
  return static_cast<std::uint32_t>(__builtin_popcountll(x));
#endif
}

/// Words of masks: how many bits of `mask` are set, and of those in `other` if there is one.
struct MaskWords {
  const std::uint64_t* mask = nullptr;   ///< [num_words]
  const std::uint64_t* other = nullptr;  ///< [num_words] or null
  std::int64_t num_words = 0;
  std::uint64_t* count = nullptr;  ///< added to
};

struct MaskShared {
  std::uint32_t count;
};

template <class Block>
ALKN_DEVICE inline void mask_kernel(const Block& block, MaskShared& shared, const MaskWords& w) {
  for (std::int64_t begin = block.index() * tuning::kWordUnit; begin < w.num_words;
       begin += block.num_blocks() * tuning::kWordUnit) {
    const std::int64_t left = w.num_words - begin;
    const std::int64_t end = begin + (left < tuning::kWordUnit ? left : tuning::kWordUnit);
    if (block.thread() == 0) shared.count = 0;
    block.sync();
    std::uint32_t count = 0;
    for (std::int64_t i = begin + block.thread(); i < end; i += block.num_threads()) {
      const std::uint64_t mask = block.load(w.mask + i);
      count += count_ones(w.other != nullptr ? mask & block.load(w.other + i) : mask);
    }
    block.sum_shared(&shared.count, count);
    block.sync();
    if (block.thread() == 0 && shared.count != 0) block.fetch_add(w.count, shared.count);
    block.sync();
  }
}

}  // namespace alkn::kernel::cuda
