// The beginning of a task: what end() and abandon() will need is held.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <c10/core/InferenceMode.h>
#include <alkn/task/core.hpp>

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

namespace alkn::detail {

ALKN_COMPILED_INLINE TaskState& UnlearnerCore::task(std::int64_t serial, const char* call) {
  TORCH_CHECK(task_ && task_->serial == serial, "alkn::Task: expected ", call,
              " during the task, got it after the task ended");
  return *task_;
}

/// Bytes of what a task keeps: theta_{t-1}, G_r, score and mask. @param cpu what lies in an arena
ALKN_COMPILED_INLINE std::size_t UnlearnerCore::task_bytes(bool cpu) const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) continue;
    const ParameterState& p = parameters_[i];
    const auto size = static_cast<std::size_t>(p.param.numel());
    const std::size_t state = c10::elementSize(state_dtype(p.param));
    const bool start_on_cpu = !p.param.is_cuda() && (p.param.is_cpu() || settings_.start_on_host);
    if (holds_start() && (!cpu || start_on_cpu)) bytes += size * state;
    if (settings_.mask == kernel::MaskKind::localized && (!cpu || p.param.is_cpu())) {
      bytes += size * (c10::elementSize(score_dtype(p)) + c10::elementSize(retain_dtype(p))) +
               (size + 63) / 64 * 8;
    }
  }
  return bytes;
}

/// Holds theta_{t-1}, sets the moments and the options aside, multiplies every learning rate by
/// lr_decay^t.
/// @return the serial number of the task
ALKN_COMPILED_INLINE std::int64_t UnlearnerCore::begin_task(const TaskOptions& options) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const auto checks = [&] {
    TORCH_CHECK(!task_, "alkn::", settings_.owner,
                ": expected end() or abandon() before the next begin_task, ",
                "got a task that still runs (task ", num_tasks_, ")");
    TORCH_CHECK_VALUE(options.steps >= 1, "alkn::", settings_.owner,
                      ": expected steps in [1, inf), got ", options.steps, " (begin_task)");
    check_parameters(false);
    base_.check_options();
  };
  return together(Call::begin_task, static_cast<double>(options.steps), checks,
                  [&] { return open_task(options.steps); });
}

/// begin_task() after its checks.
ALKN_COMPILED_INLINE std::int64_t UnlearnerCore::open_task(std::int64_t steps) {
  auto& groups = base_.optimizer().param_groups();
  auto task = std::make_unique<TaskState>();
  task->announced = steps;
  task->serial = next_serial_;
  if (settings_.mask == kernel::MaskKind::localized)
    task->unmask_ratio = settings_.localized.unmask_ratio;
  for (const auto& group : groups) task->options_before.push_back(group.options().clone());
  OptimizerState state = fresh_state();
  arrays_.renew(task_bytes(false), task_bytes(true));
  std::vector<Tensor> starts(parameters_.size());
  for (std::size_t i = 0; holds_start() && i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) continue;
    const Tensor values = live(parameters_[i]);
    if (settings_.start_on_host && values.is_cuda()) {
      starts[i] = pinned_copy(values);
      continue;
    }
    const auto device = settings_.start_on_host ? at::Device(at::kCPU) : values.device();
    starts[i] = arrays_.zeros(values.sizes(), values.options().device(device).requires_grad(false))
                    .copy_(values);
  }
  // nothing below throws
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].start = std::move(starts[i]);
  task->state_before.swap(state);
  task->state_before.swap(base_.optimizer().state());
  const double decay = std::pow(settings_.lr_decay, static_cast<double>(num_tasks_));
  for (auto& group : groups) group.options().set_lr(group.options().get_lr() * decay);
  task_ = std::move(task);
  return next_serial_++;
}

}  // namespace alkn::detail
