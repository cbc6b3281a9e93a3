// The step in plain ATen operations: any device, any floating-point dtype. What the fused kernels
// are tested against; it follows spec and paper line by line and spends memory freely.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <alkn/kernel/math.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/bits.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace alkn::detail {

/// The smaller of min - 1 and the next number below min, in the dtype of the score (fp32 of a
/// compact one), in which min - 1 may be min itself.
inline double lowest_threshold(const Tensor& score) {
  const double least = score.min().item<double>();
  if (score.scalar_type() == at::kDouble) {
    return std::min(least - 1, std::nextafter(least, -std::numeric_limits<double>::infinity()));
  }
  return static_cast<double>(kernel::below(static_cast<float>(least)));
}

/// Zeros for numbers below 2^-126, as the kernels compute (kernel/flush.hpp); double is as it was.
inline Tensor without_denormals(const Tensor& x) {
  if (x.scalar_type() != at::kFloat) return x;
  return x.masked_fill(x.abs().lt(static_cast<double>(std::numeric_limits<float>::min())), 0);
}

/// eta of one score tensor (section 4): linear between the k-th largest and the k-th smallest
/// score. Rounded to the dtype of the score; -infinity without_threshold.
inline double aten_threshold(const Tensor& score, double unmask_ratio, double trim_ratio) {
  const std::int64_t n = score.numel();
  if (without_threshold(n)) return -std::numeric_limits<double>::infinity();
  const Tensor flat = score.reshape({-1});
  double eta = 0;
  if (unmask_ratio >= 1) {
    eta = lowest_threshold(flat);
  } else {
    const auto size = static_cast<double>(n);
    const std::int64_t k = std::max<std::int64_t>(5, static_cast<std::int64_t>(trim_ratio * size));
    const double high = std::get<0>(flat.topk(k)).select(0, k - 1).item<double>();
    const double low = std::get<0>(flat.topk(k, 0, false)).select(0, k - 1).item<double>();
    const auto trimmed = static_cast<double>(k);
    eta = high - (high - low) * ((unmask_ratio * size - trimmed + 1) / (size - 2 * trimmed + 2));
  }
  return score.scalar_type() == at::kDouble ? eta : static_cast<double>(kernel::flushed_float(eta));
}

/// The unbiased standard deviation over a tensor, 0 below two elements.
inline double aten_deviation(const Tensor& values) {
  return values.numel() > 1 ? values.to(at::kDouble).std().item<double>() : 0.0;
}

/// The random numbers that round a compact state: those of the fused kernels, see kernel/math.hpp
/// and kernel/simd/formula.inl.
struct AtenRounding {
  std::uint64_t seed = 0;

  /// [shape] int64: 32 bits of every element.
  [[nodiscard]] Tensor bits(const Tensor& like) const {
    constexpr std::int64_t kLow = 0xFFFFFFFF;
    const std::int64_t n = like.numel();
    std::vector<Tensor> blocks;
    for (std::int64_t begin = 0; begin < n; begin += kernel::kRoundingBlock) {
      const kernel::RoundingKey key = kernel::rounding_key(seed, begin);
      const Tensor number =
          at::arange(std::min(kernel::kRoundingBlock, n - begin), like.options().dtype(at::kLong));
      Tensor x = number.mul(std::int64_t{kernel::kWeyl}).add_(std::int64_t{key.first});
      x = x.bitwise_and(kLow);
      x = x.bitwise_xor(x.bitwise_right_shift(16)).bitwise_xor(std::int64_t{key.second});
      x = x.mul(std::int64_t{0x7FEB352D}).bitwise_and(kLow);
      blocks.push_back(x.bitwise_xor(x.bitwise_right_shift(15)));
    }
    return n == 0 ? at::zeros(like.sizes(), like.options().dtype(at::kLong))
                  : at::cat(blocks).reshape(like.sizes());
  }
  /// Writes fp32 values into a moment or a score; rounds them where it is bfloat16, by 16 of the
  /// bits from `shift` on.
  void store(const Tensor& state, const Tensor& values, int shift) const {
    if (state.scalar_type() != at::kBFloat16) {
      state.copy_(values);
      return;
    }
    const Tensor random = bits(state).bitwise_right_shift(shift).bitwise_and(0xFFFF).to(at::kInt);
    const Tensor up = values.contiguous().view(at::kInt).add(random).bitwise_and(-0x10000);
    state.copy_(at::where(values.isnan(), values, up.view(at::kFloat)));
  }
};
inline constexpr int kExpAvgShift = 0, kScoreShift = 8, kExpAvgSqShift = 16;

/// What a moment or a score holds, in the precision of the step.
inline Tensor widened(const Tensor& state) {
  return state.scalar_type() == at::kBFloat16 ? state.to(at::kFloat) : state;
}

/// A number of the score's formula as the kernels take it.
inline double in_fp32(double x) { return static_cast<double>(static_cast<float>(x)); }

/// m += a d - mu k M, then the threshold and this step's mask (section 3). `grad` is clipped.
inline void aten_score(StepSlot& slot, const Tensor& grad, const kernel::StepArgs& args,
                       const AtenRounding& rounding) {
  const Tensor retain = without_denormals(slot.retain->to(grad.scalar_type()));
  const bool ratio = args.score.kind == kernel::ScoreKind::ratio;
  const Tensor product = without_denormals((ratio ? grad.abs() : grad).mul(retain));
  Tensor score = widened(slot.score).add(product, ratio ? 1.0 : in_fp32(args.score.alignment));
  if (slot.used.defined()) {
    slot.deviation =
        aten_deviation(args.score.penalty_scale == kernel::PenaltyScale::product ? product : grad);
    const Tensor used = unpack_bits(slot.used, slot.param->sizes()).to(score.scalar_type());
    score.sub_(used, slot.deviation * in_fp32(args.score.penalty));
  }
  score = without_denormals(score);
  rounding.store(slot.score, score, kScoreShift);
  score = widened(slot.score);
  if (args.threshold_due && slot.learns_threshold) {
    slot.threshold = aten_threshold(score, args.unmask_ratio, args.trim_ratio);
  }
  const Tensor mask =
      without_threshold(score.numel()) ? at::ones_like(score, at::kBool) : score.gt(slot.threshold);
  slot.num_trained = mask.sum().item<std::int64_t>();
  slot.mask->copy_(pack_bits(mask));
}

/// AdamW with decoupled weight decay (section 6), fed with g'. `keep`: undefined, or the entries
/// that are trained.
inline void aten_adamw(StepSlot& slot, const Tensor& grad, const Tensor& keep, bool freeze,
                       const AtenRounding& rounding) {
  const kernel::AdamWNumbers& s = slot.adamw;
  const Tensor& live = slot.stepped();
  const Tensor old_avg = widened(slot.exp_avg), old_avg_sq = widened(slot.exp_avg_sq);
  Tensor rate = at::full_like(old_avg, s.lr);
  if (s.lr_used != s.lr && slot.used.defined()) {
    rate.masked_fill_(unpack_bits(slot.used, slot.param->sizes()), s.lr_used);
  }
  const Tensor avg = without_denormals(old_avg.mul(s.beta1).add_(grad, 1 - s.beta1));
  const Tensor avg_sq =
      without_denormals(old_avg_sq.mul(s.beta2).addcmul_(grad, grad, 1 - s.beta2));
  const Tensor denominator = avg_sq.sqrt().div_(s.bias2_sqrt()).add_(s.eps);
  const Tensor moved =
      without_denormals(live.mul(rate.mul(-s.weight_decay).add_(1))
                            .sub_(rate.div(s.bias1()).mul_(avg).div_(denominator)));
  const bool all = !freeze || !keep.defined();
  live.copy_(all ? moved : at::where(keep, moved, live));
  rounding.store(slot.exp_avg, all ? avg : at::where(keep, avg, old_avg), kExpAvgShift);
  rounding.store(slot.exp_avg_sq, all ? avg_sq : at::where(keep, avg_sq, old_avg_sq),
                 kExpAvgSqShift);
  if (slot.master.defined()) slot.param->copy_(slot.master);
}

/// The norm of all gradients as a product, since squares of finite doubles may be infinite.
struct GradientNorm {
  double largest = 1;  ///< 1 where the squares are finite
  double rest = 0;
  bool finite = true;  ///< every entry is

  [[nodiscard]] double value() const { return largest * rest; }
  [[nodiscard]] double clip_scale(double max_norm) const {
    return largest == 1 ? max_norm / (rest + 1e-6) : max_norm / largest / rest;
  }
};

inline GradientNorm gradient_norm(const std::vector<StepSlot>& slots) {
  GradientNorm norm;
  const auto sum_of_squares = [&] {
    double sum = 0;
    for (const StepSlot& slot : slots) {
      if (!slot.grad.defined()) continue;
      const Tensor values = slot.grad->to(at::kDouble);
      const Tensor scaled = norm.largest == 1 ? values : values.div(norm.largest);
      sum += scaled.square().sum().item<double>();
    }
    return sum;
  };
  norm.rest = std::sqrt(sum_of_squares());
  if (std::isfinite(norm.rest)) return norm;
  double largest = 0;
  for (const StepSlot& slot : slots) {
    if (!slot.grad.defined() || slot.grad->numel() == 0) continue;
    const double most = slot.grad->abs().max().item<double>();  // NaN if there is one
    if (!std::isfinite(most)) norm.finite = false;
    largest = std::max(largest, most);
  }
  if (!norm.finite) return norm;
  norm.largest = largest;
  norm.rest = std::sqrt(sum_of_squares());
  return norm;
}

/// One whole step; see kernel::StepArgs. Synchronises with the device. Temporary memory: several
/// copies of the largest parameter.
/// @param written set before the first write
inline kernel::StepResult aten_step(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                                    bool& written) {
  kernel::StepResult result;
  const GradientNorm norm = gradient_norm(slots);
  result.grad_norm = norm.value();
  if (args.check_finite && !norm.finite) {
    result.skipped = true;
    return result;
  }
  if (args.max_norm > 0) result.clip_scale = std::min(1.0, norm.clip_scale(args.max_norm));
  written = true;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    StepSlot& slot = slots[i];
    if (!slot.grad.defined()) continue;
    const AtenRounding rounding{
        kernel::rounding_seed(static_cast<std::int64_t>(i), slot.adamw.step)};
    Tensor grad = slot.grad->to(state_dtype(slot.param));
    if (result.clip_scale < 1) grad = grad.mul(result.clip_scale);
    grad = without_denormals(grad);
    Tensor keep;
    if (args.mask == kernel::MaskKind::localized) aten_score(slot, grad, args, rounding);
    if (args.mask != kernel::MaskKind::none) {
      keep = unpack_bits(slot.mask, slot.param->sizes());
      grad = at::where(keep, grad, at::zeros_like(grad));
    }
    if (args.update == kernel::Update::adamw) {
      aten_adamw(slot, grad, keep, args.masked == kernel::Masked::freeze, rounding);
    } else {
      slot.grad_out->copy_(grad);
    }
  }
  return result;
}

/// out = start - lambda (tuned - start), the negation of a task (section 7); in place.
inline void aten_negate(const Tensor& out, const Tensor& tuned, const Tensor& start,
                        double lambda) {
  Tensor result = out;
  if (!out.is_same(tuned)) result.copy_(tuned);
  result.sub_(start);
  at::sub_out(result, start, result, lambda);
}

}  // namespace alkn::detail
