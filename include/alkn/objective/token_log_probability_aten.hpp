// Token log-probabilities and their gradient in plain ATen operations, a block of rows at a time:
// any device. No step waits for the device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <alkn/objective/label_rows.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace alkn::detail {

/// Rows to a block: the temporaries of one block stay in the cache of a CPU, and keep another
/// device busy.
inline std::int64_t rows_per_block(const Tensor& rows) {
  const std::int64_t elements = std::int64_t{1} << (rows.is_cpu() ? 16 : 24);
  return std::max<std::int64_t>(1, elements / rows.size(1));
}

/// The rows' labels as safe indices, and which of them count. A label outside the vocabulary is
/// bad.
struct RowLabels {
  Tensor index;    ///< [R, 1] int64 in [0, V)
  Tensor counted;  ///< [R, 1] bool
  Tensor bad;      ///< [R, 1] bool

  RowLabels(const Tensor& labels, std::int64_t vocabulary) {
    const Tensor column = labels.unsqueeze(1);
    index = column.clamp(0, vocabulary - 1);
    counted = detail::is_counted(column);
    bad = counted.logical_and(column.ne(index));
  }
  RowLabels narrow(std::int64_t start, std::int64_t length) const {
    RowLabels block = *this;
    block.index = index.narrow(0, start, length);
    block.counted = counted.narrow(0, start, length);
    block.bad = bad.narrow(0, start, length);
    return block;
  }
};

/// log p(label) of every position: 0 where the label is -100, NaN where it is outside the
/// vocabulary.
/// @param logits [B, T, V]  @param next [B, T] from next_labels  @param log_p [B, T] wide type,
/// written
/// @param stats [2, B, T] wide type, written: maximum x_max and log_sum of every row, log p[v] =
/// x[v] - x_max - log_sum. Two numbers, since their sum would lose the digits of log_sum where the
/// logits are large.
inline void aten_log_probability(const Tensor& logits, const Tensor& next, const Tensor& log_p,
                                 const Tensor& stats) {
  const std::int64_t num_rows = next.numel();
  const Tensor rows = logits.reshape({num_rows, logits.size(2)});
  const Tensor out = log_p.view({num_rows, 1}), lse = stats.view({2, num_rows, 1});
  const RowLabels all(next.view({num_rows}), rows.size(1));
  const std::int64_t block = rows_per_block(rows);
  for (std::int64_t start = 0; start < num_rows; start += block) {
    const std::int64_t n = std::min(block, num_rows - start);
    const RowLabels label = all.narrow(start, n);
    const Tensor x = rows.narrow(0, start, n).to(out.scalar_type());
    const Tensor max = x.amax(1, /*keepdim=*/true);
    const Tensor log_sum = x.sub(max).exp_().sum(1, /*keepdim=*/true).log_();
    const Tensor value = x.gather(1, label.index).sub_(max).sub_(log_sum);
    value.masked_fill_(label.bad, std::numeric_limits<double>::quiet_NaN());
    value.masked_fill_(label.counted.logical_not(), 0);
    out.narrow(0, start, n).copy_(value);
    lse.select(0, 0).narrow(0, start, n).copy_(max);
    lse.select(0, 1).narrow(0, start, n).copy_(log_sum);
  }
}

/// d/dx of the sum of grad_out log p: grad_out (onehot(label) - p), zero in rows whose label is
/// -100, NaN in those whose label is outside the vocabulary.
/// @param grad_out [B, T] wide type  @param grad [B, T, V] contiguous, the type of the logits,
/// written
inline void aten_gradient(const Tensor& logits, const Tensor& next, const Tensor& grad_out,
                          const Tensor& stats, const Tensor& grad) {
  const std::int64_t num_rows = next.numel();
  const Tensor rows = logits.reshape({num_rows, logits.size(2)}), to = grad.view(rows.sizes());
  const Tensor lse = stats.view({2, num_rows, 1}), g = grad_out.view({num_rows, 1});
  const RowLabels all(next.view({num_rows}), rows.size(1));
  const std::int64_t block = rows_per_block(rows);
  for (std::int64_t start = 0; start < num_rows; start += block) {
    const std::int64_t n = std::min(block, num_rows - start);
    const RowLabels label = all.narrow(start, n);
    const Tensor out = to.narrow(0, start, n);
    const bool narrow = out.scalar_type() != g.scalar_type();
    const Tensor y = narrow ? at::empty(out.sizes(), g.options()) : out;
    const Tensor scale =
        g.narrow(0, start, n).masked_fill(label.bad, std::numeric_limits<double>::quiet_NaN());
    y.copy_(rows.narrow(0, start, n)).sub_(lse.select(0, 0).narrow(0, start, n));
    y.sub_(lse.select(0, 1).narrow(0, start, n));
    const Tensor at_label = y.gather(1, label.index).expm1_().mul_(scale).neg_();  // g (1 - p)
    y.exp_().mul_(scale.neg()).scatter_(1, label.index, at_label);
    y.masked_fill_(label.counted.logical_not(), 0);
    if (narrow) out.copy_(y);
  }
}

}  // namespace alkn::detail
