// What a task needs of the optimizer that takes its steps.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <alkn/backend.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/optim/optimizer_state.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/step/slot.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace alkn::detail {

/// The base optimizer, as the core needs it. `fused`: alkn::AdamW, whose whole step is one kernel
/// call.
class BaseAdapter {
 public:
  virtual torch::optim::Optimizer& optimizer() = 0;
  virtual bool fused() const = 0;
  virtual Masters& masters() = 0;
  virtual StepRunner& runner() = 0;
  /// fused: a slot with gradient, moments and hyperparameters, after check_options().
  /// @param position of the parameter in the groups, one after the other
  /// @param compact whatever the options of the base say
  virtual StepSlot plain_slot(std::size_t position, const Tensor& param, std::size_t group,
                              bool compact) = 0;
  /// Whether the options of the base ask for a compact state of a group's parameters.
  virtual bool compact(std::size_t group) const = 0;
  /// fused: runs the kernels and counts the step
  virtual kernel::StepResult fused_step(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                                        Backend backend, StepMode mode) = 0;
  /// fused: after a step that failed before it had written anything, forgets the state that it made
  virtual void forget_new_state() = 0;
  /// fused: the last step was none for the parameters with a true flag, in the order of the groups
  virtual void take_back(const std::vector<char>& stepped) = 0;
  /// A step outside a task, whose gradients have been checked.
  virtual void base_step() = 0;
  /// Throws for a group option that is out of range.
  virtual void check_options() = 0;
  /// A group's options in words, as far as the class of options is known.
  virtual std::string options_text(std::size_t group) const = 0;
  /// to = from, both of the base's class of options
  virtual void assign_options(torch::optim::OptimizerOptions& to,
                              const torch::optim::OptimizerOptions& from) = 0;
  /// What the base's constructor makes of the groups as they are: nothing, or what Adagrad cannot
  /// step without.
  virtual OptimizerState fresh_state() = 0;

 protected:
  ~BaseAdapter() = default;
};

}  // namespace alkn::detail
