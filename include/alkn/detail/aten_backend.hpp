// The step in plain ATen operations: any device, any floating-point dtype. What the fused kernels
// are tested against; it follows spec and paper line by line and spends memory freely.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <alkn/detail/backend.hpp>
#include <alkn/detail/bits.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace alkn::detail {

/// eta of one score tensor (section 4): linear between the k-th largest and the k-th smallest
/// score. Rounded to the dtype of the score; -infinity where size < 10.
inline double aten_threshold(const Tensor& score, double unmask_ratio, double trim_ratio) {
  const std::int64_t n = score.numel();
  if (without_threshold(n)) return -std::numeric_limits<double>::infinity();
  const Tensor flat = score.reshape({-1});
  double eta = 0;
  if (unmask_ratio >= 1) {
    eta = flat.min().item<double>() - 1;
  } else {
    const auto size = static_cast<double>(n);
    const std::int64_t k = std::max<std::int64_t>(5, static_cast<std::int64_t>(trim_ratio * size));
    const double high = std::get<0>(flat.topk(k)).select(0, k - 1).item<double>();
    const double low = std::get<0>(flat.topk(k, 0, false)).select(0, k - 1).item<double>();
    const auto trimmed = static_cast<double>(k);
    eta = high - (high - low) * ((unmask_ratio * size - trimmed + 1) / (size - 2 * trimmed + 2));
  }
  return score.scalar_type() == at::kDouble ? eta : static_cast<double>(static_cast<float>(eta));
}

/// The unbiased standard deviation over a tensor, 0 below two elements.
inline double aten_deviation(const Tensor& values) {
  return values.numel() > 1 ? values.to(at::kDouble).std().item<double>() : 0.0;
}

/// m += a d - mu k M, then the threshold and this step's mask (section 3). `grad` is clipped.
inline void aten_score(StepSlot& slot, const Tensor& grad, const kernel::StepArgs& args) {
  const Tensor retain = slot.retain.to(grad.scalar_type());
  const bool ratio = args.score == kernel::ScoreKind::ratio;
  const Tensor product = (ratio ? grad.abs() : grad).mul(retain);
  slot.score.add_(product, ratio ? 1.0 : static_cast<double>(args.alignment));
  if (slot.used.defined()) {
    slot.deviation =
        aten_deviation(args.penalty_scale == kernel::PenaltyScale::product ? product : grad);
    const Tensor used = unpack_bits(slot.used, slot.param.sizes()).to(slot.score.scalar_type());
    slot.score.sub_(used, slot.deviation * static_cast<double>(args.penalty));
  }
  if (args.threshold_due && slot.learns_threshold) {
    slot.threshold = aten_threshold(slot.score, args.unmask_ratio, args.trim_ratio);
  }
  const Tensor mask = without_threshold(slot.score.numel()) ? at::ones_like(slot.score, at::kBool)
                                                            : slot.score.gt(slot.threshold);
  slot.num_unmasked = mask.sum().item<std::int64_t>();
  slot.mask.copy_(pack_bits(mask));
}

/// AdamW with decoupled weight decay (section 6), fed with g'. `keep`: undefined, or the entries
/// that are trained.
inline void aten_adamw(StepSlot& slot, const Tensor& grad, const Tensor& keep, bool freeze) {
  const AdamWScalars& s = slot.adamw;
  const Tensor& live = slot.stepped();
  Tensor rate = at::full_like(slot.exp_avg, s.lr);
  if (s.lr_used != s.lr && slot.used.defined()) {
    rate.masked_fill_(unpack_bits(slot.used, slot.param.sizes()), s.lr_used);
  }
  const Tensor avg = slot.exp_avg.mul(s.beta1).add_(grad, 1 - s.beta1);
  const Tensor avg_sq = slot.exp_avg_sq.mul(s.beta2).addcmul_(grad, grad, 1 - s.beta2);
  const Tensor denominator = avg_sq.sqrt().div_(s.bias2_sqrt()).add_(s.eps);
  const Tensor moved = live.mul(rate.mul(-s.weight_decay).add_(1))
                           .sub_(rate.div(s.bias1()).mul_(avg).div_(denominator));
  const bool all = !freeze || !keep.defined();
  live.copy_(all ? moved : at::where(keep, moved, live));
  slot.exp_avg.copy_(all ? avg : at::where(keep, avg, slot.exp_avg));
  slot.exp_avg_sq.copy_(all ? avg_sq : at::where(keep, avg_sq, slot.exp_avg_sq));
  if (slot.master.defined()) slot.param.copy_(slot.master);
}

/// One whole step; see kernel::StepArgs. Synchronises with the device. Temporary memory: several
/// copies of the largest parameter.
inline kernel::StepResult aten_step(std::vector<StepSlot>& slots, const kernel::StepArgs& args) {
  kernel::StepResult result;
  double sum = 0;
  for (const StepSlot& slot : slots) {
    if (slot.grad.defined()) sum += slot.grad.to(at::kDouble).square().sum().item<double>();
  }
  result.grad_norm = std::sqrt(sum);
  if (args.check_finite && !std::isfinite(result.grad_norm)) {
    result.skipped = true;
    return result;
  }
  if (args.max_norm > 0) {
    result.clip_scale = std::min(1.0, args.max_norm / (result.grad_norm + 1e-6));
  }
  for (StepSlot& slot : slots) {
    if (!slot.grad.defined()) continue;
    Tensor grad = slot.grad.to(state_dtype(slot.param));
    if (result.clip_scale < 1) grad = grad.mul(result.clip_scale);
    Tensor keep;
    if (args.mask == kernel::MaskKind::localized) aten_score(slot, grad, args);
    if (args.mask != kernel::MaskKind::none) {
      keep = unpack_bits(slot.mask, slot.param.sizes());
      grad = at::where(keep, grad, at::zeros_like(grad));
    }
    if (args.update == kernel::Update::adamw) {
      aten_adamw(slot, grad, keep, args.masked == kernel::Masked::freeze);
    } else {
      slot.grad_out.copy_(grad);
    }
  }
  return result;
}

/// out = start - lambda (tuned - start), the negation of a task (section 7).
inline void aten_negate(const Tensor& out, const Tensor& tuned, const Tensor& start,
                        double lambda) {
  out.copy_(start.sub(tuned.sub(start), lambda));
}

}  // namespace alkn::detail
