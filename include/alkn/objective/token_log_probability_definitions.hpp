// The definition of token_log_probability.hpp: an autograd function over the kernels of each
// device.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <alkn/objective/label_rows.hpp>
#include <alkn/objective/logit_rows.hpp>
#include <alkn/objective/token_log_probability.hpp>
#include <alkn/objective/token_log_probability_aten.hpp>
#include <alkn/objective/token_log_probability_cpu.hpp>
#include <alkn/objective/token_log_probability_cuda.hpp>
#include <alkn/tensor/gradient_node.hpp>

#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

namespace alkn {
namespace detail {

/// Throws where the log-sum-exp of a counted row is not a number, or infinite. Reads values: CPU
/// only.
/// @param stats [2, number of rows], in any shape  @param what for example "logits"
inline void check_log_sum_exp(std::string_view owner, const LogitRows& rows, const Tensor& stats,
                              std::string_view what) {
  const Tensor sum = stats.select(0, 0).add(stats.select(0, 1)).to(at::kDouble);
  const double* value = sum.const_data_ptr<double>();
  const std::int64_t* label = rows.next.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < rows.next.numel(); ++row) {
    TORCH_CHECK_VALUE(label[row] == kIgnoredLabel || std::isfinite(value[row]), "alkn::", owner,
                      ": expected ", what, " with a finite log-sum-exp, got ",
                      std::isnan(value[row]) ? "nan" : (value[row] > 0 ? "inf" : "-inf"), " (",
                      rows.where(row), ")");
  }
}

inline constexpr const char* kTokenLogProbability = "token_log_probability";

inline Forward token_log_probability_forward(const Tensor& given, const Tensor& labels) {
  const LogitRows rows(given, labels);
  const Tensor &logits = rows.logits, &next = rows.next;
  const auto wide = logits.options().dtype(wide_type(logits.scalar_type()));
  const Tensor log_p = at::zeros(next.sizes(), wide);
  const Tensor stats = at::zeros({2, next.size(0), next.size(1)}, wide);
  if (logits.is_cpu()) {
    cpu_log_probability(logits, next, log_p, stats);
    check_log_sum_exp(kTokenLogProbability, rows, stats, "logits");
  } else if (const CudaTable* kernels = token_kernels(logits)) {
    cuda_log_probability(*kernels, logits, next, log_p, stats);
  } else {
    aten_log_probability(logits, next, log_p, stats);
  }
  return {rows.to_positions(log_p), {given, next, rows.place, rows.misfit, stats}};
}

inline Tensor token_log_probability_backward(const std::vector<Tensor>& saved, const Tensor& out) {
  const LogitRows rows(saved[0], saved[1], saved[2], saved[3]);
  const Tensor &logits = rows.logits, &next = rows.next, &stats = saved[4];
  const Tensor grad_out = rows.to_rows(out);
  const Tensor result = at::empty(saved[0].sizes(), logits.options()), grad = as_rows(result);
  if (logits.is_cpu()) {
    ask_for_huge_pages(grad);
    cpu_gradient(logits, next, grad_out, stats, grad);
  } else if (const CudaTable* kernels = token_kernels(logits)) {
    cuda_gradient(*kernels, logits, next, grad_out, stats, grad);
  } else {
    aten_gradient(logits, next, grad_out, stats, grad);
  }
  return result;
}

}  // namespace detail

ALKN_COMPILED_INLINE Tensor token_log_probability(const Tensor& logits, const Tensor& labels) {
  detail::check_logits_and_labels(detail::kTokenLogProbability, logits, labels);
  return detail::with_gradient(
      detail::kTokenLogProbability, logits,
      [&] { return detail::token_log_probability_forward(logits, labels); },
      detail::token_log_probability_backward);
}

}  // namespace alkn
