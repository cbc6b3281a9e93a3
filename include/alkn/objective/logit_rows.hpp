// Logits as rows: one for every position, or those of the positions alone whose label counts.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <alkn/objective/label_rows.hpp>
#include <alkn/tensor/autograd.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace alkn {

/// Where the logits matter: the places b T + t, in ascending order, of the positions whose next
/// label counts, labels[b, t + 1] other than -100. A model that computes its head at these
/// alone,
///     logits = head(hidden.flatten(0, 1).index_select(0, answer_rows(labels)))   // [N, V]
/// may hand them with the same labels to everything that takes logits [B, T, V].
/// @param labels [B, T] int64, T >= 1  @returns [N] int64 on the device of the labels
/// @throws as `valid_tokens`. Waits for the device of the labels: cheapest while they are on the
/// host.
inline Tensor answer_rows(const Tensor& labels) {
  detail::check_labels("answer_rows", labels);
  return detail::is_counted(detail::next_labels(labels)).flatten().nonzero().squeeze(1);
}

namespace detail {

/// [B, T, V] as it is, [N, V] as [1, N, V].
inline Tensor as_rows(const Tensor& logits) {
  return logits.dim() == 2 ? logits.unsqueeze(0) : logits;
}

/// The rows of a batch's logits with the label of each, and the way between them and the [B, T]
/// positions. Nothing here waits for a device.
struct LogitRows {
  Tensor logits;  ///< [B, T, V]; of answer rows [1, N, V]
  Tensor next;    ///< [B, T]; of answer rows [1, N], -100 where there are more than labels
  Tensor place;   ///< [B, T] int64, of answer rows only: a position's row, N where it has none
  Tensor misfit;  ///< 0-dim bool, of answer rows only: as many rows as labels that count, or not

  /// @param given [B, T, V] or [N, V]  @param labels [B, T], both checked
  LogitRows(const Tensor& given, const Tensor& labels) : LogitRows(given) {
    const Tensor of_position = next_labels(labels);
    if (!gathered()) {
      next = of_position;
      return;
    }
    const std::int64_t n = given.size(0);
    const Tensor counts = is_counted(of_position).flatten();
    const Tensor before = counts.cumsum(0);  // counts the position itself
    const Tensor flat = before.sub(1).masked_fill_(counts.logical_not(), n).clamp_max_(n);
    const Tensor of_row = at::full({n + 1}, kIgnoredLabel, labels.options());
    next = of_row.scatter_(0, flat, of_position.flatten()).narrow(0, 0, n).unsqueeze(0);
    place = flat.view(of_position.sizes());
    misfit = counts.sum().ne(n);
  }
  /// What a backward pass has saved of another.
  LogitRows(const Tensor& given, Tensor saved_next, Tensor saved_place, Tensor saved_misfit)
      : LogitRows(given) {
    next = std::move(saved_next);
    place = std::move(saved_place);
    misfit = std::move(saved_misfit);
  }

  [[nodiscard]] bool gathered() const { return gathered_; }

  /// One value for every row, as one for every position before the last: 0 where it has no row.
  /// @param values [B, T] or [1, N]  @returns [B, T - 1]
  [[nodiscard]] Tensor to_positions(const Tensor& values) const {
    const Tensor all = gathered() ? spread(values) : values;
    return all.narrow(1, 0, all.size(1) - 1).contiguous();
  }

  /// The reverse. @param values [B, T - 1]  @returns [B, T] or [1, N]
  [[nodiscard]] Tensor to_rows(const Tensor& values) const {
    const Tensor last = at::zeros({values.size(0), 1}, values.options());
    const Tensor all = at::cat({values, last}, 1);
    if (!gathered()) return all;
    const std::int64_t n = next.size(1);
    const Tensor rows =
        at::zeros({n + 1}, values.options()).scatter_(0, place.flatten(), all.flatten());
    return nan_if_misfit(rows.narrow(0, 0, n).unsqueeze(0)).contiguous();
  }

  /// Where row r stands, for error texts. CPU only.
  [[nodiscard]] std::string where(std::int64_t r) const {
    const std::int64_t num_positions = gathered() ? place.size(1) : next.size(1);
    std::int64_t at = r;
    if (gathered()) at = place.flatten().eq(r).nonzero()[0][0].item<std::int64_t>();
    return c10::str("sample ", at / num_positions, ", position ", at % num_positions);
  }

 private:
  explicit LogitRows(const Tensor& given) : logits(as_rows(given)), gathered_(given.dim() == 2) {}

  [[nodiscard]] Tensor spread(const Tensor& rows) const {
    const Tensor padded = at::cat({rows.flatten(), at::zeros({1}, rows.options())});
    return nan_if_misfit(padded.index_select(0, place.flatten()).view(place.sizes()));
  }
  /// On the CPU a wrong number of rows is an error; elsewhere the check would wait for the device.
  [[nodiscard]] Tensor nan_if_misfit(const Tensor& values) const {
    return values.masked_fill(misfit, std::numeric_limits<double>::quiet_NaN());
  }

  bool gathered_;
};

}  // namespace detail
}  // namespace alkn
