// log p(label) of every token; every objective goes through it.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/compiled.hpp>

namespace alkn {

using at::Tensor;

/// The log-probability of every label under the logits of the position before it:
/// out[b, t] = log softmax(logits[b, t])[labels[b, t + 1]], exactly 0 where labels[b, t + 1] is
/// -100.
/// @param logits [B, T, V] float, double, bfloat16 or half, any device; never written to. Or the
/// rows of `answer_rows(labels)` alone, [N, V]: the same result to the bit.
/// @param labels [B, T] int64 on the same device, in [0, V) or -100; labels[:, 0] predict nothing
/// @returns [B, T - 1] float (double for double logits); differentiable once by the logits
/// @throws c10::ValueError or c10::TypeError on a wrong shape, type or device; on the CPU also on a
/// label outside the vocabulary, on a row whose log-sum-exp is not finite (a NaN) and on another
/// number of rows than labels that count. Elsewhere a check would wait for the device: such a row
/// is NaN, and so is its gradient; with a wrong number of rows all are. Same bits for any number of
/// threads. Saves the logits and two numbers a row; the backward pass builds one tensor of their
/// size, the gradient. Rows without a label are not read, and their gradient is zero. On CUDA in a
/// program that links alkn::cuda: one read of the logits forward, one read and one write backward;
/// double logits, and programs without it, take ATen operations.
Tensor token_log_probability(const Tensor& logits, const Tensor& labels);

}  // namespace alkn

#if ALKN_DEFINITIONS
#include <alkn/objective/token_log_probability_definitions.hpp>
#endif
