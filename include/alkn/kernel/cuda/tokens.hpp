// The token log-probability and its gradient: a block a row, one read forward, one read and one
// write backward.
//
// The bits are those of the CPU's row passes: element i of a block of 4096 goes to accumulator i
// mod 64 in the order of i, the 64 are folded in halves, the blocks are added in double, each with
// the largest logit so far as its shift. The two double exponentials and the logarithm of a row are
// the device's own, within 1 ulp of the CPU's before they are rounded to float.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/tuning.hpp>
#include <alkn/kernel/rows/token_rows.hpp>

namespace alkn::kernel::cuda {

struct TokenShared {
  float terms[tuning::kTokenBlock];
  float lanes[tuning::kTokenGroup];
  std::uint32_t largest[tuning::kTokenThreads / 32];
  float shift, factor, at_label;
};

ALKN_HOST_DEVICE inline std::int64_t type_bytes(DType type) {
  return type == DType::float32 ? 4 : 2;
}

/// The row as it lies in memory.
ALKN_HOST_DEVICE inline const void* row_of(const TokenRows& rows, std::int64_t row) {
  const std::int64_t at = row / rows.num_positions * rows.sample_stride +
                          row % rows.num_positions * rows.position_stride;
  return static_cast<const char*>(rows.logits) + at * type_bytes(rows.type);
}

/// How many elements after a multiple of four a row starts in memory; accesses of four start there,
/// that many elements before the row.
ALKN_HOST_DEVICE inline std::int64_t row_shift(const void* row, DType type) {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row) /
                                   static_cast<std::uintptr_t>(type_bytes(type)) % 4);
}

/// Elements at .. at + 3 of a row as far as they are in begin .. end - 1, the others minus
/// infinity.
template <class Block>
ALKN_DEVICE inline void load_logits(const Block& block, const void* row, DType type,
                                    std::int64_t at, std::int64_t begin, std::int64_t end,
                                    float* x) {
  if (at >= begin && at + 4 <= end) {
    const Raw raw = load_raw(block, row, type, Span{at, 4});
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) x[j] = element(raw, type, j);
    return;
  }
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    const bool there = at + j >= begin && at + j < end;
    x[j] = there ? element(load_raw(block, row, type, Span{at + j, 1}), type, 0)
                 : -std::numeric_limits<float>::infinity();
  }
}

/// A thread's elements of a block of a row, and where they are. Where the row does not start at a
/// multiple of four, one more access takes the block's last elements.
struct TokenPart {
  float x[tuning::kTokenLoads + 1][4];
};
ALKN_HOST_DEVICE inline std::int64_t token_at(std::int64_t start, std::int64_t shift, int k,
                                              int thread) {
  return start - shift + 4 * (k * std::int64_t{tuning::kTokenThreads} + thread);
}
template <class Block>
ALKN_DEVICE inline void load_part(const Block& block, const void* row, DType type,
                                  std::int64_t shift, std::int64_t start, std::int64_t end,
                                  TokenPart& part) {
  ALKN_CUDA_UNROLL
  for (int k = 0; k <= tuning::kTokenLoads; ++k) {
    load_logits(block, row, type, token_at(start, shift, k, block.thread()), start, end, part.x[k]);
  }
}

/// The largest element of the block that is not NaN.
template <class Block>
ALKN_DEVICE inline float largest_of_block(const Block& block, TokenShared& shared,
                                          const TokenPart& part) {
  std::uint32_t key = order_key(-std::numeric_limits<float>::infinity());
  ALKN_CUDA_UNROLL
  for (int k = 0; k <= tuning::kTokenLoads; ++k) {
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t other = order_key(part.x[k][j]);
      if (other != 0xFFFFFFFFU && other > key) key = other;  // not a NaN
    }
  }
  key = block.largest_of_warp(key);
  if (block.thread() % 32 == 0) shared.largest[block.thread() / 32] = key;
  block.sync();
  ALKN_CUDA_UNROLL
  for (int w = 0; w < tuning::kTokenThreads / 32; ++w) {
    key = shared.largest[w] > key ? shared.largest[w] : key;
  }
  return key_value(key);
}

/// The sum of the first `length` terms; thread 0 gets it.
template <class Block>
ALKN_DEVICE inline float sum_terms(const Block& block, TokenShared& shared, std::int64_t length) {
  const int thread = block.thread();
  if (thread < tuning::kTokenGroup) {
    float sum = 0;
    for (std::int64_t i = thread; i < length; i += tuning::kTokenGroup) {
      sum = add(sum, shared.terms[i]);
    }
    shared.lanes[thread] = sum;
  }
  for (int half = tuning::kTokenGroup / 2; half > 0; half /= 2) {
    block.sync();
    if (thread < half)
      shared.lanes[thread] = add(shared.lanes[thread], shared.lanes[thread + half]);
  }
  return thread == 0 ? shared.lanes[0] : 0.0F;
}

/// max and log_sum of a row; thread 0 gets them.
template <class Block>
ALKN_DEVICE inline void log_sum_exp_of_row(const Block& block, TokenShared& shared,
                                           const TokenRows& rows, const void* row, double& max,
                                           double& log_sum) {
  const float lowest = -std::numeric_limits<float>::infinity();
  const std::int64_t size = rows.vocabulary, shift = row_shift(row, rows.type);
  float most = lowest;
  double sum = 0;
  TokenPart part;
  for (std::int64_t start = 0; start < size; start += tuning::kTokenBlock) {
    const std::int64_t left = size - start;
    const std::int64_t length = left < tuning::kTokenBlock ? left : tuning::kTokenBlock;
    load_part(block, row, rows.type, shift, start, start + length, part);
    const float largest = largest_of_block(block, shared, part);
    double rescale = 1;
    if (largest > most) {
      if (block.thread() == 0) {
        rescale = ::exp(static_cast<double>(most) - static_cast<double>(largest));
      }
      most = largest;
    }
    const float by =
        most > lowest ? most : 0.0F;  // the sum then shows a NaN, which the maximum skips
    ALKN_CUDA_UNROLL
    for (int k = 0; k <= tuning::kTokenLoads; ++k) {
      const std::int64_t at = token_at(0, shift, k, block.thread());
      ALKN_CUDA_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (at + j >= 0 && at + j < length) {
          shared.terms[at + j] = exp_of_negative(sub(part.x[k][j], by));
        }
      }
    }
    block.sync();
    const float more = sum_terms(block, shared, length);
    if (block.thread() == 0) sum = ::fma(sum, rescale, static_cast<double>(more));
    // The next block's maximum lies between this one's last read of `terms` and the next write.
  }
  max = static_cast<double>(most);
  log_sum = ::log(sum);
}

/// log p(label) and two numbers of every row, as of cpu_log_probability; NaN for a label outside
/// the vocabulary.
template <class Block>
ALKN_DEVICE inline void token_forward_kernel(const Block& block, TokenShared& shared,
                                             const TokenRows& rows) {
  for (std::int64_t r = block.index(); r < rows.num_rows; r += block.num_blocks()) {
    const std::int64_t label = rows.labels[r];
    double max = 0, log_sum = 0, log_p = 0;
    if (label != rows.ignored) {
      const void* row = row_of(rows, r);
      log_sum_exp_of_row(block, shared, rows, row, max, log_sum);
      if (block.thread() == 0) {
        log_p = std::numeric_limits<double>::quiet_NaN();
        if (label >= 0 && label < rows.vocabulary) {
          const Raw raw = load_raw(block, row, rows.type, Span{label, 1});
          log_p = static_cast<double>(element(raw, rows.type, 0)) - max - log_sum;
        }
      }
    }
    if (block.thread() == 0) {
      block.store(rows.max + r, static_cast<float>(max));
      block.store(rows.log_sum + r, static_cast<float>(log_sum));
      block.store(rows.log_p + r, static_cast<float>(log_p));
    }
    block.sync();
  }
}

/// What the gradient of a row is made of, by thread 0: out = e^(x - shift) factor, and at_label.
template <class Block>
ALKN_DEVICE inline void prepare_gradient(const Block& block, TokenShared& shared,
                                         const TokenRows& rows, const void* row, std::int64_t r,
                                         std::int64_t label) {
  const auto g = static_cast<double>(rows.grad_out[r]);
  const auto max = static_cast<double>(rows.max[r]);
  const auto log_sum = static_cast<double>(rows.log_sum[r]);
  shared.shift = rows.max[r];
  if (label < 0 || label >= rows.vocabulary) {
    shared.factor = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const Raw raw = load_raw(block, row, rows.type, Span{label, 1});
  const auto value = static_cast<double>(element(raw, rows.type, 0));
  shared.factor = flushed_float(-g * ::exp(-log_sum));
  shared.at_label = flushed_float(-g * ::expm1(value - max - log_sum));  // g (1 - p)
}

template <class Block>
ALKN_DEVICE inline void store_gradient(const Block& block, void* out, DType type, std::int64_t at,
                                       std::int64_t size, const float* y) {
  if (at >= 0 && at + 4 <= size) {
    if (type == DType::float32) {
      store_floats(block, static_cast<float*>(out), Span{at, 4}, y);
    } else {
      store_rounded(block, out, type, Span{at, 4}, y);
    }
    return;
  }
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    if (at + j < 0 || at + j >= size) continue;
    const float one[4] = {y[j], 0, 0, 0};
    if (type == DType::float32) {
      store_floats(block, static_cast<float*>(out), Span{at + j, 1}, one);
    } else {
      store_rounded(block, out, type, Span{at + j, 1}, one);
    }
  }
}

/// g (onehot(label) - p) of every row, zero where the label is ignored or g is zero, NaN for a
/// label outside the vocabulary. rows.grad may be the logits.
template <class Block>
ALKN_DEVICE inline void token_backward_kernel(const Block& block, TokenShared& shared,
                                              const TokenRows& rows) {
  constexpr int kLoads = tuning::kTokenLoads;
  for (std::int64_t r = block.index(); r < rows.num_rows; r += block.num_blocks()) {
    const std::int64_t label = rows.labels[r], size = rows.vocabulary;
    const bool bad = label < 0 || label >= size;
    const bool zero = label == rows.ignored || (!bad && rows.grad_out[r] == 0.0F);
    const void* row = row_of(rows, r);
    void* out = static_cast<char*>(rows.grad) + r * size * type_bytes(rows.type);
    if (block.thread() == 0 && !zero) prepare_gradient(block, shared, rows, row, r, label);
    block.sync();
    const F by = zero ? 0.0F : shared.shift, factor = zero ? 0.0F : shared.factor;
    const std::int64_t shift = row_shift(zero ? out : row, rows.type);
    for (std::int64_t start = 0; start < size + shift; start += tuning::kTokenBlock) {
      float x[kLoads][4];
      ALKN_CUDA_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        const std::int64_t at = token_at(start, shift, k, block.thread());
        if (!zero) load_logits(block, row, rows.type, at, 0, size, x[k]);
      }
      ALKN_CUDA_UNROLL
      for (int k = 0; k < kLoads; ++k) {
        const std::int64_t at = token_at(start, shift, k, block.thread());
        if (at >= size) continue;
        float y[4] = {0, 0, 0, 0};
        ALKN_CUDA_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (!zero) y[j] = mul(exp_of_negative(sub(x[k][j], by)), factor);
          if (!zero && !bad && at + j == label) y[j] = shared.at_label;
        }
        store_gradient(block, out, rows.type, at, size, y);
      }
    }
    block.sync();
  }
}

}  // namespace alkn::kernel::cuda
