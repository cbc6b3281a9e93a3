// The end of a task: negation, union of the masks, thresholds; or everything as it was.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <c10/core/InferenceMode.h>
#include <alkn/option.hpp>
#include <alkn/task/core.hpp>
#include <alkn/tensor/bits.hpp>

#include <cmath>
#include <utility>
#include <vector>

namespace alkn::detail {

ALKN_COMPILED_INLINE double UnlearnerCore::task_lambda() const {
  return settings_.negation * std::pow(settings_.negation_decay, static_cast<double>(num_tasks_));
}

/// theta = start - lambda (theta_ft - start) for every parameter. Takes no memory for fp32 on the
/// CPU; where it is missed elsewhere the task is broken.
/// @param out all_live()
ALKN_COMPILED_INLINE void UnlearnerCore::apply_lambda(double lambda,
                                                      const std::vector<Tensor>& out) {
  const Backend how = backend();
  task_->broken = true;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) continue;
    const ParameterState& p = parameters_[i];
    base_.runner().negate(out[i], out[i], p.start, lambda, how);
    follow(p, out[i]);
  }
  send_all_weights();
  task_->broken = false;
}

ALKN_COMPILED_INLINE TaskReport UnlearnerCore::report(double lambda, bool reduced) const {
  TaskReport result{.task = num_tasks_,
                    .steps = task_->done,
                    .skipped_steps = task_->skipped,
                    .lambda = lambda,
                    .lambda_reduced = reduced,
                    .clip_scale = task_->last.clip_scale,
                    .tensors = {},
                    .warnings = {}};
  double on = 0, all = 0, twice = 0;
  std::vector<double> common(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    // without a gradient in the last step the mask is that of an earlier one
    if (p.num_trained > 0 && p.mask.defined() && p.used.defined())
      common[i] = static_cast<double>(count_common_bits(p.mask, p.used));
  }
  share_counts(common);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterState& p = parameters_[i];
    TensorReport row{.name = p.name, .size = p.param.numel(), .threshold = {}};
    const auto size = static_cast<double>(row.size);
    const auto trained = static_cast<double>(p.num_trained);
    const double again = common[i];
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
ALKN_COMPILED_INLINE void UnlearnerCore::check_end() const {
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
ALKN_COMPILED_INLINE TaskReport UnlearnerCore::end_task(double lambda, bool reduced) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const auto checks = [&] {
    settle();
    check_end();
    check_range(settings_.owner, "lambda", lambda, Range::non_negative_float(), "end");
    check_parameters(false);
  };
  return together(Call::end, lambda, checks, [&] { return commit(lambda, reduced); });
}

/// end_task() after its checks.
ALKN_COMPILED_INLINE TaskReport UnlearnerCore::commit(double lambda, bool reduced) {
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
ALKN_COMPILED_INLINE void UnlearnerCore::abandon(bool must_restore) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  if (!must_restore && shards_.active()) {  // a destructor, which may come alone
    agreement_.mark_failed("lost a task that neither ended nor was abandoned");
    close(task_->state_before);
    return;
  }
  const auto checks = [&] {
    settle();
    const bool can_restore = holds_start() || task_->done == 0;
    TORCH_CHECK(can_restore || !must_restore, "alkn::", settings_.owner,
                ": expected held weights to go back to, got none after ", task_->done,
                " steps; construct with rollback(true) to be able to abandon");
    if (holds_start()) check_parameters(false);
  };
  together(Call::abandon, 0, checks, [&] {
    if (holds_start()) {
      swap_back();
      restore_start();
    }
    // nothing below throws
    close(task_->state_before);
  });
}

/// Puts theta_{t-1} back.
ALKN_COMPILED_INLINE void UnlearnerCore::restore_start() {
  const std::vector<Tensor> out = all_live();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) continue;
    const ParameterState& p = parameters_[i];
    out[i].copy_(p.start);
    follow(p, p.start);
  }
  send_all_weights();
}

/// Drops what belonged to the task; the options return, and the base's state becomes `state`.
ALKN_COMPILED_INLINE void UnlearnerCore::close(OptimizerState& state) {
  auto& optimizer = base_.optimizer();
  auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size() && g < task_->options_before.size(); ++g)
    put_options(groups[g], task_->options_before[g]);
  optimizer.state().swap(state);
  for (ParameterState& p : parameters_) p.drop_task();
  task_.reset();
}

}  // namespace alkn::detail
