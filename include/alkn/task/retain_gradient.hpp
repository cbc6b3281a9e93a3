// The retain gradient while it is summed and when it is finished. On the CPU nothing here takes
// memory once a tensor is being written, so that what fails can be tried again.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <alkn/kernel/cpu/history.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/tuning.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/parallel.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace alkn::detail {

/// Calls fn(element) for all elements, in parallel.
template <class Fn>
void for_elements(std::int64_t size, Fn fn) {
  kernel::detail::for_chunks(size, aten_parallel(), [&](std::int64_t begin, std::int64_t count) {
    for (std::int64_t i = begin; i < begin + count; ++i) fn(i);
  });
}

/// What add_gradient() adds without taking memory: `gradient`, or a copy.
inline Tensor addend(const Tensor& gradient) {
  return gradient.is_cpu() && !has_plain_values(gradient) ? plain_values(gradient) : gradient;
}

/// sum += gradient. @param sum [shape] fp32 or double, contiguous @param gradient an addend()
inline void add_gradient(const Tensor& sum, const Tensor& gradient) {
  if (!sum.is_cpu()) {
    sum.add_(gradient);
    return;
  }
  if (sum.scalar_type() == at::kDouble) {
    auto* to = static_cast<double*>(sum.mutable_data_ptr());
    const auto* from = static_cast<const double*>(gradient.const_data_ptr());
    for_elements(sum.numel(), [=](std::int64_t i) { to[i] += from[i]; });
    return;
  }
  auto* to = static_cast<float*>(sum.mutable_data_ptr());
  if (gradient.scalar_type() == at::kFloat) {
    const auto* from = static_cast<const float*>(gradient.const_data_ptr());
    for_elements(sum.numel(), [=](std::int64_t i) { to[i] += from[i]; });
    return;
  }
  const auto* from = static_cast<const std::uint16_t*>(gradient.const_data_ptr());
  if (gradient.scalar_type() == at::kBFloat16) {
    for_elements(sum.numel(), [=](std::int64_t i) { to[i] += kernel::bfloat16_to_float(from[i]); });
  } else {
    for_elements(sum.numel(), [=](std::int64_t i) { to[i] += kernel::half_to_float(from[i]); });
  }
}

/// From the sum over batches to their mean, and for the score `ratio` to
/// 1 / (|G_r| + mean|G_r| + 1e-30); the mean over the tensor is the same for any number of threads.
/// @param sum [size] fp32, in place; takes no memory @param parts as many as kernel::sum needs
inline void finish_on_cpu(const Tensor& sum, std::int64_t num_batches, bool ratio,
                          std::vector<double>& parts) {
  const std::int64_t size = sum.numel();
  auto* x = static_cast<float*>(sum.mutable_data_ptr());
  if (num_batches > 1) {
    const auto count = static_cast<float>(num_batches);
    for_elements(size, [=](std::int64_t i) { x[i] /= count; });
  }
  if (!ratio || size == 0) return;
  for_elements(size, [=](std::int64_t i) { x[i] = std::fabs(x[i]); });
  const double total = kernel::sum(x, size, aten_parallel(), parts.data());
  const auto mean = static_cast<float>(total / static_cast<double>(size));
  for_elements(size, [=](std::int64_t i) { x[i] = 1.0F / ((x[i] + mean) + 1e-30F); });
}

/// The same on any device, as a new tensor.
inline Tensor finished(const Tensor& sum, std::int64_t num_batches, bool ratio) {
  Tensor result = sum;
  if (num_batches >
      1)  // on the device: CUDA multiplies by the reciprocal of a number of the host's
    result = result.div(at::full({}, num_batches, result.options()));
  if (!ratio || result.numel() == 0) return result;
  const Tensor magnitude = result.abs();
  return magnitude.add(magnitude.mean()).add_(1e-30).reciprocal_();
}

}  // namespace alkn::detail
