// The plain losses over token log-probabilities: what a retain term and most objectives are made
// of.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/objective/label_rows.hpp>
#include <alkn/objective/token_log_probability.hpp>

#include <cstdint>

namespace alkn {
namespace detail {

/// Which of the [B, T - 1] log-probabilities count.
inline Tensor counted_positions(const Tensor& labels) {
  return is_counted(predicted_labels(labels));
}

/// The sum of [N] values. ATen gives a part of a long sum with one result to every thread; here it
/// is added up piece by piece: the same bits for any number of threads.
inline Tensor ordered_sum(const Tensor& values) {
  constexpr std::int64_t kPiece = 16384;  // ATen adds up to 32768 numbers in one thread
  if (values.numel() <= kPiece) return values.sum();
  Tensor sum;
  for (const Tensor& piece : values.split(kPiece)) {
    sum = sum.defined() ? sum.add(piece.sum()) : piece.sum();
  }
  return sum;
}

/// The sum of each row of [B, T] values, likewise.
inline Tensor row_sums(const Tensor& values) {
  return values.size(0) == 1 ? ordered_sum(values[0]).unsqueeze(0) : values.sum(1);
}

/// Sum over the counted positions divided by their number; 0 where there are none. `values` must be
/// zero where nothing counts. Sequences are added up first: the same bits for any number of
/// threads.
inline Tensor mean_over_counted(const Tensor& values, const Tensor& labels) {
  const Tensor number = counted_positions(labels).sum().clamp_min(1);
  return ordered_sum(row_sums(values)).div(number);
}

}  // namespace detail

/// Tokens that count in each sequence: labels[b, 1:] other than -100.
/// @param labels [B, T] int64  @returns [B] int64
inline Tensor valid_tokens(const Tensor& labels) {
  detail::check_labels("valid_tokens", labels);
  return detail::counted_positions(labels).sum(1);
}

/// Negative log-likelihood, averaged over the tokens that count; 0 with a zero gradient where there
/// are none.
/// @param logits [B, T, V] or [N, V]  @param labels [B, T]; both as in `token_log_probability`
/// @returns a scalar, float or double
inline Tensor mean_nll(const Tensor& logits, const Tensor& labels) {
  return detail::mean_over_counted(token_log_probability(logits, labels), labels).neg();
}

/// Negative log-likelihood of each sequence, the sum over its tokens that count.
/// @param logits [B, T, V] or [N, V]  @param labels [B, T]; both as in `token_log_probability`
/// @returns [B], float or double
inline Tensor sequence_nll(const Tensor& logits, const Tensor& labels) {
  return detail::row_sums(token_log_probability(logits, labels)).neg();
}

}  // namespace alkn
