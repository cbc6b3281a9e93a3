// What a running task holds, and what it reports.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/flat_hash_map.h>
#include <torch/optim/optimizer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace alkn {

using at::Tensor;

/// What begin_task must know.
struct TaskOptions {
  std::int64_t steps =
      0;  ///< optimizer steps the task will take at most, [1, inf); the schedule of rho spans them
};

/// The strength to end with, by what it does: see Task::end.
struct EndTarget {
  /// Judges the forget set by the candidate's weights, which it finds in the model and must not
  /// change: the more is forgotten the smaller, for example the mean probability of the answers.
  std::function<double()> forget = {};
  double forget_bound = 0;  ///< where `forget` has to fall to, any number but NaN
  /// Judges what is to be kept, the better the smaller, for example the NLL of retain data. None:
  /// nothing limits lambda.
  std::function<double()> keep = {};
  double keep_bound = 0;   ///< where `keep` has to stay, any number but NaN
  double max_lambda = 10;  ///< the largest candidate, (0, inf)
  int iterations = 12;     ///< candidates at most beside both ends, [1, inf)
};

/// What the last optimizer step of a task did.
struct StepReport {
  std::int64_t task = 0;        ///< 0-based
  std::int64_t step = 0;        ///< 0-based within the task, skipped ones counted
  double grad_norm = 0;         ///< global, before clipping
  double clip_scale = 1;        ///< what the gradient was multiplied by
  double unmask_ratio = 1;      ///< rho in force
  double fraction_trained = 1;  ///< entries whose mask was on / entries with a gradient
  bool skipped = false;         ///< the gradient was not finite: nothing was written
};

/// What a task did to one tensor.
struct TensorReport {
  std::string name;                 ///< of the parameter
  std::int64_t size = 0;            ///< entries
  double fraction_trained = 1;      ///< entries whose mask was on in the last step / size
  double overlap = 0;               ///< of those, the share that earlier tasks had trained too
  std::optional<double> threshold;  ///< eta; none: without localisation, or fewer than 10 entries
};

/// What a task did.
struct TaskReport {
  std::int64_t task = 0;           ///< 0-based
  std::int64_t steps = 0;          ///< taken, skipped ones counted
  std::int64_t skipped_steps = 0;  ///< left out because the gradient was not finite
  double lambda = 0;               ///< of the negation; 0 where the ending keeps the weights
  bool lambda_reduced = false;     ///< a judge asked for less than lambda_t
  /// What the judges of end(target) gave at lambda; none: there was no such judge.
  std::optional<double> forget_judged = {}, keep_judged = {};
  bool target_met = true;             ///< `forget` fell to its bound while `keep` stayed within its
  double fraction_trained = 1;        ///< entries whose mask was on in the last step / all entries
  double overlap = 0;                 ///< of those, the share that earlier tasks had trained too
  double clip_scale = 1;              ///< of the last step
  std::vector<TensorReport> tensors;  ///< in the order of the parameter groups
  /// What deserves a second look, one plain sentence each: see Task::warnings.
  std::vector<std::string> warnings;
};

namespace detail {

/// The learning rates and the first loss of a task, for its warnings.
struct TaskCourse {
  std::int64_t num_rates = 0;  ///< steps whose rate was seen: fewer than `done` after a resume
  std::int64_t peak_step = 0;  ///< the first step with the largest rate
  double peak_rate = 0;
  Tensor first_loss;  ///< of the forget set before the first step, where a negation follows

  void note_rate(double rate) {
    if (rate > peak_rate) {
      peak_rate = rate;
      peak_step = num_rates;
    }
    ++num_rates;
  }
};

/// What the objective remembers of each sample, keyed by the sample's id.
class SampleMemory {
 public:
  struct Entry {
    Tensor values;                ///< 1-D
    std::int64_t num_tokens = 0;  ///< valid tokens when it was remembered
  };

  using Entries = std::unordered_map<std::int64_t, Entry>;

  /// Takes over all, or, where there is no memory, none. They replace those of the same ids.
  void put(Entries entries) {
    entries_.reserve(entries_.size() + entries.size());
    entries_.merge(entries);  // what is left is known
    for (auto& [id, entry] : entries) entries_.find(id)->second = std::move(entry);
  }

  /// Throws c10::ValueError for an unknown id, or another number of valid tokens than was
  /// remembered.
  [[nodiscard]] const Tensor& get(const std::string& owner, std::int64_t id,
                                  std::int64_t num_tokens) const {
    const auto found = entries_.find(id);
    TORCH_CHECK_VALUE(
        found != entries_.end(), "alkn::", owner,
        ": expected a sample that was remembered before the first step, got an unknown id (sample ",
        id, ")");
    TORCH_CHECK_VALUE(found->second.num_tokens == num_tokens, "alkn::", owner, ": expected ",
                      found->second.num_tokens, " valid tokens as remembered, got ", num_tokens,
                      " (sample ", id, ")");
    return found->second.values;
  }

  [[nodiscard]] const Entries& entries() const noexcept { return entries_; }

 private:
  Entries entries_;
};

/// Exchanged by its swap() alone: its moves allocate, and end the program where there is no memory.
using OptimizerState =
    ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>>;

/// A running task, apart from what it keeps of each parameter.
struct TaskState {
  std::int64_t serial = 0;     ///< tells this task's handle from an earlier one's
  std::int64_t announced = 0;  ///< TaskOptions::steps
  std::int64_t done = 0;
  std::int64_t skipped = 0;
  bool training = false;  ///< the first step has begun
  bool prepared = false;  ///< and has all it needs: G_r is finished, scores and masks are there
  /// A call failed after it had written some of the parameters: only abandon() is left.
  bool broken = false;
  bool swapped = false;        ///< the weights of the start are in the model
  std::int64_t num_swaps = 0;  ///< scopes of start_weights() so far
  /// While they are: for each parameter without a master room of its shape, shared by all.
  std::vector<Tensor> exchange;
  bool judging = false;  ///< a candidate of end(judge, bound) or end(target) is in the model
  bool shown = false;    ///< those of a lambda are in the model, for weights_at()
  /// While a lambda's weights are in the model: the fine-tuned ones, in the order of the
  /// parameters; undefined where an fp32 master has them.
  std::vector<Tensor> tuned;
  std::int64_t num_retain_batches = 0;
  double unmask_ratio = 1;
  SampleMemory memory;
  StepReport last;
  TaskCourse course;
  // put back at the end
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options_before;
  OptimizerState state_before;  ///< put back only by abandon

  /// The scope whose weights are in the model in place of the fine-tuned ones; null: none.
  [[nodiscard]] const char* scope() const noexcept {
    return swapped ? "start_weights()" : shown ? "weights_at()" : nullptr;
  }
};

/// One parameter: what is known of it across tasks, and what the running task keeps.
struct ParameterState {
  std::string name;
  Tensor param;
  std::size_t group = 0;
  at::DimVector shape;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  Tensor given;                ///< words of the user's mask
  std::int64_t num_given = 0;  ///< its set bits
  // history
  Tensor used;                      ///< words of M; undefined before the first task ends
  std::optional<double> threshold;  ///< learned in the first task that trained it
  // task
  Tensor start;                   ///< theta_{t-1}: the master's, or the parameter's own values
  Tensor retain, score, mask;     ///< as in StepSlot
  Tensor masked_grad;             ///< g' of a low-precision parameter under a foreign base
  bool retain_finished = false;   ///< `retain` is what the score wants, no sum any more
  std::optional<double> eta;      ///< in force in this task
  bool slow = false;              ///< low learning rate by tensor
  std::int64_t num_unmasked = 0;  ///< entries that the last step trained; 0: none yet

  void drop_task() {
    start = retain = score = mask = masked_grad = Tensor();
    eta.reset();
    slow = retain_finished = false;
    num_unmasked = 0;
  }
};

}  // namespace detail
}  // namespace alkn
