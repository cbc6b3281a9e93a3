// LibTorch's tensor operators and custom autograd functions without its list of all operators,
// which would double the time to compile: some of their headers include ATen/Functions.h unless
// this macro is there.
#pragma once

#if !defined(AT_PER_OPERATOR_HEADERS)
#define AT_PER_OPERATOR_HEADERS
#define ALKN_DEFINED_AT_PER_OPERATOR_HEADERS
#endif

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#if defined(ALKN_DEFINED_AT_PER_OPERATOR_HEADERS)
#undef ALKN_DEFINED_AT_PER_OPERATOR_HEADERS
#undef AT_PER_OPERATOR_HEADERS
#endif
