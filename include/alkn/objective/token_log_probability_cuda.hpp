// Token log-probabilities and their gradient by the CUDA kernels, in programs that link alkn::cuda.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/kernel/rows/token_rows.hpp>
#include <alkn/objective/label_rows.hpp>
#include <alkn/tensor/cuda_table.hpp>

#include <cstdint>

namespace alkn::detail {

/// The kernels for these logits; null where there are none: other devices, double, a program
/// without alkn::cuda or without kernels for the device.
inline const CudaTable* token_kernels(const Tensor& logits) {
  if (!logits.is_cuda() || logits.scalar_type() == at::kDouble || !has_cuda_table()) return nullptr;
  return find_cuda_table(logits.device().index());
}

/// @param logits [B, T, V], the last dimension dense  @param next [B, T] int64, contiguous
/// @param stats [2, B, T] float
inline kernel::TokenRows token_rows(const Tensor& logits, const Tensor& next, const Tensor& stats) {
  kernel::TokenRows rows;
  rows.logits = logits.const_data_ptr();
  rows.type = logits.scalar_type() == at::kBFloat16 ? kernel::DType::bfloat16
              : logits.scalar_type() == at::kHalf   ? kernel::DType::float16
                                                    : kernel::DType::float32;
  rows.num_rows = next.numel();
  rows.num_positions = logits.size(1);
  rows.vocabulary = logits.size(2);
  rows.sample_stride = logits.stride(0);
  rows.position_stride = logits.stride(1);
  rows.labels = next.const_data_ptr<std::int64_t>();
  rows.ignored = kIgnoredLabel;
  rows.max = stats.mutable_data_ptr<float>();
  rows.log_sum = rows.max + rows.num_rows;
  return rows;
}

/// As aten_log_probability.
inline void cuda_log_probability(const CudaTable& table, const Tensor& logits, const Tensor& next,
                                 const Tensor& log_p, const Tensor& stats) {
  const Tensor x = with_dense_rows(logits);
  kernel::TokenRows rows = token_rows(x, next, stats);
  rows.log_p = log_p.mutable_data_ptr<float>();
  table.token_forward(rows, x.device().index());
}

/// As aten_gradient.
inline void cuda_gradient(const CudaTable& table, const Tensor& logits, const Tensor& next,
                          const Tensor& grad_out, const Tensor& stats, const Tensor& grad) {
  const Tensor x = with_dense_rows(logits);
  kernel::TokenRows rows = token_rows(x, next, stats);
  rows.grad_out = grad_out.const_data_ptr<float>();
  rows.grad = grad.mutable_data_ptr();
  table.token_backward(rows, x.device().index());
}

}  // namespace alkn::detail
