// The definition of retain_kl.hpp: an autograd function over rows of logits.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <alkn/objective/logit_rows.hpp>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/retain_kl.hpp>
#include <alkn/objective/retain_kl_rows.hpp>
#include <alkn/objective/token_log_probability_definitions.hpp>
#include <alkn/tensor/gradient_node.hpp>

#include <vector>

namespace alkn {
namespace detail {

inline constexpr const char* kRetainKL = "retain_kl";

inline Forward retain_kl_forward(const Tensor& given, const Tensor& given_reference,
                                 const Tensor& labels) {
  const LogitRows rows(given, labels);
  const Tensor &logits = rows.logits, &next = rows.next, reference = as_rows(given_reference);
  const auto wide = logits.options().dtype(wide_type(logits.scalar_type()));
  const Tensor divergence = at::zeros(next.sizes(), wide);
  const bool cpu = logits.is_cpu();
  const Tensor stats = at::zeros({cpu ? 4 : 0, next.size(0), next.size(1)}, wide);
  if (cpu) {
    cpu_divergence(logits, reference, next, divergence, stats);
    check_log_sum_exp(kRetainKL, rows, stats.narrow(0, 0, 2), "logits");
    check_log_sum_exp(kRetainKL, rows, stats.narrow(0, 2, 2), "reference logits");
  } else {
    aten_divergence(logits, reference, next, divergence);
  }
  return {rows.to_positions(divergence),
          {given, given_reference, next, rows.place, rows.misfit, stats}};
}

inline Tensor retain_kl_backward(const std::vector<Tensor>& saved, const Tensor& out) {
  const LogitRows rows(saved[0], saved[2], saved[3], saved[4]);
  const Tensor &logits = rows.logits, &next = rows.next, &stats = saved[5];
  const Tensor reference = as_rows(saved[1]), grad_out = rows.to_rows(out);
  const Tensor result = at::empty(saved[0].sizes(), logits.options()), grad = as_rows(result);
  if (logits.is_cpu()) {
    ask_for_huge_pages(grad);
    cpu_divergence_gradient(logits, reference, next, grad_out, stats, grad);
  } else {
    aten_divergence_gradient(logits, reference, next, grad_out, grad);
  }
  return result;
}

}  // namespace detail

ALKN_COMPILED_INLINE Tensor retain_kl(const Tensor& logits, const Tensor& reference_logits,
                                      const Tensor& labels) {
  constexpr const char* kName = detail::kRetainKL;
  detail::check_logits_and_labels(kName, logits, labels);
  detail::check_logits(kName, reference_logits, "reference_logits");
  TORCH_CHECK_VALUE(reference_logits.sizes() == logits.sizes(), "alkn::", kName,
                    ": expected reference logits of shape ", logits.sizes(), ", got ",
                    reference_logits.sizes(), " (reference_logits)");
  TORCH_CHECK_TYPE(reference_logits.scalar_type() == logits.scalar_type(), "alkn::", kName,
                   ": expected reference logits of type ", logits.scalar_type(), ", got ",
                   reference_logits.scalar_type(), " (reference_logits)");
  TORCH_CHECK_VALUE(reference_logits.device() == logits.device(), "alkn::", kName,
                    ": expected reference logits on ", logits.device(), ", got ",
                    reference_logits.device(), " (reference_logits)");
  const Tensor reference = reference_logits.detach();
  const Tensor rows = detail::with_gradient(
      kName, logits, [&] { return detail::retain_kl_forward(logits, reference, labels); },
      detail::retain_kl_backward);
  return detail::mean_over_counted(rows, labels);
}

}  // namespace alkn
