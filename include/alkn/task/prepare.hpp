// What comes before the first step of a task: the retain gradient, scores and masks, the ranking of
// tensors for the modulation.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <alkn/kernel/cpu/history.hpp>
#include <alkn/task/core.hpp>
#include <alkn/task/retain_gradient.hpp>
#include <alkn/tensor/autograd.hpp>
#include <alkn/tensor/bits.hpp>

#include <algorithm>
#include <utility>
#include <vector>

namespace alkn::detail {

/// Adds the gradient of one batch's retain loss to the running sum of G_r. The parameters' own
/// gradients are not touched.
ALKN_COMPILED_INLINE void UnlearnerCore::accumulate_retain_gradient(const Tensor& loss) {
  const c10::InferenceMode normal_tensors(false);
  std::vector<Tensor> gradients(parameters_.size()), sums(parameters_.size());
  const auto prepare = [&] {
    check_parameters(false);
    const bool idle = shards_.active() && !loss.defined();  // of a process without data
    TORCH_CHECK_VALUE(idle || (loss.defined() && loss.numel() == 1 && loss.requires_grad()),
                      "alkn::", settings_.owner,
                      ": expected a scalar retain loss that depends on the parameters, got ",
                      loss.defined() ? c10::str("a tensor of ", loss.sizes(),
                                                loss.requires_grad() ? "" : " without a graph")
                                     : std::string("an undefined tensor"));
    if (!idle) retain_gradients(loss, gradients);
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const ParameterState& p = parameters_[i];
      if (!shards_.owns(i)) continue;
      const at::ScalarType type = state_dtype(p.param);
      const auto options = p.param.options().dtype(type).requires_grad(false);
      // where G_r stays as it is summed, among the task's arrays: no step has to copy it
      sums[i] = p.retain.defined()        ? p.retain
                : retain_dtype(p) == type ? arrays_.zeros(p.shape, options)
                                          : at::zeros(p.shape, options);
    }
  };
  together(Call::accumulate_retain_gradient, 0, prepare, [&] {
    const at::NoGradGuard no_grad;
    // on the CPU nothing below throws, without a group
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].retain = sums[i];
    if (shards_.active()) {
      add_average(gradients);
    } else {
      for (std::size_t i = 0; i < parameters_.size(); ++i) {
        if (gradients[i].defined()) add_gradient(parameters_[i].retain, gradients[i]);
      }
    }
    task_->num_retain_batches += 1;
  });
}

/// The gradients of a retain loss by parameter, undefined where it has none.
ALKN_COMPILED_INLINE void UnlearnerCore::retain_gradients(const Tensor& loss,
                                                          std::vector<Tensor>& gradients) {
  std::vector<Tensor> inputs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i].param.requires_grad()) continue;
    inputs.push_back(parameters_[i].param);
    places.push_back(i);
  }
  if (inputs.empty()) return;
  const at::AutoGradMode with_graph(true);
  const auto found =
      torch::autograd::grad({loss.reshape({})}, inputs, {}, std::nullopt, false, true);
  const at::NoGradGuard no_grad;
  for (std::size_t k = 0; k < found.size(); ++k) {
    if (found[k].defined()) gradients[places[k]] = addend(found[k]);
  }
}

/// Adds the mean over the processes to the G_r that is here.
ALKN_COMPILED_INLINE void UnlearnerCore::add_average(const std::vector<Tensor>& gradients) {
  std::vector<char> defined;
  defined.reserve(gradients.size());
  for (const Tensor& gradient : gradients) defined.push_back(gradient.defined() ? 1 : 0);
  shards_.average(gradients, shards_.any(std::move(defined)),
                  [&](std::size_t i, std::int64_t begin, const Tensor& mean) {
                    const ParameterState& p = parameters_[i];
                    const Tensor sum = p.retain.view({-1}).narrow(0, begin, mean.numel());
                    add_gradient(sum, mean.to(p.dtype));  // as autograd would have it
                  });
}

/// Whether no entry is infinite or NaN. Fused on the CPU: the sum of squares of floats is finite in
/// double.
inline bool all_finite(const Tensor& t) {
  if (!t.is_cpu() || t.scalar_type() != at::kFloat || !t.is_contiguous())
    return t.isfinite().all().item<bool>();
  return kernel::all_finite(t.const_data_ptr<float>(), t.numel(), aten_parallel());
}

/// Throws, before the first step, unless a mask that needs a retain gradient has one.
ALKN_COMPILED_INLINE void UnlearnerCore::check_retain_gradient() {
  if (settings_.mask != kernel::MaskKind::localized) return;
  TORCH_CHECK(
      task_->num_retain_batches > 0, "alkn::", settings_.owner,
      ": expected accumulate_retain_gradient before the first step, got no retain gradient");
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    TORCH_CHECK_VALUE(!shards_.owns(i) || all_finite(p.retain), "alkn::", settings_.owner,
                      ": expected a finite retain gradient, got one with NaN or infinity (",
                      place(p), ")");
  }
}

/// Before the first step: finishes G_r, creates score and mask, ranks tensors for the modulation.
ALKN_COMPILED_INLINE void UnlearnerCore::start_training() {
  TaskState& task = *task_;
  const bool localized = settings_.mask == kernel::MaskKind::localized;
  base_.runner().reset();
  if (localized) {
    std::vector<Tensor> kept, scores, masks;
    std::int64_t most = 0;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {  // all memory, before anything changes
      const ParameterState& p = parameters_[i];
      if (!shards_.owns(i)) {
        for (std::vector<Tensor>* arrays : {&kept, &scores, &masks}) arrays->emplace_back();
        continue;
      }
      const auto options = p.param.options().requires_grad(false);
      const at::ScalarType type = retain_dtype(p);
      kept.push_back(type == p.retain.scalar_type() ? p.retain
                                                    : arrays_.zeros(p.shape, options.dtype(type)));
      scores.push_back(arrays_.zeros(p.shape, options.dtype(score_dtype(p))));
      masks.push_back(arrays_.zeros({num_mask_words(p.param.numel())}, options.dtype(at::kLong)));
      most = std::max(most, p.param.numel());
    }
    std::vector<double> sums(static_cast<std::size_t>(kernel::sum_parts(most)));
    rank_by_use();
    task.training = true;  // G_r is no sum any more
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (shards_.owns(i)) finish_retain_gradient(parameters_[i], kept[i], sums);
    }
    for (std::size_t i = 0; i < kept.size(); ++i) {
      ParameterState& p = parameters_[i];
      p.score = std::move(scores[i]);
      p.mask = std::move(masks[i]);
      p.eta = p.threshold;
    }
  }
  task.training = task.prepared = true;
}

/// In place; where it is kept in fewer bits, then into `kept`. What has been finished when another
/// parameter found no memory stays so.
ALKN_COMPILED_INLINE void UnlearnerCore::finish_retain_gradient(ParameterState& p,
                                                                const Tensor& kept,
                                                                std::vector<double>& sums) const {
  const std::int64_t batches = task_->num_retain_batches;
  const bool ratio = settings_.localized.score.kind == kernel::ScoreKind::ratio;
  const bool same = kept.is_same(p.retain);
  if (!p.retain_finished) {
    if (p.retain.is_cpu() && p.retain.scalar_type() == at::kFloat)
      finish_on_cpu(p.retain, batches, ratio, sums);
    else
      p.retain = finished(p.retain, batches, ratio);
    p.retain_finished = true;
  }
  if (!same) p.retain = kept.copy_(p.retain);
}

/// How G_r is kept.
ALKN_COMPILED_INLINE at::ScalarType UnlearnerCore::retain_dtype(const ParameterState& p) const {
  const RetainPrecision kept = settings_.localized.retain_precision;
  const bool bfloat16 = kept == RetainPrecision::bfloat16 ||
                        (kept == RetainPrecision::automatic && p.dtype == at::kBFloat16);
  return bfloat16 ? at::kBFloat16 : state_dtype(p.param);
}

/// Modulation by tensor (section 5): ranked by share of entries in M, ties in parameter order; the
/// lower half keeps its learning rate. Frozen tensors have no place among them.
ALKN_COMPILED_INLINE void UnlearnerCore::rank_by_use() {
  if (settings_.localized.modulation != Modulation::tensor || num_tasks_ == 0) return;
  std::vector<double> share(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (shards_.owns(i)) share[i] = static_cast<double>(count_bits(parameters_[i].used));
  }
  share_counts(share);
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    share[i] /= static_cast<double>(std::max<std::int64_t>(1, parameters_[i].param.numel()));
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].param.requires_grad()) order.push_back(i);
  }
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return share[i]; });
  for (std::size_t rank = 0; rank < order.size(); ++rank) {  // the same at a second try
    parameters_[order[rank]].slow = rank >= order.size() / 2;
  }
}

}  // namespace alkn::detail
