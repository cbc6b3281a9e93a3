// What a running task holds, beside and of each parameter.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <alkn/optim/optimizer_state.hpp>
#include <alkn/task/report.hpp>
#include <alkn/task/sample_memory.hpp>
#include <alkn/text.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

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
  bool dropped = false;  ///< a judge has let the handle go: where end() throws, all is undone
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
  Tensor given;                  ///< words of the user's mask
  std::int64_t num_given = 0;    ///< its set bits
  std::uint64_t given_hash = 0;  ///< of the words, with a group
  // history
  Tensor used;                      ///< words of M; undefined before the first task ends
  std::optional<double> threshold;  ///< learned in the first task that trained it
  // task
  Tensor start;                  ///< theta_{t-1}: the master's, or the parameter's own values
  Tensor retain, score, mask;    ///< as in StepSlot
  Tensor masked_grad;            ///< g' of a low-precision parameter under a foreign base
  bool retain_finished = false;  ///< `retain` is what the score wants, no sum any more
  std::optional<double> eta;     ///< in force in this task
  bool slow = false;             ///< low learning rate by tensor
  std::int64_t num_trained = 0;  ///< entries that the last step trained; 0: none yet

  void drop_task() {
    start = retain = score = mask = masked_grad = Tensor();
    eta.reset();
    slow = retain_finished = false;
    num_trained = 0;
  }
};

/// While it lives, the parameters whose state is elsewhere have no gradient: no code steps them.
struct HiddenGradients {
  std::vector<std::pair<Tensor, Tensor>> hidden;

  HiddenGradients() = default;
  HiddenGradients(const HiddenGradients&) = delete;
  HiddenGradients& operator=(const HiddenGradients&) = delete;
  HiddenGradients(HiddenGradients&&) = default;
  HiddenGradients& operator=(HiddenGradients&&) = delete;
  ~HiddenGradients() {
    for (auto& [param, grad] : hidden) param.mutable_grad() = std::move(grad);
  }
};

/// Where a parameter stands, for error texts.
inline std::string place(const ParameterState& p) {
  return text_of({"group ", p.group, ", parameter \"", p.name, "\""});
}

}  // namespace alkn::detail
