// The retain term KL(p_ref, p): stay close to what the model said before.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/compiled.hpp>

namespace alkn {

using at::Tensor;

/// KL(p_ref, p), summed over the vocabulary and averaged over the positions whose label counts; 0
/// with a zero gradient where there are none. Padding does not count.
/// @param logits [B, T, V] or [N, V], @param labels [B, T]; both as in `token_log_probability`
/// @param reference_logits of the same shape, type and device, of the model before; not
/// differentiated
/// @returns a scalar, float or double; differentiable once by `logits`
/// @throws as `token_log_probability`, also for the reference logits
/// Saves both logits and four numbers a row; the backward pass builds one tensor of their size, the
/// gradient.
Tensor retain_kl(const Tensor& logits, const Tensor& reference_logits, const Tensor& labels);

}  // namespace alkn

#if ALKN_DEFINITIONS
#include <alkn/objective/retain_kl_definitions.hpp>
#endif
