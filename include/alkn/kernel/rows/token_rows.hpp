// The rows of a token log-probability as raw pointers: what a backend that is fed raw pointers
// reads and writes. C++17, host and device, no LibTorch.
#pragma once

#include <cstdint>

#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// [num_rows] rows of logits, num_rows = samples x num_positions, and what is known of each.
struct TokenRows {
  const void* logits = nullptr;  ///< [samples, num_positions, vocabulary] type, the last one dense
  DType type = DType::float32;   ///< of logits and grad
  std::int64_t num_rows = 0, num_positions = 1, vocabulary = 0;
  std::int64_t sample_stride = 0, position_stride = 0;  ///< in elements
  const std::int64_t* labels = nullptr;  ///< [num_rows] the label that each row predicts
  std::int64_t ignored = -100;           ///< the label of rows that do not count
  float* max = nullptr;                  ///< [num_rows] log p[v] = x[v] - max - log_sum
  float* log_sum = nullptr;              ///< [num_rows]
  float* log_p = nullptr;                ///< [num_rows] forward: log p(label), out
  const float* grad_out = nullptr;       ///< [num_rows] backward: d loss / d log_p
  void* grad = nullptr;  ///< [num_rows, vocabulary] type, backward: out; may be contiguous `logits`
};

}  // namespace alkn::kernel
