// A step of UnlearnerCore: check, gather, run the backend, let a foreign base follow.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <alkn/kernel/math.hpp>
#include <alkn/optim/swap_masters.hpp>
#include <alkn/task/core.hpp>
#include <alkn/tensor/bits.hpp>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace alkn::detail {

/// Entries that a step trained.
ALKN_COMPILED_INLINE std::int64_t UnlearnerCore::num_trained(const ParameterState& p,
                                                             const StepSlot& slot) const {
  if (settings_.mask == kernel::MaskKind::localized) return slot.num_trained;
  return settings_.mask == kernel::MaskKind::given ? p.num_given : p.param.numel();
}

/// A step of the running task, or outside one of the base's own: of what runs once the closure has
/// returned, as it may end a task or begin one.
ALKN_COMPILED_INLINE void UnlearnerCore::step(const std::function<void()>& closure) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  StepMode mode = StepMode::run;
  const auto checks = [&] {
    if (closure) closure();
    check_step(mode);
  };
  together(Call::step, 0, checks, [&] {
    const HiddenGradients others = share_gradients();
    in_task() ? take_step(mode) : base_step();
  });
}

/// The host's part of a step of the running task, before a CUDA graph that has its kernels.
ALKN_COMPILED_INLINE void UnlearnerCore::prepare_replay() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  StepMode mode = StepMode::prepare;
  check_step(mode);
  take_step(mode);
}

/// The base's own step, on fp32 masters where the model is of low precision.
ALKN_COMPILED_INLINE void UnlearnerCore::base_step() {
  if (base_.fused()) {
    base_.base_step();
  } else {
    SwapMasters swap(&base_.optimizer(), base_.masters(), {});
    base_.base_step();
    swap.write_back();
  }
  send_weights(present_);
}

/// Whether a step of this mode can be taken now.
/// @param mode becomes `capture` where the stream is being captured
ALKN_COMPILED_INLINE void UnlearnerCore::check_step(StepMode& mode) {
  if (in_task()) check_task_step(mode);
  check_parameters(true);
  base_.check_options();
  if (in_task() && !task_->prepared) check_retain_gradient();
}

/// Whether the running task can take it.
ALKN_COMPILED_INLINE void UnlearnerCore::check_task_step(StepMode& mode) {
  TaskState& task = *task_;
  check_whole(task, "step()");
  if (mode == StepMode::run && base_.runner().capturing(parameters_[0].device))
    mode = StepMode::capture;
  if (mode != StepMode::run) {
    check_alone("a step in a CUDA graph");
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
}

/// A step after its checks.
ALKN_COMPILED_INLINE void UnlearnerCore::take_step(StepMode mode) {
  TaskState& task = *task_;
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
  if (shards_.active()) settle();  // all processes exchange the results now
  if (!task.last.skipped) send_weights(present_);
}

/// The backend's part of a step. Where it throws, nothing has been written, or the task says that
/// it is broken.
ALKN_COMPILED_INLINE void UnlearnerCore::run_step(StepMode mode, kernel::StepResult& result) {
  base_.runner().start();
  try {
    for (std::size_t i = 0; i < parameters_.size(); ++i) fill_slot(i);
    kernel::StepArgs args = step_args();
    std::optional<ShardedSquares> squares;
    if (shards_.sharded()) args.all = &squares.emplace(shards_, parameter_sizes(), present_);
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

ALKN_COMPILED_INLINE void UnlearnerCore::settle() {
  if (!pending_) return;
  pending_ = false;
  const kernel::StepResult result = base_.runner().settle(slots_);
  if (result.skipped) base_.take_back(stepped_);
  take_results(result);
}

/// What came of the last step: counts and thresholds of its parameters, and its report.
ALKN_COMPILED_INLINE void UnlearnerCore::take_results(const kernel::StepResult& result) {
  TaskState& task = *task_;
  double on = 0, all = 0;
  const std::vector<char>& present = shards_.active() ? present_ : stepped_;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    if (present[i] == 0) {
      p.num_trained = 0;
    } else if (!result.skipped && shards_.owns(i)) {  // share_results() has the others'
      p.num_trained = num_trained(p, slots_[i]);
      if (slots_[i].learns_threshold) p.eta = slots_[i].threshold;  // only where one was due
    }
  }
  if (!result.skipped) share_results();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (present[i] == 0) continue;
    on += static_cast<double>(parameters_[i].num_trained);
    all += static_cast<double>(parameters_[i].param.numel());
  }
  task.last.grad_norm = result.grad_norm;
  task.last.clip_scale = result.clip_scale;
  task.last.skipped = result.skipped;
  task.last.fraction_trained = all > 0 ? on / all : 0;
  task.skipped += result.skipped ? 1 : 0;
}

ALKN_COMPILED_INLINE void UnlearnerCore::fill_slot(std::size_t position) {
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

ALKN_COMPILED_INLINE kernel::StepArgs UnlearnerCore::step_args() {
  const LocalizedSettings& localized = settings_.localized;
  kernel::StepArgs args;
  args.mask = settings_.mask;
  args.masked = settings_.masked;
  args.max_norm = settings_.max_norm;
  args.update = base_.fused() ? kernel::Update::adamw : kernel::Update::gradient;
  if (settings_.mask != kernel::MaskKind::localized) return args;
  args.score = localized.score;
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

/// Copies of the weights whose step modulation will scale down; undefined for others.
ALKN_COMPILED_INLINE std::vector<Tensor> UnlearnerCore::held_for_modulation() {
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
ALKN_COMPILED_INLINE void UnlearnerCore::foreign_step(const std::vector<Tensor>& old) {
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
ALKN_COMPILED_INLINE void UnlearnerCore::advance() {
  TaskState& task = *task_;
  task.last = {.task = num_tasks_, .step = task.done, .unmask_ratio = task.unmask_ratio};
  task.done += 1;
  double rate = 0;
  for (const auto& group : base_.optimizer().param_groups())
    rate = std::max(rate, group.options().get_lr());
  task.course.note_rate(rate);
  if (settings_.mask == kernel::MaskKind::localized) {
    task.unmask_ratio =
        kernel::unmask_ratio_after(settings_.localized.unmask_ratio, task.done, task.announced);
  }
}

}  // namespace alkn::detail
