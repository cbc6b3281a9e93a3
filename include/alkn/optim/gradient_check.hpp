// What a step asks of a gradient.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <string>
#include <string_view>

namespace alkn::detail {

/// dtype, shape and device, in words.
inline std::string describe(const at::Tensor& t) {
  return c10::str(t.scalar_type(), " ", t.sizes(), " on ", t.device());
}

/// Throws unless the gradient of `param` is undefined, or dense and like the parameter.
/// @param where () -> the place of the parameter, for the error's text
template <class Where>
void check_gradient(std::string_view owner, const at::Tensor& param, const Where& where) {
  const at::Tensor& grad = param.grad();
  if (!grad.defined()) return;
  TORCH_CHECK_VALUE(grad.layout() == at::kStrided, "alkn::", owner,
                    ": expected a dense gradient, got layout ", grad.layout(), " (", where(), ")");
  TORCH_CHECK_VALUE(grad.sizes() == param.sizes() && grad.scalar_type() == param.scalar_type() &&
                        grad.device() == param.device(),
                    "alkn::", owner, ": expected a gradient of ", describe(param), ", got ",
                    describe(grad), " (", where(), ")");
}

}  // namespace alkn::detail
