// What every method does, whatever its policies are: the parameters by name, the step, the task as
// a transaction. Not a template, so that it is compiled once for all methods of a program.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/optimizer.h>
#include <alkn/method/masks.hpp>
#include <alkn/method/options.hpp>
#include <alkn/parameters.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/step/state_arrays.hpp>
#include <alkn/task/state.hpp>
#include <alkn/tensor/autograd.hpp>
#include <alkn/tensor/bits.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace alkn::detail {

/// A method's options and policies as plain values.
struct MethodSettings {
  std::string owner = "Unlearner";  ///< the class in error texts
  double max_norm = 1, lr_decay = 1;
  RetainTerm retain_term = RetainTerm::none;
  double retain_weight = 1;
  bool rollback = false, start_on_host = false;
  Backend backend = Backend::automatic;
  kernel::MaskKind mask = kernel::MaskKind::none;
  LocalizedSettings localized;
  Masked masked = Masked::gradient;
  std::vector<NamedParameter> given;
  bool negates = false;
  double negation = 1, negation_decay = 1;
  bool remembers = false;
};

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
  /// Base::step(nullptr)
  virtual void base_step() = 0;
  /// Throws for a group option that is out of range.
  virtual void check_options() = 0;
  /// to = from, both of the base's class of options
  virtual void assign_options(torch::optim::OptimizerOptions& to,
                              const torch::optim::OptimizerOptions& from) = 0;
  /// What the base's constructor makes of the groups as they are: nothing, or what Adagrad cannot
  /// step without.
  virtual OptimizerState fresh_state() = 0;

 protected:
  ~BaseAdapter() = default;
};

/// While it lives, a foreign base's param_groups hold the fp32 masters with fp32 gradients in place
/// of the low-precision parameters, so that the base's arithmetic and state are fp32.
class SwapMasters {
 public:
  /// @param optimizer null: nothing is swapped
  /// @param gradients per parameter in group order; undefined: the parameter's own gradient in fp32
  SwapMasters(torch::optim::Optimizer* optimizer, Masters& masters,
              const std::vector<Tensor>& gradients)
      : masters_(masters) {
    if (optimizer == nullptr) return;
    std::vector<Tensor> grads;
    std::size_t i = 0;
    for (auto& group : optimizer->param_groups()) {
      for (Tensor& param : group.params()) {
        const std::size_t index = i++;
        Tensor master = masters.get(param);
        if (!master.defined()) continue;
        Tensor grad = index < gradients.size() ? gradients[index] : Tensor();
        if (!grad.defined() && param.grad().defined()) grad = param.grad().to(at::kFloat);
        grads.push_back(param.grad().defined() ? grad : Tensor());
        swapped_.push_back({&param, master});
        swapped_.back().second.mutable_grad();  // where it will be
      }
    }
    for (std::size_t k = 0; k < swapped_.size(); ++k) {  // nothing throws any more
      auto& [place, other] = swapped_[k];
      other.mutable_grad() = std::move(grads[k]);
      std::swap(*place, other);
    }
  }
  ~SwapMasters() {
    for (auto& [place, original] : swapped_) {
      place->mutable_grad().reset();
      *place = original;
    }
  }
  SwapMasters(const SwapMasters&) = delete;
  SwapMasters& operator=(const SwapMasters&) = delete;

  /// Rounds the masters of the parameters that had a gradient into them.
  void write_back() {
    const at::NoGradGuard no_grad;
    for (auto& [place, original] : swapped_) {
      if (!place->grad().defined()) continue;
      original.copy_(*place);
      masters_.agree(original);
    }
  }

 private:
  Masters& masters_;
  std::vector<std::pair<Tensor*, Tensor>> swapped_;
};

/// A contiguous copy in pinned host memory, where a GPU reads it from.
inline Tensor pinned_copy(const Tensor& values) {
  const auto options = values.options().device(at::kCPU).requires_grad(false);
  return at::empty(values.sizes(), options.pinned_memory(true)).copy_(values);
}

class UnlearnerCore {
 public:
  UnlearnerCore(BaseAdapter& base, MethodSettings settings,
                const std::vector<NamedParameter>& params);

  // the optimizer
  void plain_step();
  void task_step(StepMode mode);
  /// Waits for the results of the last step, where a device has not reported them yet.
  void settle();
  void add_parameters(const std::vector<NamedParameter>& params,
                      std::unique_ptr<torch::optim::OptimizerOptions> options);

  // the task protocol; see alkn::Task
  std::int64_t begin_task(const TaskOptions& options);
  void accumulate_retain_gradient(const Tensor& loss);
  std::int64_t swap_start();
  void swap_back();
  TaskReport end_task(double lambda, bool reduced = false);
  TaskReport end_task(const std::function<double()>& judge, double bound, int iterations);
  TaskReport end_task(const EndTarget& target);
  void show_lambda(double lambda);
  void show_tuned();
  void abandon(bool must_restore);

  /// What the running task's last step did to each tensor.
  [[nodiscard]] std::vector<TensorReport> tensor_reports() const {
    return report(0, false).tensors;
  }

  [[nodiscard]] bool in_task() const noexcept { return task_ != nullptr; }
  [[nodiscard]] bool holds_start() const noexcept {
    return settings_.negates || settings_.rollback;
  }
  [[nodiscard]] double task_lambda() const;
  /// @param ending whether all steps are taken
  [[nodiscard]] std::vector<std::string> warnings(bool ending) const;
  /// The running task; throws unless it is the one numbered `serial`.
  TaskState& task(std::int64_t serial, const char* call);
  /// Throws after a call that failed with some of the parameters written.
  static void check_whole(const TaskState& task, const char* call) {
    TORCH_CHECK(!task.broken, "alkn::Task: expected abandon() after a call that failed with some ",
                "parameters written, got ", call);
  }
  /// Gives a group the values of options, in the object that it has: the user may hold a reference.
  void put_options(torch::optim::OptimizerParamGroup& group,
                   std::unique_ptr<torch::optim::OptimizerOptions>& values);

  /// How G_r is kept, once it is finished.
  [[nodiscard]] at::ScalarType retain_dtype(const ParameterState& p) const;

  BaseAdapter& base_;
  MethodSettings settings_;
  std::vector<ParameterState> parameters_;  ///< in the order of param_groups
  std::unique_ptr<TaskState> task_;
  std::int64_t num_tasks_ = 0;  ///< ended ones
  std::int64_t next_serial_ = 1;

 private:
  void match_parameters(const std::vector<NamedParameter>& named);
  void take_given_masks();
  void run_step(StepMode mode, kernel::StepResult& result);
  void check_parameters(bool gradients);
  void check_end() const;
  Backend backend() const;
  void start_training();
  void rank_by_use();
  void finish_retain_gradient(ParameterState& p, const Tensor& kept,
                              std::vector<double>& sums) const;
  [[nodiscard]] at::ScalarType score_dtype(const ParameterState& p) const {
    return moment_dtype(p.param, settings_.localized.compact_state || base_.compact(p.group));
  }
  [[nodiscard]] std::size_t task_bytes(bool cpu) const;
  void fill_slot(std::size_t position);
  kernel::StepArgs step_args();
  std::int64_t num_trained(const ParameterState& p, const StepSlot& slot) const;
  [[nodiscard]] std::vector<Tensor> held_for_modulation();
  void foreign_step(const std::vector<Tensor>& old);
  void take_results(const kernel::StepResult& result);
  void advance();
  void apply_lambda(double lambda, const std::vector<Tensor>& out);
  void exchange_start();
  void hold_tuned();
  void show(double lambda);
  double ask(const std::function<double()>& judge);
  template <class Search>
  auto among_candidates(Search&& search);
  TaskReport report(double lambda, bool reduced) const;
  void reserve_exchange();
  void close(OptimizerState& state);
  /// The base's state as if no step had been taken, of the masters where the model is of low
  /// precision.
  OptimizerState fresh_state();
  [[nodiscard]] Tensor live(const ParameterState& p) {
    const Tensor master = base_.masters().get(p.param);
    return master.defined() ? master : p.param;
  }
  /// live() of all parameters, in their order: what else has to be taken over may need memory.
  [[nodiscard]] std::vector<Tensor> all_live() {
    std::vector<Tensor> all;
    for (const ParameterState& p : parameters_) all.push_back(live(p));
    return all;
  }
  /// After live(p) has got these values: a parameter of low precision follows.
  void follow(const ParameterState& p, const Tensor& values) {
    if (!is_low_precision(p.param)) return;
    p.param.copy_(values);
    base_.masters().agree(p.param);
  }

  std::vector<StepSlot> slots_;
  StateArrays arrays_;             ///< of the running task
  std::vector<char> stepped_;      ///< the parameters that had a gradient in the last step
  bool pending_ = false;           ///< the results of the last step are still to come
  std::vector<Tensor> gradients_;  ///< g' of low-precision parameters, for SwapMasters
};

}  // namespace alkn::detail

#include <alkn/task/step.hpp>
#include <alkn/task/strength.hpp>
#include <alkn/task/transaction.hpp>
#include <alkn/task/warnings.hpp>
