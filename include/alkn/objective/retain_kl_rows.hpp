// KL(p_ref, p) of rows of logits and its gradient: on the CPU in one pass, elsewhere by plain ATen
// operations.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <alkn/objective/label_rows.hpp>
#include <alkn/objective/token_log_probability_aten.hpp>
#include <alkn/objective/token_log_probability_cpu.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace alkn {
namespace detail {

/// KL(p_ref, p) of the counted rows. @param stats [4, B, T] wide type, written: x_max and log_sum,
/// then those of ref
/// @param divergence [B, T] wide type, zeros
inline void cpu_divergence(const Tensor& logits, const Tensor& reference, const Tensor& next,
                           const Tensor& divergence, const Tensor& stats) {
  const Tensor x = with_dense_rows(logits), ref = with_dense_rows(reference);
  const std::vector<std::int64_t> counted = counted_rows(next);
  with_row_type(x.scalar_type(), [&]<class T>(T*) {
    const auto& kernels = kernel::row_functions<T>();
    const auto divergence_of = kernel::divergence_functions<T>().divergence;
    const Rows<T> rows(x), ref_rows(ref);
    auto* out = divergence.mutable_data_ptr<WideOf<T>>();
    auto* stat = stats.mutable_data_ptr<WideOf<T>>();
    const std::int64_t n = next.numel();
    const auto row_divergence = [&](std::int64_t r) {
      const auto lse = kernels.log_sum_exp(rows[r], rows.size);
      const auto ref_lse = kernels.log_sum_exp(ref_rows[r], rows.size);
      const double sum = divergence_of(ref_rows[r], rows[r], rows.size, ref_lse.max, lse.max);
      out[r] = static_cast<WideOf<T>>(sum * std::exp(-ref_lse.log_sum) -
                                      (ref_lse.log_sum - lse.log_sum));
      stat[r] = static_cast<WideOf<T>>(lse.max);
      stat[n + r] = static_cast<WideOf<T>>(lse.log_sum);
      stat[2 * n + r] = static_cast<WideOf<T>>(ref_lse.max);
      stat[3 * n + r] = static_cast<WideOf<T>>(ref_lse.log_sum);
    };
    at::parallel_for(0, static_cast<std::int64_t>(counted.size()), rows_per_chunk(rows.size),
                     [&](std::int64_t begin, std::int64_t end) {
                       const kernel::FlushDenormals flush;
                       for (std::int64_t i = begin; i < end; ++i) {
                         row_divergence(counted[static_cast<std::size_t>(i)]);
                       }
                     });
  });
}

/// grad = grad_out (p - p_ref) in the counted rows, 0 elsewhere. @param grad [B, T, V] contiguous,
/// written
inline void cpu_divergence_gradient(const Tensor& logits, const Tensor& reference,
                                    const Tensor& next, const Tensor& grad_out, const Tensor& stats,
                                    const Tensor& grad) {
  const Tensor x = with_dense_rows(logits), ref = with_dense_rows(reference);
  const std::int64_t* label = next.const_data_ptr<std::int64_t>();
  with_row_type(x.scalar_type(), [&]<class T>(T*) {
    const auto& kernels = kernel::divergence_functions<T>();
    const Rows<T> rows(x), ref_rows(ref), out(grad);
    const auto* g = grad_out.const_data_ptr<WideOf<T>>();
    const auto* stat = stats.const_data_ptr<WideOf<T>>();
    const std::int64_t n = next.numel();
    const auto row_gradient = [&](std::int64_t r) {
      const auto scale = static_cast<double>(g[r]);
      if (label[r] == kIgnoredLabel || g[r] == 0) {
        std::fill_n(out[r], rows.size, T{});
        return;
      }
      kernels.softmax_difference(ref_rows[r], rows[r], rows.size,
                                 static_cast<double>(stat[2 * n + r]), static_cast<double>(stat[r]),
                                 -scale * std::exp(-static_cast<double>(stat[3 * n + r])),
                                 scale * std::exp(-static_cast<double>(stat[n + r])), out[r]);
    };
    at::parallel_for(0, n, rows_per_chunk(rows.size), [&](std::int64_t begin, std::int64_t end) {
      const kernel::FlushDenormals flush;
      for (std::int64_t r = begin; r < end; ++r) row_gradient(r);
    });
  });
}

/// log softmax of a block of rows in the wide type; rows without a label are taken as zero logits.
inline Tensor aten_block_log_softmax(const Tensor& rows, const Tensor& counted) {
  const Tensor x = rows.to(wide_type(rows.scalar_type())).masked_fill(counted.logical_not(), 0);
  return x.log_softmax(1);
}

/// The same as `cpu_divergence` in plain ATen operations, a block of rows at a time; keeps no
/// statistics.
inline void aten_divergence(const Tensor& logits, const Tensor& reference, const Tensor& next,
                            const Tensor& divergence) {
  const std::int64_t num_rows = next.numel();
  const Tensor rows = logits.reshape({num_rows, logits.size(2)});
  const Tensor ref_rows = reference.reshape(rows.sizes()), out = divergence.view({num_rows});
  const Tensor counts = is_counted(next.view({num_rows, 1}));
  const std::int64_t block = rows_per_block(rows);
  for (std::int64_t start = 0; start < num_rows; start += block) {
    const std::int64_t n = std::min(block, num_rows - start);
    const Tensor count = counts.narrow(0, start, n);
    const Tensor log_ref = aten_block_log_softmax(ref_rows.narrow(0, start, n), count);
    const Tensor log_p = aten_block_log_softmax(rows.narrow(0, start, n), count);
    const Tensor p_ref = log_ref.exp();
    const Tensor term = log_ref.sub(log_p).mul_(p_ref).masked_fill_(p_ref.eq(0), 0);
    out.narrow(0, start, n).copy_(term.sum(1));
  }
}

/// The same as `cpu_divergence_gradient` in plain ATen operations.
inline void aten_divergence_gradient(const Tensor& logits, const Tensor& reference,
                                     const Tensor& next, const Tensor& grad_out,
                                     const Tensor& grad) {
  const std::int64_t num_rows = next.numel();
  const Tensor rows = logits.reshape({num_rows, logits.size(2)}), to = grad.view(rows.sizes());
  const Tensor ref_rows = reference.reshape(rows.sizes()), g = grad_out.view({num_rows, 1});
  const Tensor counts = is_counted(next.view({num_rows, 1}));
  const std::int64_t block = rows_per_block(rows);
  for (std::int64_t start = 0; start < num_rows; start += block) {
    const std::int64_t n = std::min(block, num_rows - start);
    const Tensor count = counts.narrow(0, start, n);
    const Tensor p = aten_block_log_softmax(rows.narrow(0, start, n), count).exp_();
    p.sub_(aten_block_log_softmax(ref_rows.narrow(0, start, n), count).exp_());
    p.mul_(g.narrow(0, start, n)).masked_fill_(count.logical_not(), 0);
    to.narrow(0, start, n).copy_(p);
  }
}

}  // namespace detail
}  // namespace alkn
