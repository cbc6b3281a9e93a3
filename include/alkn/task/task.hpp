// The handle of a running task: what a training loop talks to besides its optimizer. One class with
// the documentation of every call of the protocol: hence its length.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <alkn/objective/losses.hpp>
#include <alkn/objective/retain_kl.hpp>
#include <alkn/task/core.hpp>
#include <alkn/task/state.hpp>
#include <alkn/task/weight_scopes.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <concepts>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace alkn {

/// `Objective` computes its loss from a batch of these types.
template <class Objective, class Options, class... Batch>
concept ObjectiveFor = requires(const Options& options, const std::vector<Tensor>& memory,
                                const Batch&... batch) {
  { Objective::loss(options, memory, batch...) } -> std::convertible_to<Tensor>;
};

/// One deletion request, from begin_task to end() or abandon(). A transaction: a task that goes out
/// of scope without end() is abandoned.
///
/// The order is: remember and accumulate_retain_gradient as far as the method wants them; then
/// loss, backward and Unlearner::step; then end or abandon. Every call out of order throws
/// c10::Error and changes nothing.
template <class Method>
class [[nodiscard]] Task {
  using Objective = typename Method::ObjectiveType;
  using Options = typename Method::Options;

 public:
  Task(std::shared_ptr<detail::UnlearnerCore> core, std::int64_t serial, Options options)
      : core_(core), serial_(serial), options_(std::move(options)) {}
  Task(Task&& other) noexcept
      : core_(std::exchange(other.core_, {})),
        serial_(other.serial_),
        options_(std::move(other.options_)) {}
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  Task& operator=(Task&&) = delete;
  ~Task() {
    const auto held = core_.lock();
    if (!held || !held->runs(serial_)) return;
    if (held->task().judging) {
      held->task().dropped = true;
      return;
    }
    try {
      held->abandon(/*must_restore=*/false);
    } catch (...) {  // a destructor may not throw: the task stays open, the next begin_task says so
    }
  }

  /// Whether `remember()` must be called before the first step.
  [[nodiscard]] bool wants_memory() const noexcept { return Objective::kRemembers; }
  /// Whether `accumulate_retain_gradient()` must be called before the first step.
  [[nodiscard]] bool wants_retain_gradient() const noexcept {
    return Method::kMaskKind == kernel::MaskKind::localized;
  }
  /// Whether the options ask for a retain term in the loss.
  [[nodiscard]] bool wants_retain_loss() const noexcept {
    return options_.retain_term() != RetainTerm::none;
  }
  /// Whether that term needs reference logits.
  [[nodiscard]] bool wants_reference_logits() const noexcept {
    return options_.retain_term() == RetainTerm::kl;
  }

  /// Remembers what the objective needs of these samples, as the model knows them now (evaluation
  /// mode is the caller's to set). A sample that is remembered again replaces what was.
  /// @param ids [B] int64  @param batch what the objective takes: logits [B, T, V], or [N, V] of
  /// answer_rows(labels) alone, and labels [B, T] int64
  template <class... Batch>
  void remember(const Tensor& ids, const Batch&... batch) {
    static_assert(ObjectiveFor<Objective, Options, Batch...>,
                  "alkn: the objective's loss takes other arguments than this batch");
    detail::TaskState& task = changing("remember()");
    before_training(task, "remember()");
    if constexpr (Objective::kRemembers) {
      std::vector<Tensor> values = Objective::remember(batch...);
      const Tensor counts = token_counts(batch...);
      const Tensor keys = checked_ids(ids, counts.size(0));
      TORCH_CHECK_VALUE(std::ssize(values) == keys.size(0),
                        "alkn::Task: expected one tensor a sample from the objective's remember, ",
                        keys.size(0), " in all, got ", values.size());
      const c10::InferenceMode normal_tensors(false);
      const at::NoGradGuard no_grad;
      detail::SampleMemory::Entries entries;
      for (std::int64_t b = 0; b < keys.size(0); ++b) {
        entries[keys.const_data_ptr<std::int64_t>()[b]] = {
            values[static_cast<std::size_t>(b)].clone(), counts.const_data_ptr<std::int64_t>()[b]};
      }
      task.memory.put(std::move(entries));
    }
  }

  /// Adds one batch to the retain gradient G_r, the mean over all batches given. The parameters'
  /// own `grad` is not touched.
  /// @param loss scalar with a graph, for example mean_nll of a retain batch
  void accumulate_retain_gradient(const Tensor& loss) {
    before_training(changing("accumulate_retain_gradient()"), "accumulate_retain_gradient()");
    if (wants_retain_gradient()) core()->accumulate_retain_gradient(loss);
  }

  /// The forget loss of a batch; differentiable.
  /// @param ids [B] int64, remembered before the first step if the objective remembers
  /// @param batch what the objective takes: logits [B, T, V] or [N, V], labels [B, T] int64
  template <class... Batch>
  [[nodiscard]] Tensor loss(const Tensor& ids, const Batch&... batch) const {
    static_assert(ObjectiveFor<Objective, Options, Batch...>,
                  "alkn: the objective's loss takes other arguments than this batch");
    detail::TaskState& task = running("loss()");
    std::vector<Tensor> memory;
    if constexpr (Objective::kRemembers) {
      const Tensor counts = token_counts(batch...);
      const Tensor keys = checked_ids(ids, counts.size(0));
      for (std::int64_t b = 0; b < keys.size(0); ++b) {
        memory.push_back(task.memory.get("Task", keys.const_data_ptr<std::int64_t>()[b],
                                         counts.const_data_ptr<std::int64_t>()[b]));
      }
    }
    Tensor result = Objective::loss(options_, memory, batch...);
    if constexpr (Method::kNegates) {
      if (task.done == 0 && !task.course.first_loss.defined())
        task.course.first_loss = result.detach();
    }
    return result;
  }

  /// The weighted retain term of the loss, to be added to `loss`.
  /// @param logits [B, T, V] or [N, V], @param labels [B, T] int64 of retain data
  /// @param reference_logits of the same shape, for RetainTerm::kl: computed under start_weights()
  [[nodiscard]] Tensor retain_loss(const Tensor& logits, const Tensor& labels,
                                   const Tensor& reference_logits = {}) const {
    static_cast<void>(running("retain_loss()"));
    TORCH_CHECK(
        wants_retain_loss(),
        "alkn::Task: expected retain_term(nll) or retain_term(kl) in the options, got none");
    if (!wants_reference_logits()) return mean_nll(logits, labels).mul(options_.retain_weight());
    TORCH_CHECK_VALUE(
        reference_logits.defined(),
        "alkn::Task: expected reference logits for retain_term(kl), got an undefined tensor");
    return retain_kl(logits, reference_logits, labels).mul(options_.retain_weight());
  }

  /// What deserves a second look so far, one plain sentence each; the report has them too, and
  /// what the learning rates were like. Fewer than 10 steps; a warm-up that takes more than half of
  /// them; and where a negation follows, a forget loss that starts below .01: the samples are known
  /// by heart, or not at all, and loss and norm then say nothing of what is forgotten.
  /// Waits for the device once.
  [[nodiscard]] std::vector<std::string> warnings() const {
    static_cast<void>(running("warnings()"));
    return core()->warnings(/*ending=*/false);
  }

  /// Puts the weights of the start of the task into the model for the time of a scope. Needs held
  /// weights (an ending that negates, or rollback(true)), unless no step was taken yet.
  StartWeights start_weights() {
    const detail::TaskState& task = running("start_weights()");
    TORCH_CHECK(core()->holds_start() || task.done == 0,
                "alkn::Task: expected held weights for start_weights() after the first step, got "
                "none; construct with "
                "rollback(true)");
    check_no_scope(task);
    detail::UnlearnerCore::check_whole(task, "start_weights()");
    return StartWeights(core_, serial_);
  }

  /// Puts the weights that end(lambda) would leave into the model for the time of a scope, to the
  /// bit; the fine-tuned weights are back after it, to the bit. For a look at several strengths
  /// before one is chosen.
  /// @param lambda [0, 1e30]  @throws c10::ValueError for another; c10::Error inside another scope,
  /// or the judge of end()
  /// Cost: two passes over the weights. Holds the fine-tuned weights meanwhile, 4 bytes a weight
  /// (none where fp32 masters have them).
  template <class M = Method>
  WeightsAt weights_at(double lambda) {
    static_assert(M::kNegates,
                  "alkn: weights_at(lambda) is for methods that negate; this one keeps its "
                  "fine-tuned weights");
    const detail::TaskState& task = changing("weights_at()");
    check_no_scope(task);
    detail::UnlearnerCore::check_whole(task, "weights_at()");
    return WeightsAt(core_, serial_, lambda);
  }

  /// Commits the task: negation with lambda_t, union of the masks, thresholds. The moments and
  /// scores are dropped, the groups' options return.
  TaskReport end() {
    static_cast<void>(changing("end()"));
    return core()->end_task(core()->task_lambda());
  }

  /// Commits with another strength of the negation, [0, 1e30].
  template <class M = Method>
  TaskReport end(double lambda) {
    static_assert(
        M::kNegates,
        "alkn: end(lambda) is for methods that negate; this one keeps its fine-tuned weights");
    static_cast<void>(changing("end()"));
    return core()->end_task(lambda);
  }

  /// Commits with the largest lambda in [0, lambda_t] at which `judge` stays within `bound`;
  /// bisection, `iterations` candidates at most beside lambda_t. `judge` finds the candidate's
  /// weights in the model and must not change them. Holds the fine-tuned weights meanwhile. If
  /// `judge` throws, the task goes on as before.
  template <class M = Method>
  TaskReport end(const std::function<double()>& judge, double bound, int iterations = 10) {
    static_assert(M::kNegates,
                  "alkn: end(judge, bound) is for methods that negate; this one keeps its "
                  "fine-tuned weights");
    static_cast<void>(changing("end()"));
    return core()->end_task(judge, bound, iterations);
  }

  /// Commits with the smallest lambda in [0, max_lambda] at which `forget` falls to its bound while
  /// `keep` stays within its own; where none does both, with the largest at which `keep` does
  /// (report: target_met is false). Doubles lambda from max_lambda / 2^iterations until `forget`
  /// has fallen or `keep` no longer holds, then bisects: up to there `forget` must fall with lambda
  /// and `keep` grow. A NaN is within no bound. The same bits as end(lambda) with the lambda of the
  /// report. If a judge throws, the task goes on as before.
  /// @throws c10::ValueError for a target without a judge of the forget set, or out of range
  /// Cost: 2 iterations candidates at most, each as end(judge, bound)'s; `keep` is asked only where
  /// it decides.
  template <class M = Method>
  TaskReport end(const EndTarget& target) {
    static_assert(M::kNegates,
                  "alkn: end(target) is for methods that negate; this one keeps its fine-tuned "
                  "weights");
    static_cast<void>(changing("end()"));
    return core()->end_task(target);
  }

  /// Restores weights, optimizer state and options as they were at begin_task, to the bit.
  void abandon() {
    static_cast<void>(changing("abandon()"));
    core()->abandon(/*must_restore=*/true);
  }

  /// The running task's core and number, for checkpoints.
  [[nodiscard]] std::int64_t serial() const noexcept { return serial_; }

 private:
  [[nodiscard]] std::shared_ptr<detail::UnlearnerCore> core() const {
    auto held = core_.lock();
    TORCH_CHECK(held,
                "alkn::Task: expected the unlearner to outlive its task, got one that is gone or "
                "moved from");
    return held;
  }
  [[nodiscard]] detail::TaskState& running(const char* call) const {
    return core()->task(serial_, call);
  }
  /// For calls that a judge of end(judge, bound) may not make.
  [[nodiscard]] detail::TaskState& changing(const char* call) const {
    detail::TaskState& task = running(call);
    TORCH_CHECK(!task.judging, "alkn::Task: expected ", call,
                " outside the judge of end(), got it inside");
    return task;
  }

  static void check_no_scope(const detail::TaskState& task) {
    TORCH_CHECK(
        !task.scope(),
        "alkn::Task: expected one scope of start_weights() or weights_at() at a time, got a "
        "second");
  }

  static void before_training(const detail::TaskState& task, const char* call) {
    TORCH_CHECK(!task.training, "alkn::Task: expected ", call,
                " before the first step, got it after ", task.done, " steps");
  }

  template <class... Batch>
  static Tensor token_counts(const Batch&... batch) {
    if constexpr (requires { Objective::token_counts(batch...); }) {
      return detail::plain_values(Objective::token_counts(batch...).cpu());
    } else {
      return valid_tokens(std::get<sizeof...(Batch) - 1>(std::tie(batch...))).cpu();
    }
  }

  static Tensor checked_ids(const Tensor& ids, std::int64_t batch) {
    TORCH_CHECK_VALUE(
        ids.defined() && ids.scalar_type() == at::kLong && ids.dim() == 1 && ids.size(0) == batch,
        "alkn::Task: expected ids of Long [", batch, "], got ",
        ids.defined() ? c10::str(ids.scalar_type(), " ", ids.sizes())
                      : std::string("an undefined tensor"));
    return detail::plain_values(ids.cpu());
  }

  std::weak_ptr<detail::UnlearnerCore> core_;
  std::int64_t serial_;
  Options options_;
};

}  // namespace alkn
