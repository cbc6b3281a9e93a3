// LibTorch's tensor operators and autograd without its list of all operators, which would double
// the time to compile: some headers include ATen/Functions.h unless this macro is there.
#pragma once

#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <string_view>

#if !defined(AT_PER_OPERATOR_HEADERS)
#define AT_PER_OPERATOR_HEADERS
#define ALKN_DEFINED_AT_PER_OPERATOR_HEADERS
#endif

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/autograd.h>

#if defined(ALKN_DEFINED_AT_PER_OPERATOR_HEADERS)
#undef ALKN_DEFINED_AT_PER_OPERATOR_HEADERS
#undef AT_PER_OPERATOR_HEADERS
#endif

namespace alkn::detail {

/// Second derivatives are not written: say so rather than return wrong ones.
inline void refuse_create_graph(std::string_view owner) {
  TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "alkn::", owner,
                              ": expected a backward pass without create_graph, got one with it "
                              "(second derivatives are not available)");
}

}  // namespace alkn::detail
