// Logits and labels as rows: the label that each position predicts, and the checks on both.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>
#include <alkn/kernel/flags.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <cstdint>
#include <string_view>

namespace alkn {

using at::Tensor;

/// The label of a position that does not count (LibTorch's own ignore_index).
inline constexpr std::int64_t kIgnoredLabel = -100;

namespace detail {

/// The labels that the logits before them predict, labels[:, 1:]. The only place that shifts
/// labels.
/// @param labels [B, T]  @returns [B, T - 1], a view
inline Tensor predicted_labels(const Tensor& labels) {
  return labels.narrow(1, 1, labels.size(1) - 1);
}

/// The label that the logits at t predict, labels[b, t + 1]; -100 at the last position.
/// @param labels [B, T] int64  @returns [B, T] int64, contiguous
inline Tensor next_labels(const Tensor& labels) {
  const Tensor none = at::full({labels.size(0), 1}, kIgnoredLabel, labels.options());
  return at::cat({predicted_labels(labels), none}, 1);
}

/// Which predicted labels count. @returns bool of their shape
inline Tensor is_counted(const Tensor& predicted) { return predicted.ne(kIgnoredLabel); }

inline bool is_logit_type(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

/// The type in which values of `type` are added up and handed to the user.
inline at::ScalarType wide_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

/// `logits` itself, or a copy if its vocabulary is not contiguous in memory, or its memory is not
/// its values (tensor/plain_values.hpp).
inline Tensor with_dense_rows(const Tensor& logits) {
  const bool dense = logits.stride(2) == 1 || logits.size(2) == 1;
  return dense && !logits.is_neg() && !logits._is_zerotensor() ? logits : plain_values(logits);
}

/// Throws unless `labels` is [B, T] int64 with T >= 1.
inline void check_labels(std::string_view owner, const Tensor& labels) {
  TORCH_CHECK_VALUE(labels.defined(), "alkn::", owner,
                    ": expected labels of shape [B, T], got an undefined tensor (labels)");
  TORCH_CHECK_VALUE(labels.dim() == 2 && labels.size(1) >= 1, "alkn::", owner,
                    ": expected labels of shape [B, T] with T >= 1, got ", labels.sizes(),
                    " (labels)");
  TORCH_CHECK_TYPE(labels.scalar_type() == at::kLong, "alkn::", owner,
                   ": expected labels of type Long, got ", labels.scalar_type(), " (labels)");
}

/// Throws unless `logits` is a dense [B, T, V] or [N, V] tensor of a floating-point type with T and
/// V >= 1.
inline void check_logits(std::string_view owner, const Tensor& logits, std::string_view where) {
  TORCH_CHECK_VALUE(logits.defined(), "alkn::", owner,
                    ": expected logits of shape [B, T, V] or [N, V], got an undefined tensor (",
                    where, ")");
  TORCH_CHECK_VALUE(logits.layout() == at::kStrided, "alkn::", owner,
                    ": expected logits of layout Strided, got ", logits.layout(), " (", where, ")");
  const bool fits =
      (logits.dim() == 2 || (logits.dim() == 3 && logits.size(1) >= 1)) && logits.size(-1) >= 1;
  TORCH_CHECK_VALUE(fits, "alkn::", owner,
                    ": expected logits of shape [B, T, V] or [N, V] with T and V >= 1, got ",
                    logits.sizes(), " (", where, ")");
  TORCH_CHECK_TYPE(is_logit_type(logits.scalar_type()), "alkn::", owner,
                   ": expected logits of type Float, Double, BFloat16 or Half, got ",
                   logits.scalar_type(), " (", where, ")");
}

/// Throws unless every label is -100 or in [0, vocabulary). Reads the labels: CPU only.
inline void check_label_range(std::string_view owner, const Tensor& labels,
                              std::int64_t vocabulary) {
  const Tensor plain = plain_values(labels);
  const auto label = plain.accessor<std::int64_t, 2>();
  for (std::int64_t b = 0; b < labels.size(0); ++b) {
    for (std::int64_t t = 0; t < labels.size(1); ++t) {
      const std::int64_t value = label[b][t];
      TORCH_CHECK_VALUE(value == kIgnoredLabel || (value >= 0 && value < vocabulary),
                        "alkn::", owner, ": expected a label in [0, ", vocabulary,
                        ") or -100, got ", value, " (sample ", b, ", position ", t, ")");
    }
  }
}

/// All checks that need no value from another device than the CPU.
inline void check_logits_and_labels(std::string_view owner, const Tensor& logits,
                                    const Tensor& labels) {
  check_logits(owner, logits, "logits");
  check_labels(owner, labels);
  TORCH_CHECK_VALUE(logits.dim() == 2 || labels.sizes() == logits.sizes().slice(0, 2),
                    "alkn::", owner, ": expected labels of shape ", logits.sizes().slice(0, 2),
                    ", got ", labels.sizes(), " (labels)");
  TORCH_CHECK_VALUE(labels.device() == logits.device(), "alkn::", owner, ": expected labels on ",
                    logits.device(), ", where the logits are, got ", labels.device(), " (labels)");
  if (!labels.is_cpu()) return;
  check_label_range(owner, labels, logits.size(-1));
  if (logits.dim() != 2) return;
  const auto counted = next_labels(labels).ne(kIgnoredLabel).sum().item<std::int64_t>();
  TORCH_CHECK_VALUE(logits.size(0) == counted, "alkn::", owner, ": expected logits of ", counted,
                    " rows, as many as labels that count, got ", logits.sizes(), " (logits)");
}

}  // namespace detail
}  // namespace alkn
