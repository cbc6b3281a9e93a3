// A batch in parts: the gradient of the whole, the activations of a part.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/objective/losses.hpp>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "continual/batch.hpp"
#include "continual/team.hpp"

namespace continual {

/// What a loss is a mean over.
enum class MeanOver { tokens, sequences };

/// Some samples of a batch, and how much their mean weighs in the mean of all.
struct Part {
  Batch batch;
  double share = 1;
};

/// Tokens of a batch that count, or samples that have any.
inline std::int64_t num_counted(const Batch& batch, MeanOver mean) {
  const at::Tensor tokens = alkn::valid_tokens(batch.labels);
  return (mean == MeanOver::tokens ? tokens.sum() : tokens.gt(0).sum()).item<std::int64_t>();
}

namespace detail {

/// Columns up to the last one that counts in any row: nothing after it has an effect.
inline std::int64_t needed_columns(const at::Tensor& labels) {
  const at::Tensor columns = labels.ne(kNotCounted).any(0).nonzero();
  return columns.size(0) == 0 ? 1 : columns[-1].item<std::int64_t>() + 1;
}

}  // namespace detail

/// The batch in parts of at most `size` samples (0: whole), each without the padding that it alone
/// does not need. Weighed by their shares, the means over the parts add up to the mean over all.
inline std::vector<Part> parts_of(const Batch& batch, std::int64_t size, MeanOver mean) {
  const std::int64_t rows = batch.ids.size(0);
  if (size <= 0 || size >= rows) return {{batch, 1}};
  const auto total = static_cast<double>(std::max<std::int64_t>(num_counted(batch, mean), 1));
  std::vector<Part> parts;
  for (std::int64_t begin = 0; begin < rows; begin += size) {
    const std::int64_t count = std::min(size, rows - begin);
    const at::Tensor labels = batch.labels.narrow(0, begin, count);
    const std::int64_t columns = detail::needed_columns(labels);
    const Batch part{batch.ids.narrow(0, begin, count).contiguous(),
                     batch.tokens.narrow(0, begin, count).narrow(1, 0, columns).contiguous(),
                     labels.narrow(1, 0, columns).contiguous()};
    parts.push_back({part, static_cast<double>(num_counted(part, mean)) / total});
  }
  return parts;
}

/// Adds the gradient of a batch's mean loss, part by part. `loss` gives the mean of a part.
/// Returns the mean of the batch.
template <class Loss>
double backward_in_parts(const Batch& batch, std::int64_t size, MeanOver mean, Loss&& loss) {
  double sum = 0;
  for (const Part& part : parts_of(batch, size, mean)) {
    const at::Tensor value = loss(part.batch);
    sum += part.share * value.template item<double>();
    (part.share == 1 ? value : value.mul(part.share)).backward();
  }
  return sum;
}

/// The same of a batch that lies on several processes; collective.
/// @param batch this process's part; null: none. Returns the mean of the whole batch.
template <class Loss>
double backward_together(const Team& team, const Batch* batch, std::int64_t size, MeanOver mean,
                         Loss&& loss) {
  if (team.size() == 1) return backward_in_parts(*batch, size, mean, loss);
  const double share = team.share(batch ? num_counted(*batch, mean) : 0);
  double mine = 0;
  if (batch) {
    mine = backward_in_parts(*batch, size, mean,
                             [&](const Batch& part) { return loss(part).mul(share); });
  }
  return team.sum(mine) / team.size();
}

}  // namespace continual
