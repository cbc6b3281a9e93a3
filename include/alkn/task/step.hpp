// The step of UnlearnerCore: check, gather, run the backend, let a foreign base follow. Included by
// task/core.hpp.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/where.h>
#include <c10/core/InferenceMode.h>
#include <alkn/task/core.hpp>
#include <alkn/task/retain_gradient.hpp>

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace alkn::detail {

inline UnlearnerCore::UnlearnerCore(BaseAdapter& base, MethodSettings settings,
                                    const std::vector<NamedParameter>& params)
    : base_(base), settings_(std::move(settings)) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  TORCH_CHECK_VALUE(settings_.masked == Masked::gradient || base_.fused(),
                    "alkn::", settings_.owner,
                    ": expected alkn::AdamW as Base for Masked::freeze, got another optimizer");
  match_parameters(params);
  take_given_masks();
  for (const ParameterState& p : parameters_) {
    resolve_backend(settings_.backend, p.param, settings_.owner, p.name);
  }
  if (base_.fused()) return;
  OptimizerState state = fresh_state();  // of masters, and of normal tensors
  base_.optimizer().state().swap(state);
}

inline OptimizerState UnlearnerCore::fresh_state() {
  if (base_.fused()) return {};
  const SwapMasters swap(&base_.optimizer(), base_.masters(), {});
  return base_.fresh_state();
}

inline std::string place(const ParameterState& p) {
  return fmt::format("group {}, parameter \"{}\"", p.group, p.name);
}

inline std::string describe(const Tensor& t) {
  return c10::str(t.scalar_type(), " ", t.sizes(), " on ", t.device());
}

/// Names every parameter of param_groups by its TensorImpl.
inline void UnlearnerCore::match_parameters(const std::vector<NamedParameter>& named) {
  std::unordered_map<const void*, std::string> names;
  for (const NamedParameter& p : named) names.emplace(p.tensor.unsafeGetTensorImpl(), p.name);
  for (const ParameterState& p : parameters_) names.emplace(p.param.unsafeGetTensorImpl(), p.name);
  std::vector<ParameterState> matched;
  const auto& groups = base_.optimizer().param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const Tensor& param : groups[g].params()) {
      ParameterState state;
      state.name = names.at(param.unsafeGetTensorImpl());
      state.param = param;
      state.group = g;
      state.shape = at::DimVector(param.sizes());
      state.dtype = param.scalar_type();
      state.device = param.device();
      matched.push_back(std::move(state));
    }
  }
  parameters_ = std::move(matched);
}

inline void UnlearnerCore::take_given_masks() {
  if (settings_.mask != kernel::MaskKind::given) return;
  std::unordered_map<std::string, Tensor> masks;
  for (const NamedParameter& m : settings_.given) masks.emplace(m.name, m.tensor);
  for (ParameterState& p : parameters_) {
    const auto found = masks.find(p.name);
    const Tensor mask =
        found == masks.end()
            ? at::ones(p.shape, p.param.options().dtype(at::kBool).requires_grad(false))
            : found->second;
    TORCH_CHECK_VALUE(
        mask.defined() && mask.scalar_type() == at::kBool && mask.sizes() == p.param.sizes(),
        "alkn::", settings_.owner, ": expected a mask of Bool ", p.param.sizes(), ", got ",
        mask.defined() ? c10::str(mask.scalar_type(), " ", mask.sizes())
                       : std::string("an undefined tensor"),
        " (", place(p), ")");
    p.given = pack_bits(mask.to(p.device));
    p.num_given = count_bits(p.given);
    masks.erase(p.name);
  }
  TORCH_CHECK_VALUE(masks.empty(), "alkn::", settings_.owner,
                    ": expected masks of parameters only, got one of an unknown parameter \"",
                    masks.begin()->first, "\"");
}

/// Throws unless param_groups hold the parameters that were named, unchanged in shape, dtype and
/// device.
inline void UnlearnerCore::check_parameters(bool gradients) {
  const auto& groups = base_.optimizer().param_groups();
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t k = 0; k < groups[g].params().size(); ++k, ++i) {
      const Tensor& param = groups[g].params()[k];
      TORCH_CHECK_VALUE(i < parameters_.size() && param.is_same(parameters_[i].param),
                        "alkn::", settings_.owner,
                        ": expected the parameters that were named, got one without a name; use "
                        "add_named_parameters (group ",
                        g, ", position ", k, ")");
      const ParameterState& p = parameters_[i];
      TORCH_CHECK_VALUE(param.sizes() == at::IntArrayRef(p.shape) &&
                            param.scalar_type() == p.dtype && param.device() == p.device,
                        "alkn::", settings_.owner, ": expected ", p.dtype, " ",
                        at::IntArrayRef(p.shape), " on ", p.device, " as at construction, got ",
                        describe(param), " (", place(p), ")");
      if (!is_steppable(param)) check_parameter(settings_.owner, {p.name, param});
      if (!gradients || !param.grad().defined()) continue;
      const Tensor& grad = param.grad();
      TORCH_CHECK_VALUE(grad.layout() == at::kStrided, "alkn::", settings_.owner,
                        ": expected a dense gradient, got layout ", grad.layout(), " (", place(p),
                        ")");
      TORCH_CHECK_VALUE(grad.sizes() == param.sizes() && grad.scalar_type() == p.dtype &&
                            grad.device() == p.device,
                        "alkn::", settings_.owner, ": expected a gradient of ", describe(param),
                        ", got ", describe(grad), " (", place(p), ")");
      // another Base is given g' in place of the gradient
      TORCH_CHECK_VALUE(base_.fused() || is_low_precision(param) ||
                            at::has_internal_overlap(grad) != at::MemOverlap::Yes,
                        "alkn::", settings_.owner,
                        ": expected a gradient with entries in memory of their own, got one of ",
                        grad.sizes(), " with strides ", grad.strides(), " (", place(p), ")");
    }
  }
  TORCH_CHECK_VALUE(i == parameters_.size(), "alkn::", settings_.owner, ": expected ",
                    parameters_.size(), " parameters, got ", i);
}

inline Backend UnlearnerCore::backend() const {
  CommonBackend common(settings_.backend, settings_.owner);
  for (const ParameterState& p : parameters_) common.add(p.param, p.name);
  return common.get();
}

/// A step outside a task: the base's own, on fp32 masters where the model is of low precision.
inline void UnlearnerCore::plain_step() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  check_parameters(true);
  if (base_.fused()) {
    base_.base_step();
    return;
  }
  SwapMasters swap(&base_.optimizer(), base_.masters(), {});
  base_.base_step();
  swap.write_back();
}

/// Entries that a step trained.
inline std::int64_t UnlearnerCore::num_trained(const ParameterState& p,
                                               const StepSlot& slot) const {
  if (settings_.mask == kernel::MaskKind::localized) return slot.num_unmasked;
  return settings_.mask == kernel::MaskKind::given ? p.num_given : p.param.numel();
}

/// A step of the running task, or a part of one where a CUDA graph has the kernels.
inline void UnlearnerCore::task_step(StepMode mode) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  TaskState& task = *task_;
  check_whole(task, "step()");
  if (mode == StepMode::run && base_.runner().capturing(parameters_[0].device))
    mode = StepMode::capture;
  if (mode != StepMode::run) {
    TORCH_CHECK(base_.fused(), "alkn::", settings_.owner,
                ": expected alkn::AdamW as the base of a step in a CUDA graph, got another");
    TORCH_CHECK(task.training, "alkn::", settings_.owner,
                ": expected a step of the task before the one that a CUDA graph captures, got "
                "none (task ",
                num_tasks_, ")");
  }
  settle();  // long there, where the device was not far behind
  TORCH_CHECK(!task.scope(), "alkn::", settings_.owner,
              ": expected the fine-tuned weights in the model, got a step inside the scope of ",
              task.scope());
  TORCH_CHECK(!task.judging, "alkn::", settings_.owner,
              ": expected a step outside the judge of end(), got it inside");
  TORCH_CHECK(task.done < task.announced, "alkn::", settings_.owner, ": expected at most ",
              task.announced, " steps as announced to begin_task, got one more (task ", num_tasks_,
              ")");
  check_parameters(true);
  base_.check_options();
  if (!task.prepared) start_training();
  slots_.resize(parameters_.size());
  stepped_.resize(parameters_.size());
  std::vector<Tensor> old;
  if (!base_.fused()) old = held_for_modulation();
  kernel::StepResult result;
  run_step(mode, result);
  if (mode == StepMode::capture) return;
  pending_ = base_.runner().pending();
  if (!base_.fused()) {  // whether the base steps depends on the results
    task.broken = true;  // if anything throws: score and gradients have been written
    if (pending_) result = base_.runner().settle(slots_);
    pending_ = false;
    if (!result.skipped) foreign_step(old);
    task.broken = false;
  }
  advance();
  if (!pending_) take_results(result);
}

/// The backend's part of a step. Where it throws, nothing has been written, or the task says that
/// it is broken.
inline void UnlearnerCore::run_step(StepMode mode, kernel::StepResult& result) {
  base_.runner().start();
  try {
    for (std::size_t i = 0; i < parameters_.size(); ++i) fill_slot(i);
    const kernel::StepArgs args = step_args();
    result = base_.fused() ? base_.fused_step(slots_, args, backend(), mode)
                           : base_.runner().run(slots_, args, backend());
  } catch (...) {
    if (base_.runner().has_written())
      task_->broken = true;
    else
      base_.forget_new_state();
    throw;
  }
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    StepSlot& slot = slots_[i];
    stepped_[i] = slot.grad.defined() ? 1 : 0;
    if (slot.score.defined()) parameters_[i].score = slot.score;  // its type may have changed
    slot.drop_tensors();
  }
}

inline void UnlearnerCore::settle() {
  if (!pending_) return;
  pending_ = false;
  const kernel::StepResult result = base_.runner().settle(slots_);
  if (result.skipped) base_.take_back(stepped_);
  take_results(result);
}

/// What came of the last step: counts and thresholds of its parameters, and its report.
inline void UnlearnerCore::take_results(const kernel::StepResult& result) {
  TaskState& task = *task_;
  double on = 0, all = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    if (stepped_[i] == 0) {
      p.num_unmasked = 0;
      continue;
    }
    if (!result.skipped) {
      p.num_unmasked = num_trained(p, slots_[i]);
      if (slots_[i].learns_threshold) p.eta = slots_[i].threshold;  // only where one was due
    }
    on += static_cast<double>(p.num_unmasked);
    all += static_cast<double>(p.param.numel());
  }
  task.last.grad_norm = result.grad_norm;
  task.last.clip_scale = result.clip_scale;
  task.last.skipped = result.skipped;
  task.last.fraction_trained = all > 0 ? on / all : 0;
  task.skipped += result.skipped ? 1 : 0;
}

/// Whether no entry is infinite or NaN. Fused on the CPU: the sum of squares of floats is finite in
/// double.
inline bool all_finite(const Tensor& t) {
  if (!t.is_cpu() || t.scalar_type() != at::kFloat || !t.is_contiguous())
    return t.isfinite().all().item<bool>();
  return kernel::all_finite(t.const_data_ptr<float>(), t.numel(), aten_parallel());
}

/// Before the first step: finishes G_r, creates score and mask, ranks tensors for the modulation.
inline void UnlearnerCore::start_training() {
  TaskState& task = *task_;
  const bool localized = settings_.mask == kernel::MaskKind::localized;
  TORCH_CHECK(
      !localized || task_->num_retain_batches > 0, "alkn::", settings_.owner,
      ": expected accumulate_retain_gradient before the first step, got no retain gradient");
  for (const ParameterState& p : parameters_) {
    TORCH_CHECK_VALUE(!localized || all_finite(p.retain), "alkn::", settings_.owner,
                      ": expected a finite retain gradient, got one with NaN or infinity (",
                      place(p), ")");
  }
  base_.runner().reset();
  if (localized) {
    std::vector<Tensor> kept, scores, masks;
    std::int64_t most = 0;
    for (const ParameterState& p : parameters_) {  // all memory, before anything is changed
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
    for (std::size_t i = 0; i < kept.size(); ++i)
      finish_retain_gradient(parameters_[i], kept[i], sums);
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
inline void UnlearnerCore::finish_retain_gradient(ParameterState& p, const Tensor& kept,
                                                  std::vector<double>& sums) const {
  const std::int64_t batches = task_->num_retain_batches;
  const bool ratio = settings_.localized.score == kernel::ScoreKind::ratio;
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
inline at::ScalarType UnlearnerCore::retain_dtype(const ParameterState& p) const {
  const RetainPrecision kept = settings_.localized.retain_precision;
  const bool bfloat16 = kept == RetainPrecision::bfloat16 ||
                        (kept == RetainPrecision::automatic && p.dtype == at::kBFloat16);
  return bfloat16 ? at::kBFloat16 : state_dtype(p.param);
}

/// Modulation by tensor (section 5): ranked by share of entries in M, ties in parameter order; the
/// lower half keeps its learning rate. Frozen tensors have no place among them.
inline void UnlearnerCore::rank_by_use() {
  if (settings_.localized.modulation != Modulation::tensor || num_tasks_ == 0) return;
  std::vector<double> share;
  for (const ParameterState& p : parameters_) {
    const auto size = static_cast<double>(std::max<std::int64_t>(1, p.param.numel()));
    share.push_back(static_cast<double>(count_bits(p.used)) / size);
  }
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].param.requires_grad()) order.push_back(i);
  }
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return share[i]; });
  for (std::size_t rank = 0; rank < order.size(); ++rank) {  // the same at a second try
    parameters_[order[rank]].slow = rank >= order.size() / 2;
  }
}

inline void UnlearnerCore::fill_slot(std::size_t position) {
  ParameterState& p = parameters_[position];
  StepSlot& slot = slots_[position];
  const auto& localized = settings_.localized;
  const bool is_localized = settings_.mask == kernel::MaskKind::localized;
  if (base_.fused()) {
    slot = base_.plain_slot(position, p.param, p.group, is_localized && localized.compact_state);
    const double low = slot.adamw.lr * localized.low_lr_ratio;
    if (is_localized && p.slow) slot.adamw.lr = slot.adamw.lr_used = low;
    if (is_localized && localized.modulation == Modulation::parameter) slot.adamw.lr_used = low;
  } else {
    slot = StepSlot{};
    slot.param = p.param;
    slot.grad = p.param.grad();
    if (is_low_precision(p.param) && slot.grad.defined() && !p.masked_grad.defined()) {
      p.masked_grad = at::zeros(p.shape, slot.grad->options().dtype(at::kFloat));
    }
    slot.grad_out = is_low_precision(p.param) ? TensorRef(p.masked_grad) : slot.grad;
    slot.adamw.step = task_->done + 1;  // for the random numbers of a compact score
  }
  slot.mask = settings_.mask == kernel::MaskKind::given ? p.given : p.mask;
  if (!is_localized) return;
  slot.used = p.used;
  slot.retain = p.retain;
  const auto type = slot.exp_avg.defined() ? slot.exp_avg->scalar_type() : score_dtype(p);
  if (slot.grad.defined() && p.score.scalar_type() != type)
    slot.score = p.score.to(type);
  else
    slot.score = p.score;
  slot.learns_threshold = !p.threshold.has_value();
  slot.threshold = p.eta.value_or(0.0);
}

inline kernel::StepArgs UnlearnerCore::step_args() {
  const LocalizedSettings& localized = settings_.localized;
  kernel::StepArgs args;
  args.mask = settings_.mask;
  args.masked = settings_.masked;
  args.max_norm = settings_.max_norm;
  args.update = base_.fused() ? kernel::Update::adamw : kernel::Update::gradient;
  if (settings_.mask != kernel::MaskKind::localized) return args;
  args.score = localized.score;
  args.penalty_scale = localized.penalty_scale;
  args.alignment = static_cast<float>(localized.alignment);
  args.penalty = static_cast<float>(localized.penalty);
  args.unmask_ratio = task_->unmask_ratio;
  args.trim_ratio = localized.trim_ratio;
  // a tensor whose first gradient comes between two due steps learns its threshold at once
  const bool due = task_->done % localized.threshold_every == 0;
  const auto waits = [](const StepSlot& s, const ParameterState& p) {
    return s.grad.defined() && s.learns_threshold && !p.eta;
  };
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const bool first = waits(slots_[i], parameters_[i]);
    slots_[i].learns_threshold = slots_[i].learns_threshold && (due || first);
    args.threshold_due =
        args.threshold_due || (slots_[i].grad.defined() && slots_[i].learns_threshold);
  }
  return args;
}

/// Copies of what a foreign base's step will displace by less than it wants to; undefined for
/// others.
inline std::vector<Tensor> UnlearnerCore::held_for_modulation() {
  const auto& localized = settings_.localized;
  const bool later = settings_.mask == kernel::MaskKind::localized && num_tasks_ > 0;
  std::vector<Tensor> old(parameters_.size());
  for (std::size_t i = 0; later && i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    const bool by_entry = localized.modulation == Modulation::parameter && p.used.defined();
    if (p.param.grad().defined() && (p.slow || by_entry)) old[i] = live(p).clone();
  }
  return old;
}

/// The base's own step on g', on masters where the model is of low precision; then the modulation
/// as a factor on the displacement, theta = old + f (new - old).
inline void UnlearnerCore::foreign_step(const std::vector<Tensor>& old) {
  const auto& localized = settings_.localized;
  gradients_.clear();
  for (const ParameterState& p : parameters_) gradients_.push_back(p.masked_grad);
  SwapMasters swap(&base_.optimizer(), base_.masters(), gradients_);
  base_.base_step();
  std::size_t i = 0;
  for (auto& group : base_.optimizer().param_groups()) {
    for (Tensor& stepped : group.params()) {
      const std::size_t index = i++;
      if (!old[index].defined()) continue;
      const Tensor scaled = old[index].add(stepped.sub(old[index]), localized.low_lr_ratio);
      const Tensor where = parameters_[index].slow
                               ? Tensor()
                               : unpack_bits(parameters_[index].used, parameters_[index].shape);
      stepped.copy_(where.defined() ? at::where(where, scaled, stepped) : scaled);
    }
  }
  swap.write_back();
}

/// Counts the step, and moves rho along its schedule (section 4).
inline void UnlearnerCore::advance() {
  TaskState& task = *task_;
  task.last = {.task = num_tasks_, .step = task.done, .unmask_ratio = task.unmask_ratio};
  task.done += 1;
  double rate = 0;
  for (const auto& group : base_.optimizer().param_groups())
    rate = std::max(rate, group.options().get_lr());
  task.course.note_rate(rate);
  const std::int64_t period = std::max<std::int64_t>(1, task.announced / 5);
  if (settings_.mask == kernel::MaskKind::localized && task.done % period == 0 &&
      task.done < task.announced) {
    const double start = settings_.localized.unmask_ratio;
    task.unmask_ratio = start - (start - start / 2) * static_cast<double>(task.done) /
                                    static_cast<double>(task.announced);
  }
}

}  // namespace alkn::detail
