// The kernels beside the step, as CUDA sees them: token log-probability, and the end of a task.
// Compiled by nvcc alone; no LibTorch.
#pragma once

#include <alkn/kernel/cuda/device.cuh>

#include <algorithm>
#include <cstdint>

#include <alkn/kernel/cuda/history.hpp>
#include <alkn/kernel/cuda/tokens.hpp>

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

__global__ void __launch_bounds__(tuning::kTokenThreads, tuning::kTokenBlocks)
    token_forward_launch(TokenRows rows) {
  __shared__ TokenShared shared;
  token_forward_kernel(Block(), shared, rows);
}
__global__ void __launch_bounds__(tuning::kTokenThreads, tuning::kTokenBlocks)
    token_backward_launch(TokenRows rows) {
  __shared__ TokenShared shared;
  token_backward_kernel(Block(), shared, rows);
}
__global__ void __launch_bounds__(tuning::kThreads) negate_launch(Negation negation) {
  negate_kernel(Block(), negation);
}
__global__ void __launch_bounds__(tuning::kThreads) mask_launch(MaskWords words) {
  __shared__ MaskShared shared;
  mask_kernel(Block(), shared, words);
}

/// log p(label), max and log_sum of every row. One launch, no temporary memory.
inline void token_forward(const TokenRows& rows, cudaStream_t stream) {
  if (rows.num_rows == 0) return;
  const unsigned grid = DeviceNumbers::of_current().grid(rows.num_rows, tuning::kTokenBlocks);
  token_forward_launch<<<grid, tuning::kTokenThreads, 0, stream>>>(rows);
  check_cuda(cudaGetLastError(), "the launch of a token log-probability");
}

/// The gradient by the logits. One launch, no temporary memory.
inline void token_backward(const TokenRows& rows, cudaStream_t stream) {
  if (rows.num_rows == 0) return;
  const unsigned grid = DeviceNumbers::of_current().grid(rows.num_rows, tuning::kTokenBlocks);
  token_backward_launch<<<grid, tuning::kTokenThreads, 0, stream>>>(rows);
  check_cuda(cudaGetLastError(), "the launch of a gradient by the logits");
}

inline void negate(const Negation& negation, cudaStream_t stream) {
  if (negation.size == 0) return;
  constexpr std::int64_t kEach = std::int64_t{4} * tuning::kThreads;
  const unsigned grid = DeviceNumbers::of_current().grid((negation.size + kEach - 1) / kEach, 8);
  negate_launch<<<grid, tuning::kThreads, 0, stream>>>(negation);
  check_cuda(cudaGetLastError(), "the launch of a negation");
}

/// Adds to words.count, on the device.
inline void count_bits(const MaskWords& words, cudaStream_t stream) {
  if (words.num_words == 0) return;
  const std::int64_t units = (words.num_words + tuning::kWordUnit - 1) / tuning::kWordUnit;
  mask_launch<<<DeviceNumbers::of_current().grid(units, 8), tuning::kThreads, 0, stream>>>(words);
  check_cuda(cudaGetLastError(), "the launch of a count of mask bits");
}

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
