// Token log-probabilities and their gradient by the row kernels: CPU tensors of any of the four
// types.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <alkn/kernel/rows/token_log_probability.hpp>
#include <alkn/objective/label_rows.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if !defined(_OPENMP)
#error "alkn: at::parallel_for is serial without OpenMP; compile with -fopenmp (alkn::alkn does it)"
#endif

namespace alkn::detail {

/// Calls f with a null pointer of the kernels' type for `type`.
template <class F>
void with_row_type(at::ScalarType type, F&& f) {
  switch (type) {
    case at::kDouble:
      return f(static_cast<double*>(nullptr));
    case at::kBFloat16:
      return f(static_cast<kernel::BFloat16*>(nullptr));
    case at::kHalf:
      return f(static_cast<kernel::Half*>(nullptr));
    default:
      return f(static_cast<float*>(nullptr));
  }
}

/// `wide_type` as a C++ type.
template <class T>
using WideOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// The rows of a [B, T, V] tensor whose last dimension is dense.
template <class T>
struct Rows {
  T* data;
  std::int64_t num_positions, size, sample_stride, position_stride;

  explicit Rows(const Tensor& x)
      : data(static_cast<T*>(x.mutable_data_ptr())),
        num_positions(x.size(1)),
        size(x.size(2)),
        sample_stride(x.stride(0)),
        position_stride(x.stride(1)) {}
  T* operator[](std::int64_t row) const {
    return data + row / num_positions * sample_stride + row % num_positions * position_stride;
  }
};

/// The rows that count, so that they can be dealt out evenly.
inline std::vector<std::int64_t> counted_rows(const Tensor& next) {
  std::vector<std::int64_t> rows;
  const std::int64_t* label = next.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < next.numel(); ++row) {
    if (label[row] != kIgnoredLabel) rows.push_back(row);
  }
  return rows;
}

/// Rows to a parallel chunk: enough work to be worth a thread.
inline std::int64_t rows_per_chunk(std::int64_t vocabulary) {
  return std::max<std::int64_t>(1, 16384 / vocabulary);
}

/// A large tensor that is about to be written for the first time: ask for huge pages, or half of
/// the time goes into page faults. A hint; no effect on what is computed.
inline void ask_for_huge_pages(const Tensor& x) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kPage = std::uintptr_t{1} << 21;
  auto* const data = static_cast<char*>(x.mutable_data_ptr());
  const std::uintptr_t before = (kPage - reinterpret_cast<std::uintptr_t>(data) % kPage) % kPage;
  if (x.nbytes() < before + kPage) return;
  madvise(data + before, (x.nbytes() - before) / kPage * kPage, MADV_HUGEPAGE);
#else
  static_cast<void>(x);
#endif
}

/// Beyond the size of a last-level cache the gradient is written past it.
inline bool exceeds_cache(const Tensor& x) { return x.nbytes() > (std::size_t{1} << 25); }

/// @param logits [B, T, V]  @param next [B, T] from next_labels, checked  @param log_p [B, T] wide
/// type, zeros
/// @param stats [2, B, T] wide type: maximum and log_sum of the counted rows
inline void cpu_log_probability(const Tensor& logits, const Tensor& next, const Tensor& log_p,
                                const Tensor& stats) {
  const Tensor x = with_dense_rows(logits);
  const std::vector<std::int64_t> counted = counted_rows(next);
  const std::int64_t* label = next.const_data_ptr<std::int64_t>();
  with_row_type(x.scalar_type(), [&]<class T>(T*) {
    using Wide = WideOf<T>;
    const auto& kernels = kernel::row_functions<T>();
    const Rows<T> rows(x);
    Wide* out = log_p.mutable_data_ptr<Wide>();
    Wide* max = stats.mutable_data_ptr<Wide>();
    Wide* log_sum = max + next.numel();
    at::parallel_for(0, static_cast<std::int64_t>(counted.size()), rows_per_chunk(rows.size),
                     [&](std::int64_t begin, std::int64_t end) {
                       const kernel::FlushDenormals flush;
                       for (std::int64_t i = begin; i < end; ++i) {
                         const std::int64_t r = counted[static_cast<std::size_t>(i)];
                         const T* row = rows[r];
                         const kernel::LogSumExp lse = kernels.log_sum_exp(row, rows.size);
                         const auto value = static_cast<double>(kernel::rows::widen(row[label[r]]));
                         max[r] = static_cast<Wide>(lse.max);
                         log_sum[r] = static_cast<Wide>(lse.log_sum);
                         out[r] = static_cast<Wide>(value - lse.max - lse.log_sum);
                       }
                     });
  });
}

/// One row of the gradient, g (onehot(label) - p).
template <class T>
void cpu_gradient_row(const kernel::RowFunctions<T>& kernels, const T* row, std::int64_t size,
                      std::int64_t label, double g, kernel::LogSumExp lse, T* out, bool bypass) {
  const auto value = static_cast<double>(kernel::rows::widen(row[label]));
  const double at_label = -g * std::expm1(value - lse.max - lse.log_sum);  // g (1 - p)
  kernels.scaled_softmax(row, size, lse.max, -g * std::exp(-lse.log_sum), out, bypass);
  out[label] = kernel::rows::round_to<T>(at_label);
}

/// @param grad_out [B, T] wide type  @param grad [B, T, V] contiguous, written
inline void cpu_gradient(const Tensor& logits, const Tensor& next, const Tensor& grad_out,
                         const Tensor& stats, const Tensor& grad) {
  const Tensor x = with_dense_rows(logits);
  const std::int64_t* label = next.const_data_ptr<std::int64_t>();
  const bool bypass = exceeds_cache(grad);
  with_row_type(x.scalar_type(), [&]<class T>(T*) {
    using Wide = WideOf<T>;
    const auto& kernels = kernel::row_functions<T>();
    const Rows<T> rows(x), out(grad);
    const Wide* g = grad_out.const_data_ptr<Wide>();
    const Wide* max = stats.const_data_ptr<Wide>();
    const Wide* log_sum = max + next.numel();
    at::parallel_for(
        0, next.numel(), rows_per_chunk(rows.size), [&](std::int64_t begin, std::int64_t end) {
          const kernel::FlushDenormals flush;
          for (std::int64_t r = begin; r < end; ++r) {
            if (label[r] == kIgnoredLabel || g[r] == 0) {
              std::memset(static_cast<void*>(out[r]), 0,
                          sizeof(T) * static_cast<std::size_t>(rows.size));
            } else {
              cpu_gradient_row(kernels, rows[r], rows.size, label[r], static_cast<double>(g[r]),
                               {static_cast<double>(max[r]), static_cast<double>(log_sum[r])},
                               out[r], bypass);
            }
          }
          kernel::finish_streams();
        });
  });
}

}  // namespace alkn::detail
