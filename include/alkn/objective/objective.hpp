// What every objective shares: remembering by valid token, and spreading what was remembered.
//
// An objective is a struct with
//   kName, kRemembers, template <class Self> struct Options   (fluent options, see
//   option.hpp) remember(logits, labels) -> one 1-D CPU tensor a sample   (the model before
//   the task; empty unless kRemembers) loss(options, memory, logits, labels) -> scalar (memory: as
//   remembered, in the order of the batch)
// and is all that a new method needs.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <alkn/objective/label_rows.hpp>
#include <alkn/objective/losses.hpp>

#include <cstdint>
#include <string_view>
#include <vector>

namespace alkn::detail {

/// Cuts per-position values into one CPU tensor a sample, that holds the counted positions only:
/// padding leaves no trace. Waits for the device.
/// @param values [B, T - 1]  @param labels [B, T]  @returns B tensors [valid tokens of the sample]
inline std::vector<Tensor> counted_values(const Tensor& values, const Tensor& labels) {
  const Tensor host = values.detach().cpu();
  const Tensor counted = counted_positions(labels.cpu());
  std::vector<Tensor> samples;
  samples.reserve(static_cast<std::size_t>(host.size(0)));
  for (std::int64_t b = 0; b < host.size(0); ++b) {
    samples.push_back(host.select(0, b).masked_select(counted.select(0, b)));
  }
  return samples;
}

/// Throws unless `memory` holds one 1-D tensor a sample, and on the CPU unless sample b has
/// `expected(b)` values.
template <class Expected>
void check_memory(std::string_view owner, const std::vector<Tensor>& memory, const Tensor& labels,
                  Expected&& expected) {
  TORCH_CHECK_VALUE(static_cast<std::int64_t>(memory.size()) == labels.size(0), "alkn::", owner,
                    ": expected what was remembered of ", labels.size(0), " samples, got ",
                    memory.size(), " (memory)");
  for (std::int64_t b = 0; b < labels.size(0); ++b) {
    const std::int64_t have = memory[static_cast<std::size_t>(b)].numel();
    const std::int64_t want = expected(b);
    TORCH_CHECK_VALUE(want < 0 || have == want, "alkn::", owner, ": expected ", want,
                      " remembered values, got ", have, " (sample ", b, ")");
  }
}

/// The reverse of `counted_values`: per-sample values at the counted positions, 0 elsewhere. Does
/// not wait for the device.
/// @param samples B tensors, one value for every counted position  @returns [B, T - 1] on the
/// device of the labels
inline Tensor spread_over_counted(const std::vector<Tensor>& samples, const Tensor& labels,
                                  at::ScalarType type) {
  const Tensor counted = counted_positions(labels);
  const auto options = labels.options().dtype(type);
  const Tensor spread = at::zeros(counted.sizes(), options);
  if (samples.empty()) return spread;
  return spread.masked_scatter_(counted, at::cat(samples).to(options));
}

}  // namespace alkn::detail
