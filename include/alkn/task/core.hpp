// What every method does, whatever its policies are: the parameters by name, the step, the task as
// a transaction. Not a template, so that it is compiled once for all methods of a program.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/optim/optimizer.h>
#include <alkn/backend.hpp>
#include <alkn/compiled.hpp>
#include <alkn/parameters.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/step/state_arrays.hpp>
#include <alkn/task/agreement.hpp>
#include <alkn/task/base.hpp>
#include <alkn/task/report.hpp>
#include <alkn/task/settings.hpp>
#include <alkn/task/shards.hpp>
#include <alkn/task/state.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

/// A contiguous copy in pinned host memory, where a GPU reads it from.
inline Tensor pinned_copy(const Tensor& values) {
  const auto options = values.options().device(at::kCPU).requires_grad(false);
  return at::empty(values.sizes(), options.pinned_memory(true)).copy_(values);
}

/// What all methods have in common. The handles of its task and its checkpoints refer to it.
class UnlearnerCore {
 public:
  /// @param options the method's, one "name: value" a line, for a group to compare
  UnlearnerCore(BaseAdapter& base, MethodSettings settings,
                const std::vector<NamedParameter>& params, const Processes& processes = {},
                std::vector<std::string> options = {});

  // the optimizer
  /// @param closure what the user wants evaluated before the step: another process may have to hear
  /// that it threw
  void step(const std::function<void()>& closure);
  void prepare_replay();
  /// Waits for the results of the last step, where a device has not reported them yet.
  void settle();
  /// @param given makes the new parameters and the options of their group, or throws
  using NewGroup = std::function<std::vector<NamedParameter>(
      std::unique_ptr<torch::optim::OptimizerOptions>& options)>;
  void add_parameters(const NewGroup& given);

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
  [[nodiscard]] std::vector<TensorReport> tensor_reports();
  /// The parameters that another process had other values of than process 0, at construction or in
  /// add_named_parameters().
  [[nodiscard]] const std::vector<std::string>& differed() const noexcept { return differed_; }
  /// The processes of the group, or this one.
  [[nodiscard]] const Shards& shards() const noexcept { return shards_; }
  /// A call that the processes of a group make together: `checks` is what can fail on one of them
  /// alone, `body` what has to happen on all.
  /// @param argument of the call, which all must give alike
  /// @param asked () -> further arguments in words, likewise
  template <class Checks, class Body>
  auto together(Call call, double argument, const Checks& checks, const Body& body,
                const std::function<std::string()>& asked = {}) {
    if (!shards_.active()) {
      checks();
      return body();
    }
    CallState state{.call = call, .argument = argument, .asked = asked ? asked() : std::string()};
    meet(state, checks);
    return agreement_.watch(call, body);
  }
  /// For checkpoints: a call of all processes, see Agreement::meet.
  /// @param argument of this process, read after `checks`
  std::vector<double> agree(Call call, const std::function<void()>& checks, const double& argument);
  /// Whether the group has not failed.
  [[nodiscard]] bool works() const noexcept { return agreement_.works(); }
  /// For checkpoints: all that was read of parameters whose state is elsewhere goes, and all
  /// processes get their weights from there.
  void spread_loaded();
  /// While it lives, the base may be archived although it holds the state of a share: a checkpoint
  /// knows which.
  class ArchiveOfShare {
   public:
    explicit ArchiveOfShare(UnlearnerCore& core) : core_(core) { core_.archives_share_ = true; }
    ~ArchiveOfShare() { core_.archives_share_ = false; }
    ArchiveOfShare(const ArchiveOfShare&) = delete;
    ArchiveOfShare& operator=(const ArchiveOfShare&) = delete;

   private:
    UnlearnerCore& core_;
  };
  void check_archive() const {
    if (!archives_share_) check_alone("torch::save");
  }
  /// Throws for what does not work with a group.
  void check_alone(const char* call) const {
    TORCH_CHECK(!shards_.active(), "alkn::", settings_.owner, ": expected one process for ", call,
                ", got a group of ", shards_.size());
  }

  [[nodiscard]] BaseAdapter& base() const noexcept { return base_; }
  [[nodiscard]] const MethodSettings& settings() const noexcept { return settings_; }
  /// In the order of param_groups.
  [[nodiscard]] std::vector<ParameterState>& parameters() noexcept { return parameters_; }
  [[nodiscard]] const std::vector<ParameterState>& parameters() const noexcept {
    return parameters_;
  }
  /// Ended tasks.
  [[nodiscard]] std::int64_t num_tasks() const noexcept { return num_tasks_; }

  [[nodiscard]] bool in_task() const noexcept { return task_ != nullptr; }
  /// Whether the task numbered `serial` is the running one.
  [[nodiscard]] bool runs(std::int64_t serial) const noexcept {
    return task_ && task_->serial == serial;
  }
  /// The running task.
  [[nodiscard]] TaskState& task() const noexcept { return *task_; }
  /// For a checkpoint, after the parameters: the tasks that have ended, and the running one or
  /// null.
  void resume(std::int64_t num_tasks, std::unique_ptr<TaskState> task) noexcept {
    if (task) task->serial = next_serial_++;
    num_tasks_ = num_tasks;
    task_ = std::move(task);
    base_.runner().reset();
  }
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
  /// Drops what the base has of some of the parameters from `first` on.
  /// @param state the base's, or one that was set aside
  void forget_state(OptimizerState& state, std::size_t first,
                    const std::function<bool(std::size_t)>& which);
  /// Throws unless the parameters, and their gradients, are as they were at construction.
  void check_parameters(bool gradients);
  /// Gives a group the values of options, in the object that it has: the user may hold a reference.
  void put_options(torch::optim::OptimizerParamGroup& group,
                   std::unique_ptr<torch::optim::OptimizerOptions>& values);

  /// How G_r is kept, once it is finished.
  [[nodiscard]] at::ScalarType retain_dtype(const ParameterState& p) const;

 private:
  std::vector<double> meet(CallState& state, const std::function<void()>& checks);
  [[nodiscard]] std::vector<std::string> fixed_lines() const;
  [[nodiscard]] std::vector<std::string> settings_lines(const std::string& asked);
  [[nodiscard]] std::uint64_t settings_hash(const std::string& asked);
  void share_parameters(std::size_t first);
  void forget_others(std::size_t first);
  HiddenGradients share_gradients();
  void send_weights(const std::vector<char>& which);
  void send_all_weights() {
    if (shards_.sharded()) send_weights(std::vector<char>(parameters_.size(), 1));
  }
  void share_results();
  void share_counts(std::vector<double>& counts) const {
    if (shards_.sharded()) shards_.sum(counts);
  }
  std::int64_t open_task(std::int64_t steps);
  void retain_gradients(const Tensor& loss, std::vector<Tensor>& gradients);
  void add_average(const std::vector<Tensor>& gradients);
  void restore_start();
  void check_backend(const Tensor& param, const std::string& name) const;
  void append_parameters(const std::vector<NamedParameter>& params,
                         std::unique_ptr<torch::optim::OptimizerOptions> options);
  void check_retain_gradient();
  void check_step(StepMode& mode);
  void check_task_step(StepMode& mode);
  void take_step(StepMode mode);
  void base_step();
  [[nodiscard]] std::vector<std::int64_t> parameter_sizes() const;
  TaskReport commit(double lambda, bool reduced);
  void match_parameters(const std::vector<NamedParameter>& named);
  void take_given_masks();
  void run_step(StepMode mode, kernel::StepResult& result);
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
  OptimizerState own_fresh_state();
  [[nodiscard]] Tensor live(const ParameterState& p) {
    const Tensor master = base_.masters().get(p.param);
    return master.defined() ? master : p.param;
  }
  /// live() of the parameters whose state is here, undefined for others; collected up front:
  /// creating a master may allocate, so it happens before anything is written.
  [[nodiscard]] std::vector<Tensor> all_live() {
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      all.push_back(shards_.owns(i) ? live(parameters_[i]) : Tensor());
    return all;
  }
  /// After live(p) has got these values: a parameter of low precision follows.
  void follow(const ParameterState& p, const Tensor& values) {
    if (!is_low_precision(p.param)) return;
    p.param.copy_(values);
    base_.masters().agree(p.param);
  }

  BaseAdapter& base_;
  MethodSettings settings_;
  std::vector<ParameterState> parameters_;
  std::unique_ptr<TaskState> task_;
  std::int64_t num_tasks_ = 0;
  std::int64_t next_serial_ = 1;
  std::vector<StepSlot> slots_;
  StateArrays arrays_;             ///< of the running task
  std::vector<char> stepped_;      ///< the parameters that had a gradient in the last step
  std::vector<char> present_;      ///< those that had one on any process
  bool pending_ = false;           ///< the results of the last step are still to come
  std::vector<Tensor> gradients_;  ///< g' of low-precision parameters, for SwapMasters
  Shards shards_;
  Agreement agreement_;
  std::vector<std::string> options_;
  std::vector<std::string> differed_;
  std::optional<std::uint64_t> fixed_hash_;  ///< of fixed_lines(), until there are others
  bool archives_share_ = false;
};

}  // namespace alkn::detail

#if ALKN_DEFINITIONS
#include <alkn/task/begin.hpp>
#include <alkn/task/end.hpp>
#include <alkn/task/group_calls.hpp>
#include <alkn/task/parameter_list.hpp>
#include <alkn/task/prepare.hpp>
#include <alkn/task/search.hpp>
#include <alkn/task/show.hpp>
#include <alkn/task/step.hpp>
#include <alkn/task/warnings.hpp>
#endif
