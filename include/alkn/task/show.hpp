// Other weights in the model for the time of a scope: those of the start of the task, or those that
// end(lambda) would leave.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <alkn/option.hpp>
#include <alkn/task/core.hpp>

#include <algorithm>
#include <utility>
#include <vector>

namespace alkn::detail {

/// All the memory that swap_start takes to swap in and, in a destructor, to swap back: of each
/// parameter without a master a view of room for the largest of its kind; of one with a master,
/// which has the fine-tuned weights, the candidate that a judge is looking at.
ALKN_COMPILED_INLINE void UnlearnerCore::reserve_exchange() {
  std::vector<Tensor> kinds, rooms;
  const auto room_of = [&](const ParameterState& p) {
    return std::ranges::find_if(kinds, [&](const Tensor& t) {
      return t.scalar_type() == p.dtype && t.device() == p.device;
    });
  };
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) continue;
    if (!task_->judging) base_.masters().get(p.param);  // takes over what somebody has written
    if (is_low_precision(p.param)) continue;
    const auto options = p.param.options().requires_grad(false);
    const auto found = room_of(p);
    if (found == kinds.end())
      kinds.push_back(at::empty({p.param.numel()}, options));
    else if (found->numel() < p.param.numel())
      *found = at::empty({p.param.numel()}, options);
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) {  // its fine-tuned weights: nothing has to come back over the wire
      rooms.push_back(p.param.detach().clone());
      continue;
    }
    const auto found = room_of(p);
    if (is_low_precision(p.param))
      rooms.push_back(task_->judging ? p.param.detach().clone() : Tensor());
    else
      rooms.push_back(found->narrow(0, 0, p.param.numel()).view(p.shape));
  }
  task_->exchange = std::move(rooms);
}

/// Puts the weights of the start of the task into the model. @returns the number of this scope
ALKN_COMPILED_INLINE std::int64_t UnlearnerCore::swap_start() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const auto prepare = [&] {
    check_parameters(false);
    if (holds_start()) reserve_exchange();
  };
  try {
    together(Call::start_weights, 0, prepare, [&] {
      if (!holds_start()) return;
      exchange_start();
      send_all_weights();
    });
  } catch (...) {  // of another process
    task_->exchange.clear();
    throw;
  }
  task_->swapped = true;
  return ++task_->num_swaps;
}

/// Puts the fine-tuned weights back. Where a parameter has changed its shape or its place, nothing
/// is written: it is to be put back first.
ALKN_COMPILED_INLINE void UnlearnerCore::swap_back() {
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
/// parameters take the rounded start; their masters keep the fine-tuned values, and room is that of
/// a candidate.
ALKN_COMPILED_INLINE void UnlearnerCore::exchange_start() {
  const bool in = !task_->swapped;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) {
      if (!in) p.param.copy_(task_->exchange[i]);
      continue;
    }
    const Tensor master = base_.masters().find(p.param);
    const Tensor& room = task_->exchange[i];
    if (master.defined()) {
      p.param.copy_(in ? p.start : room.defined() ? room : master);
      base_.masters().agree(p.param);
    } else {
      room.copy_(p.param);
      p.param.copy_(p.start);
      p.start.copy_(room);
    }
  }
}

/// Holds the fine-tuned weights before others are shown. Masters have those of low precision.
ALKN_COMPILED_INLINE void UnlearnerCore::hold_tuned() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  check_parameters(false);
  std::vector<Tensor> tuned;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) {
      tuned.push_back(p.param.detach().clone());
      continue;
    }
    const Tensor values = live(p).detach();  // may have to be taken over
    if (is_low_precision(p.param)) {
      tuned.emplace_back();
    } else {
      const bool to_host = settings_.start_on_host && values.is_cuda();
      tuned.push_back(to_host ? pinned_copy(values) : values.clone());
    }
  }
  task_->tuned = std::move(tuned);
}

/// theta = start - lambda (theta_ft - start) in the model, after hold_tuned(); the masters keep
/// theta_ft. May lack memory on its way: show_tuned() undoes a part as well.
ALKN_COMPILED_INLINE void UnlearnerCore::show(double lambda) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const Backend how = backend();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) continue;
    const ParameterState& p = parameters_[i];
    if (!is_low_precision(p.param)) {
      p.param.copy_(task_->tuned[i]);
      base_.runner().negate(p.param, p.param, p.start, lambda, how);
      continue;
    }
    const Tensor values = base_.masters().find(p.param).clone();
    base_.runner().negate(values, values, p.start, lambda, how);
    p.param.copy_(values);
    base_.masters().agree(p.param);
  }
  send_all_weights();
}

/// Puts the fine-tuned weights back, and lets go of what held them. Takes no memory. Where a
/// parameter has changed its shape or its place, nothing is written.
ALKN_COMPILED_INLINE void UnlearnerCore::show_tuned() {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  if (!task_ || task_->tuned.empty()) return;
  check_parameters(false);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    const Tensor& tuned = task_->tuned[i];
    p.param.copy_(tuned.defined() ? tuned : base_.masters().find(p.param));
    base_.masters().agree(p.param);
  }
  task_->tuned.clear();
  task_->shown = false;
}

/// For Task::weights_at: all parameters show lambda, or an exception and none.
ALKN_COMPILED_INLINE void UnlearnerCore::show_lambda(double lambda) {
  const auto prepare = [&] {
    check_range(settings_.owner, "lambda", lambda, Range::non_negative_float(), "weights_at");
    settle();
    hold_tuned();
  };
  try {
    together(Call::weights_at, lambda, prepare, [&] {
      task_->shown = true;
      try {
        show(lambda);
      } catch (...) {
        show_tuned();
        throw;
      }
    });
  } catch (...) {  // of another process: nothing was shown
    if (!task_->shown) task_->tuned.clear();
    throw;
  }
}

}  // namespace alkn::detail
