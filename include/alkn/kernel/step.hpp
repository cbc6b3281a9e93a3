// What one optimizer step reads and writes: raw pointers and plain numbers, no LibTorch.
//
// Every backend that is fed raw pointers (the CPU kernels, the CUDA kernels) takes one `StepTensor`
// a parameter tensor and one `StepArgs` a step, and returns one `StepResult`. C++17, host and
// device.
#pragma once

#include <cstdint>

#include <alkn/kernel/score_formula.hpp>

namespace alkn::kernel {

/// Element type of a parameter, of its gradient (always the parameter's) and of the retain
/// gradient.
enum class DType : std::uint8_t { float32, bfloat16, float16 };

/// Which entries the step may move.
enum class MaskKind : std::uint8_t {
  none,       ///< all
  given,      ///< those whose bit is set in `StepTensor::mask`, which the step only reads
  localized,  ///< those whose score exceeds the threshold; the step writes `StepTensor::mask`
};

/// What happens to an entry whose mask is off.
enum class Masked : std::uint8_t {
  gradient,  ///< its gradient is zero; momentum and decoupled weight decay still move it
  freeze,    ///< neither the entry nor its moments change
};

/// What the last pass does with the masked gradient g'.
enum class Update : std::uint8_t {
  adamw,     ///< an AdamW step
  gradient,  ///< g' is written to `StepTensor::grad_out`, for another optimizer to take the step
};

/// AdamW's numbers for one tensor and step, rounded to fp32 once: T is float, or a vector with the
/// same number in every lane. *_used: of entries in the union mask M, where modulation is by
/// parameter.
template <class T>
struct AdamWLanes {
  T decay = 1, decay_used = 1;          ///< float(1 - lr weight_decay)
  T step_size = 0, step_size_used = 0;  ///< float(lr / (1 - beta1^step))
  T beta1 = 0.9F, one_minus_beta1 = 0.1F;
  T beta2 = 0.999F, one_minus_beta2 = 0.001F;
  T bias2_sqrt = 1;  ///< float(sqrt(1 - beta2^step))
  T eps = 1e-8F;
};

/// One parameter tensor of `size` elements, contiguous. Masks are bit arrays: element i is bit i %
/// 64 of word i / 64, ceil(size / 64) words, unused bits zero.
struct StepTensor {
  std::int64_t size = 0;
  DType type = DType::float32;         ///< of param and grad
  DType retain_type = DType::float32;  ///< float32 or bfloat16
  /// Of exp_avg, exp_avg_sq and score: float32, or bfloat16 (the compact state), which the step
  /// rounds stochastically with the random numbers of `rounding_seed`, see kernel/math.hpp.
  DType state_type = DType::float32;
  std::uint64_t rounding_seed = 0;  ///< of tensor and step; bfloat16 state only
  void* param = nullptr;  ///< [size] type; fp32: stepped in place, else receives the rounded master
  float* master = nullptr;     ///< [size] fp32 masters of a low-precision parameter, else null
  const void* grad = nullptr;  ///< [size] type; read only
  float* grad_out =
      nullptr;              ///< [size] fp32, Update::gradient only; may be `grad` itself where fp32
  void* exp_avg = nullptr;  ///< [size] state_type, first moment, Update::adamw only
  void* exp_avg_sq = nullptr;    ///< [size] state_type, second moment, Update::adamw only
  const void* retain = nullptr;  ///< [size] retain_type, see ScoreKind; MaskKind::localized only
  void* score = nullptr;         ///< [size] state_type, m; MaskKind::localized only
  const std::uint64_t* used =
      nullptr;  ///< bits of M, the union of the masks of earlier tasks; null: empty
  std::uint64_t* mask = nullptr;  ///< bits: trained in this step
  AdamWLanes<float> adamw;

  // The threshold (MaskKind::localized). Where has_threshold(size) is false none is used, and every
  // entry is trained.
  bool learns_threshold =
      false;            ///< the step computes eta from the new m if StepArgs::threshold_due
  float threshold = 0;  ///< in: eta in force; out: the new eta if it was learned. Entry on: m > eta

  // Results
  std::int64_t num_trained = 0;  ///< out (localized): entries with m > eta
  float deviation = 0;           ///< out: mu of this step, zero where `used` is null
};

/// Where a step has a share of the model's tensors: makes the sum over all of them.
class SquareSum {
 public:
  /// @param chunks the sums of squares of the step's chunks, in their order
  /// @returns the sum over the chunks of all tensors of the model, added in their order
  virtual double of_all(const double* chunks, std::int64_t count) = 0;

 protected:
  SquareSum() = default;
  ~SquareSum() = default;
};

/// One step over all tensors.
struct StepArgs {
  MaskKind mask = MaskKind::none;
  ScoreFormula score;
  Masked masked = Masked::gradient;
  Update update = Update::adamw;
  double max_norm =
      0;  ///< clip by global norm: scale = min(1, max_norm / (norm + 1e-6)); 0: no clipping
  bool threshold_due = false;
  double unmask_ratio = 0.8;  ///< rho in force
  double trim_ratio = 0.15;   ///< k-th order statistics with k = max(5, floor(trim_ratio n))
  /// false: a step that neither clips nor takes deviations spares the read of all gradients for
  /// their norm; the result's norm is 0 then, and nothing is skipped.
  bool check_finite = true;
  SquareSum* all = nullptr;  ///< null: the tensors are the whole model
};

/// skipped: the gradient norm was not finite, and nothing was written.
struct StepResult {
  double grad_norm = 0;  ///< of all gradients, before clipping
  double clip_scale = 1;
  bool skipped = false;
};

}  // namespace alkn::kernel
