// One tensor of a step, as the methods hand it to the code that takes it.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/kernel/adamw.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/step.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

namespace alkn {

using at::Tensor;

namespace detail {

/// What a call does of a step.
enum class StepMode : std::uint8_t {
  run,      ///< all
  capture,  ///< puts its kernels into the CUDA graph that is being captured; nothing is counted
  prepare,  ///< all but the kernels, which the replay of that graph launches next
};

/// A borrowed or owned tensor, or none. Borrowed ones are not reference-counted: over thousands of
/// small tensors that takes a noticeable part of a step.
class TensorRef {
 public:
  TensorRef() = default;
  TensorRef(const Tensor& tensor) : other_(&tensor) {}      // NOLINT(google-explicit-constructor)
  TensorRef(Tensor&& tensor) : held_(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  operator const Tensor&() const { return **this; }         // NOLINT(google-explicit-constructor)
  const Tensor& operator*() const { return other_ != nullptr ? *other_ : held_; }
  const Tensor* operator->() const { return &**this; }
  [[nodiscard]] bool defined() const { return (**this).defined(); }

 private:
  const Tensor* other_ = nullptr;
  Tensor held_;
};

/// One parameter tensor of n elements in one step. All state tensors are contiguous and of the
/// parameter's shape but the masks: int64 words, ceil(n / 64), element i is bit i % 64 of word i
/// / 64.
struct StepSlot {
  TensorRef param;   ///< the user's parameter, any strides
  TensorRef master;  ///< fp32; undefined: the parameter itself is stepped
  TensorRef grad;    ///< of the parameter's dtype; undefined: the tensor is left alone in this step
  TensorRef grad_out;  ///< fp32 (double for double); Update::gradient: receives g'
  /// Update::adamw; fp32 (double for double), or bfloat16: the compact state, as is then `score`
  TensorRef exp_avg, exp_avg_sq;
  TensorRef retain;  ///< fp32, bfloat16 or double; MaskKind::localized
  TensorRef score;   ///< fp32 (double for double) or bfloat16; MaskKind::localized
  TensorRef used;    ///< words of M; undefined: empty
  TensorRef mask;    ///< words of this step's mask
  kernel::AdamWNumbers adamw;
  bool learns_threshold = false;
  double threshold = 0;
  // results
  std::int64_t num_trained = 0;
  double deviation = 0;

  /// Lets go of the tensors: they are somebody else's after the step.
  void drop_tensors() {
    param = master = grad = grad_out = exp_avg = exp_avg_sq = retain = score = used = mask = {};
  }
  [[nodiscard]] const Tensor& stepped() const { return master.defined() ? *master : *param; }
};

/// True for a tensor without a threshold: too few entries to localise anything, all are trained.
inline bool without_threshold(std::int64_t size) { return !kernel::has_threshold(size); }

/// True if the fused kernels have the dtype.
inline bool has_fused_dtype(const Tensor& param) {
  return param.scalar_type() == at::kFloat || param.scalar_type() == at::kBFloat16 ||
         param.scalar_type() == at::kHalf;
}

/// True if raw-pointer writes can serve this parameter.
inline bool fused_on_cpu(const Tensor& param) { return param.is_cpu() && has_fused_dtype(param); }
inline bool fused_on_cuda(const Tensor& param) { return param.is_cuda() && has_fused_dtype(param); }

/// True if the parameter is stepped through an fp32 master.
inline bool is_low_precision(const Tensor& param) {
  return param.scalar_type() == at::kBFloat16 || param.scalar_type() == at::kHalf;
}

/// The dtype of the state of a parameter: float, or double for double.
inline at::ScalarType state_dtype(const Tensor& param) {
  return param.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// The dtype of the moments and the score of a parameter.
inline at::ScalarType moment_dtype(const Tensor& param, bool compact) {
  const at::ScalarType type = state_dtype(param);
  return compact && type == at::kFloat ? at::kBFloat16 : type;
}

}  // namespace detail
}  // namespace alkn
