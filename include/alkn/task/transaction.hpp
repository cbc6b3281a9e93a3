// The task of UnlearnerCore as a transaction: begin, prepare, end or abandon. Included by
// task/core.hpp.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <alkn/task/core.hpp>

#include <algorithm>
#include <cmath>
#include <typeinfo>
#include <utility>

namespace alkn::detail {

inline TaskState& UnlearnerCore::task(std::int64_t serial, const char* call) {
  TORCH_CHECK(task_ && task_->serial == serial, "alkn::Task: expected ", call,
              " during the task, got it after the task ended");
  return *task_;
}

/// Appends a group before the first task.
inline void UnlearnerCore::add_parameters(const std::vector<NamedParameter>& params,
                                          std::unique_ptr<torch::optim::OptimizerOptions> options) {
  TORCH_CHECK(num_tasks_ == 0 && !task_, "alkn::", settings_.owner,
              ": expected new parameters before the first task, got them after it began");
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  check_parameters(false);
  std::vector<NamedParameter> all;
  for (const ParameterState& p : parameters_) all.push_back({p.name, p.param});
  all.insert(all.end(), params.begin(), params.end());
  const auto once = collect_parameters(settings_.owner, all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    TORCH_CHECK_VALUE(i < once.size() && once[i].name == all[i].name, "alkn::", settings_.owner,
                      ": expected new parameters, got a duplicate parameter (parameter \"",
                      all[i].name, "\")");
  }
  std::vector<Tensor> tensors;
  for (const NamedParameter& p : params) {
    resolve_backend(settings_.backend, p.tensor, settings_.owner, p.name);
    tensors.push_back(p.tensor);
  }
  auto& optimizer = base_.optimizer();
  if (!options) options = optimizer.defaults().clone();
  std::vector<ParameterState> before = parameters_;
  const std::size_t num_groups = optimizer.param_groups().size();
  OptimizerState made;
  try {
    optimizer.add_param_group(
        torch::optim::OptimizerParamGroup(std::move(tensors), std::move(options)));
    match_parameters(params);
    take_given_masks();
    OptimizerState fresh = fresh_state();
    made.swap(fresh);
    optimizer.state().reserve(optimizer.state().size() + made.size());
    for (auto& [param, state] : made) {
      if (optimizer.state().find(param) == optimizer.state().end())
        optimizer.state()[param] = std::move(state);
    }
  } catch (...) {
    parameters_.swap(before);
    for (auto& [param, state] : made) {
      if (!state) optimizer.state().erase(param);  // it was taken from there
    }
    while (optimizer.param_groups().size() > num_groups) optimizer.param_groups().pop_back();
    throw;
  }
}

inline void UnlearnerCore::put_options(torch::optim::OptimizerParamGroup& group,
                                       std::unique_ptr<torch::optim::OptimizerOptions>& values) {
  torch::optim::OptimizerOptions& own = group.options();
  const torch::optim::OptimizerOptions& given = *values;
  if (typeid(own) == typeid(given))
    base_.assign_options(own, given);
  else  // somebody has set others
    group.set_options(std::move(values));
}

/// Bytes of what a task keeps: theta_{t-1}, G_r, score and mask. @param cpu what lies in an arena
inline std::size_t UnlearnerCore::task_bytes(bool cpu) const {
  std::size_t bytes = 0;
  for (const ParameterState& p : parameters_) {
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
inline std::int64_t UnlearnerCore::begin_task(const TaskOptions& options) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  TORCH_CHECK(!task_, "alkn::", settings_.owner,
              ": expected end() or abandon() before the next begin_task, ",
              "got a task that still runs (task ", num_tasks_, ")");
  TORCH_CHECK_VALUE(options.steps >= 1, "alkn::", settings_.owner,
                    ": expected steps in [1, inf), got ", options.steps, " (begin_task)");
  check_parameters(false);
  base_.check_options();
  auto& groups = base_.optimizer().param_groups();
  auto task = std::make_unique<TaskState>();
  task->announced = options.steps;
  task->serial = next_serial_;
  if (settings_.mask == kernel::MaskKind::localized)
    task->unmask_ratio = settings_.localized.unmask_ratio;
  for (const auto& group : groups) task->options_before.push_back(group.options().clone());
  OptimizerState state = fresh_state();
  arrays_.renew(task_bytes(false), task_bytes(true));
  std::vector<Tensor> starts(parameters_.size());
  for (std::size_t i = 0; holds_start() && i < parameters_.size(); ++i) {
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

/// Adds the gradient of one batch's retain loss to the running sum of G_r. The parameters' own
/// gradients are not touched.
inline void UnlearnerCore::accumulate_retain_gradient(const Tensor& loss) {
  const c10::InferenceMode normal_tensors(false);
  check_parameters(false);
  TORCH_CHECK_VALUE(
      loss.defined() && loss.numel() == 1 && loss.requires_grad(), "alkn::", settings_.owner,
      ": expected a scalar retain loss that depends on the parameters, got ",
      loss.defined()
          ? c10::str("a tensor of ", loss.sizes(), loss.requires_grad() ? "" : " without a graph")
          : std::string("an undefined tensor"));
  std::vector<Tensor> inputs;
  std::vector<ParameterState*> owners;
  for (ParameterState& p : parameters_) {
    if (!p.param.requires_grad()) continue;
    inputs.push_back(p.param);
    owners.push_back(&p);
  }
  std::vector<Tensor> gradients;
  if (!inputs.empty()) {
    const at::AutoGradMode with_graph(true);
    gradients = torch::autograd::grad({loss.reshape({})}, inputs, {}, std::nullopt, false, true);
  }
  const at::NoGradGuard no_grad;
  std::vector<Tensor> sums;
  for (const ParameterState& p : parameters_) {
    const at::ScalarType type = state_dtype(p.param);
    const auto options = p.param.options().dtype(type).requires_grad(false);
    // where G_r stays as it is summed, among the task's arrays: no step has to copy it
    sums.push_back(p.retain.defined()        ? p.retain
                   : retain_dtype(p) == type ? arrays_.zeros(p.shape, options)
                                             : at::zeros(p.shape, options));
  }
  for (Tensor& gradient : gradients) {
    if (gradient.defined()) gradient = addend(gradient);
  }
  // on the CPU nothing below throws
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].retain = std::move(sums[i]);
  for (std::size_t i = 0; i < owners.size(); ++i) {
    if (gradients[i].defined()) add_gradient(owners[i]->retain, gradients[i]);
  }
  task_->num_retain_batches += 1;
}

/// All the memory that swap_start takes to swap in and, in a destructor, to swap back: of each
/// parameter without a master a view of room for the largest of its kind.
inline void UnlearnerCore::reserve_exchange() {
  std::vector<Tensor> kinds, rooms;
  const auto room_of = [&](const ParameterState& p) {
    return std::ranges::find_if(kinds, [&](const Tensor& t) {
      return t.scalar_type() == p.dtype && t.device() == p.device;
    });
  };
  for (const ParameterState& p : parameters_) {
    if (base_.masters().get(p.param).defined()) continue;
    const auto options = p.param.options().requires_grad(false);
    const auto found = room_of(p);
    if (found == kinds.end())
      kinds.push_back(at::empty({p.param.numel()}, options));
    else if (found->numel() < p.param.numel())
      *found = at::empty({p.param.numel()}, options);
  }
  for (const ParameterState& p : parameters_) {
    const auto found = room_of(p);
    rooms.push_back(found == kinds.end() || is_low_precision(p.param)
                        ? Tensor()
                        : found->narrow(0, 0, p.param.numel()).view(p.shape));
  }
  task_->exchange = std::move(rooms);
}

/// Puts the weights of the start of the task into the model. @returns the number of this scope
inline std::int64_t UnlearnerCore::swap_start() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  check_parameters(false);
  if (holds_start()) {
    reserve_exchange();
    exchange_start();
  }
  task_->swapped = true;
  return ++task_->num_swaps;
}

/// Puts the fine-tuned weights back. Where a parameter has changed its shape or its place, nothing
/// is written: it is to be put back first.
inline void UnlearnerCore::swap_back() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  if (!task_ || !task_->swapped) return;
  if (holds_start()) {
    check_parameters(false);
    exchange_start();
  }
  task_->swapped = false;
  task_->exchange.clear();
}

/// Exchanges the model's weights with those that are held, one way or the other. Low-precision
/// parameters take the rounded start; their masters keep the fine-tuned values.
inline void UnlearnerCore::exchange_start() {
  const bool in = !task_->swapped;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    const Tensor master = base_.masters().find(p.param);
    if (master.defined()) {
      p.param.copy_(in ? p.start : master);
      base_.masters().agree(p.param);
    } else {
      const Tensor& room = task_->exchange[i];
      room.copy_(p.param);
      p.param.copy_(p.start);
      p.start.copy_(room);
    }
  }
}

inline double UnlearnerCore::task_lambda() const {
  return settings_.negation * std::pow(settings_.negation_decay, static_cast<double>(num_tasks_));
}

/// theta = start - lambda (theta_ft - start) for every parameter. Takes no memory for fp32 on the
/// CPU; where it is missed elsewhere the task is broken.
/// @param out all_live()
inline void UnlearnerCore::apply_lambda(double lambda, const std::vector<Tensor>& out) {
  const Backend how = backend();
  task_->broken = true;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    base_.runner().negate(out[i], out[i], p.start, lambda, how);
    follow(p, out[i]);
  }
  task_->broken = false;
}

inline TaskReport UnlearnerCore::report(double lambda, bool reduced) const {
  TaskReport result{.task = num_tasks_,
                    .steps = task_->done,
                    .skipped_steps = task_->skipped,
                    .lambda = lambda,
                    .lambda_reduced = reduced,
                    .clip_scale = task_->last.clip_scale,
                    .tensors = {},
                    .warnings = {}};
  double on = 0, all = 0, twice = 0;
  for (const ParameterState& p : parameters_) {
    TensorReport row{.name = p.name, .size = p.param.numel(), .threshold = {}};
    const auto size = static_cast<double>(row.size);
    const auto trained = static_cast<double>(p.num_unmasked);
    // without a gradient in the last step the mask is that of an earlier one
    const double again = p.num_unmasked > 0 && p.mask.defined() && p.used.defined()
                             ? static_cast<double>(count_common_bits(p.mask, p.used))
                             : 0;
    row.fraction_trained = size > 0 ? trained / size : 0;
    row.overlap = trained > 0 ? again / trained : 0;
    if (p.eta && !without_threshold(row.size)) row.threshold = *p.eta;
    on += trained;
    twice += again;
    all += size;
    result.tensors.push_back(std::move(row));
  }
  result.fraction_trained = all > 0 ? on / all : 0;
  result.overlap = on > 0 ? twice / on : 0;
  return result;
}

/// Throws while the task cannot end yet.
inline void UnlearnerCore::check_end() const {
  check_whole(*task_, "end()");
  TORCH_CHECK(!task_->scope(), "alkn::", settings_.owner,
              ": expected the fine-tuned weights in the model, got end() inside the scope of ",
              task_->scope());
  TORCH_CHECK(
      task_->done > 0, "alkn::", settings_.owner,
      ": expected at least one step before end(), got none; abandon() leaves all as it was (task ",
      num_tasks_, ")");
}

/// Commits the task: negation by `lambda`, union of the masks, thresholds.
inline TaskReport UnlearnerCore::end_task(double lambda, bool reduced) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  settle();
  check_end();
  check_range(settings_.owner, "lambda", lambda, Range::non_negative(), "end");
  check_parameters(false);
  TaskReport result = report(settings_.negates ? lambda : 0, reduced);
  result.warnings = warnings(/*ending=*/true);
  std::vector<Tensor> unions(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    // never the mask itself, which would keep the task's whole arena
    if (p.mask.defined()) {
      unions[i] = p.used.defined() ? p.used.bitwise_or(p.mask) : p.mask.clone();
    }
  }
  OptimizerState state = fresh_state();
  if (settings_.negates) apply_lambda(lambda, all_live());
  // nothing below throws
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    if (unions[i].defined()) p.used = unions[i];
    if (!p.threshold) p.threshold = p.eta;
  }
  num_tasks_ += 1;
  close(state);
  return result;
}

/// Restores weights, optimizer state and options to the bit. Without held weights a task that has
/// stepped cannot be undone: an error, or, from a destructor, only the protocol's state is closed.
inline void UnlearnerCore::abandon(bool must_restore) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  settle();
  const bool can_restore = holds_start() || task_->done == 0;
  TORCH_CHECK(can_restore || !must_restore, "alkn::", settings_.owner,
              ": expected held weights to go back to, got none after ", task_->done,
              " steps; construct with rollback(true) to be able to abandon");
  if (holds_start()) {
    check_parameters(false);
    swap_back();
    const std::vector<Tensor> out = all_live();
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const ParameterState& p = parameters_[i];
      out[i].copy_(p.start);
      follow(p, p.start);
    }
  }
  // nothing below throws
  close(task_->state_before);
}

/// Drops what belonged to the task; the options return, and the base's state becomes `state`.
inline void UnlearnerCore::close(OptimizerState& state) {
  auto& optimizer = base_.optimizer();
  auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size() && g < task_->options_before.size(); ++g)
    put_options(groups[g], task_->options_before[g]);
  optimizer.state().swap(state);
  for (ParameterState& p : parameters_) p.drop_task();
  task_.reset();
}

}  // namespace alkn::detail
