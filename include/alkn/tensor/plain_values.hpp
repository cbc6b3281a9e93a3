// Tensors as raw pointers see them. LibTorch has views whose memory is not their values: those with
// a lazy minus (at::_neg_view, the imaginary part of a conjugate), and zeros without memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

namespace alkn::detail {

/// Whether data_ptr() leads to the values, one after the other.
inline bool has_plain_values(const at::Tensor& t) {
  return t.is_contiguous() && !t.is_neg() && !t._is_zerotensor();
}

/// `t` itself, or a copy for which has_plain_values().
inline at::Tensor plain_values(const at::Tensor& t) {
  if (t._is_zerotensor()) return at::zeros(t.sizes(), t.options().requires_grad(false));
  return t.resolve_neg().contiguous();  // no complex types: nothing is lazily conjugated
}

}  // namespace alkn::detail
