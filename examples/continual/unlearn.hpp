// The loop: any method, any model, one request after another. This is the part to copy.
#pragma once

#include <ATen/ops/full.h>
#include <alkn/alkn.hpp>
#include <alkn/checkpoint/checkpoint.hpp>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "continual/batch.hpp"
#include "continual/evaluate.hpp"
#include "continual/interrupt.hpp"
#include "continual/micro_batch.hpp"
#include "continual/progress.hpp"
#include "continual/random.hpp"
#include "continual/run.hpp"
#include "models/heap.hpp"

namespace continual {

/// Answers the requests with one method. `Method` is any alkn::Unlearner.
template <class Method>
class Unlearning {
 public:
  Unlearning(const Run& run, const typename Method::Options& options)
      : run_(run),
        team_(run.settings.team),
        unlearner_(trainable(run.model), options, alkn::AdamWOptions(run.strength.lr),
                   team_.group()) {}

  /// All requests, or, after an interruption, those that are left.
  /// Returns nothing if it was interrupted, or some are left: a checkpoint is then on the disk.
  Rows go() {
    std::optional<TaskType> task = resume();
    for (auto t = unlearner_.num_tasks(); t < std::ssize(run_.data.requests); ++t) {
      const Stopwatch watch;
      const EncodedRequest& request = run_.data.requests[static_cast<std::size_t>(t)];
      if (!task && t >= run_.until) return std::nullopt;
      if (!task) {
        task.emplace(unlearner_.begin_task({.steps = num_steps(request)}));
        prepare(*task, request);
      }
      if (!train(*task, request) || !look(*task, request)) {
        return std::nullopt;  // the task is abandoned here, after its checkpoint was written
      }
      const alkn::TaskReport report = end(*task);
      task.reset();
      finish(report, watch);
    }
    team_.once([&] { remove_checkpoint(run_.checkpoint); });
    return std::move(rows_);
  }

 private:
  using TaskType = typename Method::TaskType;

  [[nodiscard]] std::int64_t num_steps(const EncodedRequest& request) const {
    return run_.strength.epochs * per_pass(request.forget);
  }

  /// Steps of one pass over the samples, on all processes.
  [[nodiscard]] std::int64_t per_pass(const Samples& samples) const {
    return num_batches(samples, run_.strength.batch, team_.size());
  }

  /// Batches of one pass over this process's samples; the same for a run that was interrupted.
  [[nodiscard]] std::vector<Batch> pass(const Samples& samples, std::uint64_t purpose,
                                        std::int64_t number) const {
    return shuffled_batches(
        team_.own(samples), run_.strength.batch,
        Random{run_.settings.data.seed, purpose, static_cast<std::uint64_t>(unlearner_.num_tasks()),
               static_cast<std::uint64_t>(number)},
        run_.model.lengths());
  }

  /// What the method must know of the model as it is now.
  void prepare(TaskType& task, const EncodedRequest& request) {
    if (task.wants_memory()) {
      const at::NoGradGuard no_grad;
      for (const Batch& batch : pass(request.forget, kForgetBatches, 0)) {
        for (const auto& [part, share] : parts_of(batch, micro_batch(), kMean)) {
          task.remember(part.ids, run_.model.logits(part), part.labels);
        }
      }
    }
    if (task.wants_retain_gradient()) {
      std::vector<Part> parts;
      const std::vector<Batch> batches = pass(run_.data.shown, kRetainBatches, 0);
      const std::int64_t steps = per_pass(run_.data.shown);
      for (std::int64_t step = 0; step < steps; ++step) {
        const Batch* batch = batch_of(batches, step);
        const double share = team_.share(batch ? num_counted(*batch, MeanOver::tokens) : 0);
        if (!batch) continue;
        for (Part& part : parts_of(*batch, micro_batch(), MeanOver::tokens)) {
          part.share *= share;
          parts.push_back(std::move(part));
        }
      }
      // The task takes the mean over its calls, one a part: it is to be the mean over the batches.
      const std::int64_t calls = team_.max(std::ssize(parts));
      const double calls_a_batch = static_cast<double>(calls) / static_cast<double>(steps);
      for (std::int64_t call = 0; call < calls; ++call) {
        at::Tensor loss;  // undefined: another process has more
        if (call < std::ssize(parts)) {
          const auto& [batch, share] = parts[static_cast<std::size_t>(call)];
          const double weight = share * calls_a_batch;
          loss = alkn::mean_nll(run_.model.logits(batch), batch.labels);
          if (weight != 1) loss = loss.mul(weight);
        }
        task.accumulate_retain_gradient(loss);
      }
    }
    models::return_freed_memory();
  }

  /// Fine-tunes from the step that the task has reached. Returns false if it was interrupted.
  bool train(TaskType& task, const EncodedRequest& request) {
    const std::int64_t steps = num_steps(request);
    const std::int64_t per_epoch = per_pass(request.forget);
    const std::int64_t per_retain = per_pass(run_.data.shown);
    const std::int64_t done = std::exchange(steps_done_, 0);
    // The paper's schedule: warm-up over the first epoch, then down to zero.
    alkn::LinearSchedule schedule(unlearner_, per_epoch, steps);
    for (std::int64_t i = 0; i < done; ++i) {
      schedule.step();
    }
    Progress progress(fmt::format("{} {}", run_.title, unlearner_.num_tasks() + 1), steps, done);
    std::vector<Batch> forget, retain;
    for (std::int64_t step = done; step < steps && !fulfilled(step, per_epoch); ++step) {
      if (forget.empty() || step % per_epoch == 0) {
        forget = pass(request.forget, kForgetBatches, step / per_epoch);
      }
      unlearner_.zero_grad();
      const double forget_loss = backward_together(
          team_, batch_of(forget, step % per_epoch), micro_batch(), kMean, [&](const Batch& part) {
            return task.loss(part.ids, run_.model.logits(part), part.labels);
          });
      std::optional<double> retain_loss;
      if (task.wants_retain_loss()) {
        if (retain.empty() || step % per_retain == 0) {
          retain = pass(run_.data.shown, kRetainBatches, step / per_retain);
        }
        retain_loss =
            backward_together(team_, batch_of(retain, step % per_retain), micro_batch(),
                              MeanOver::tokens, [&](const Batch& part) {
                                return task.retain_loss(run_.model.logits(part), part.labels);
                              });
      }
      const double lr = unlearner_.param_groups().front().options().get_lr();
      if (run_.before_step) {
        run_.before_step();
      }
      unlearner_.step();
      if (run_.after_step) {
        run_.after_step(unlearner_.last_tensors());
      }
      schedule.step();
      Json line = step_line(unlearner_.last_step(), forget_loss, retain_loss, lr);
      if (Method::kMaskKind == alkn::kernel::MaskKind::localized && unlearner_.num_tasks() == 0) {
        line["thresholds"] = thresholds(unlearner_.last_tensors());
      }
      run_.metrics.append(line);
      progress.step(fmt::format("loss {:.3f}", forget_loss));
      if (step == done) warn(task.warnings());
      seconds_a_step_ = progress.seconds_a_step();
      if (team_.any(interrupted())) {
        save();
        return false;
      }
    }
    return true;
  }

  /// What the target's bound is held against.
  [[nodiscard]] double judged(std::int64_t task) const {
    if (run_.target->judge) return run_.target->judge(task);
    const EncodedRequest& request = run_.data.requests[static_cast<std::size_t>(task)];
    return answer_probability(run_.model, request.forget, team_);
  }

  /// Whether a method that ends with what it has trained may stop after so many steps. A task takes
  /// one at least.
  [[nodiscard]] bool fulfilled([[maybe_unused]] std::int64_t steps,
                               [[maybe_unused]] std::int64_t per_epoch) const {
    if constexpr (Method::kNegates) {
      return false;
    } else {
      if (!run_.target || steps == 0) return false;
      if (!run_.target->each_step && steps % per_epoch != 0) return false;
      return judged(unlearner_.num_tasks()) <= run_.target->bound;
    }
  }

  /// Measures the strengths that were asked for, in the weights of this one fine-tuning.
  /// Returns false if it was interrupted.
  bool look([[maybe_unused]] TaskType& task, [[maybe_unused]] const EncodedRequest& request) {
    sweep_.clear();
    if constexpr (Method::kNegates) {
      for (const double lambda : run_.sweep) {
        if (team_.any(interrupted())) {
          save();
          return false;
        }
        const auto scope = task.weights_at(lambda);
        sweep_.push_back({lambda, run_.look
                                      ? run_.look(unlearner_.num_tasks())
                                      : evaluate_strength(run_.model, run_.data, request, team_)});
      }
    }
    return true;
  }

  /// Commits the task. The guard takes a smaller lambda where what is shown would suffer too much.
  alkn::TaskReport end(TaskType& task) {
    if constexpr (Method::kNegates) {
      const auto shown_loss = [&] { return mean_loss(run_.model, run_.data.shown, team_); };
      if (run_.target) {
        alkn::EndTarget target;
        target.forget = [&, t = unlearner_.num_tasks()] { return judged(t); };
        target.forget_bound = run_.target->bound;
        target.max_lambda = run_.target->max_lambda;
        target.iterations = run_.target->iterations;
        if (run_.settings.guard) {
          target.keep = shown_loss;
          target.keep_bound = run_.trained_loss + *run_.settings.guard;
        }
        return task.end(target);
      }
      if (run_.settings.guard) {
        return task.end(shown_loss, run_.trained_loss + *run_.settings.guard);
      }
    }
    return task.end();
  }

  void finish(const alkn::TaskReport& report, const Stopwatch& watch) {
    TaskRow row;
    row.fraction_trained = report.fraction_trained;
    row.lambda = report.lambda;
    row.lambda_reduced = report.lambda_reduced && !run_.target;
    if (run_.target) {
      row.target_met =
          Method::kNegates ? report.target_met : judged(report.task) <= run_.target->bound;
    }
    row.seconds = watch.seconds();
    row.seconds_a_step = seconds_a_step_;
    row.steps = report.steps;
    row.negates = Method::kNegates;
    row.sweep = std::exchange(sweep_, {});
    row.warnings = report.warnings;
    warn(report.warnings);
    row.probabilities = run_.measure ? run_.measure(report.task)
                                     : evaluate(run_.model, run_.data,
                                                static_cast<std::size_t>(report.task), team_);
    run_.metrics.append(task_line(report, row));
    save();
    run_.on_row(report.task, row);
    rows_.push_back(row);
  }

  /// Hands on what was not said before.
  void warn(const std::vector<std::string>& warnings) {
    for (const std::string& warning : warnings) {
      if (run_.warn && warned_.insert(warning).second) run_.warn(warning);
    }
  }

  [[nodiscard]] std::int64_t micro_batch() const { return run_.settings.micro_batch; }

  void save() {
    run_.metrics.flush();
    alkn::save_checkpoint(run_.checkpoint, unlearner_,
                          {{kIdentity, at::full({1}, run_.identity, at::kLong)}});
  }

  /// Takes up the checkpoint, if there is one and it was asked for; else the one of an earlier run
  /// goes, which a later --resume must not take for this one's.
  std::optional<TaskType> resume() {
    std::optional<TaskType> task;
    if (!run_.settings.resume) team_.once([&] { remove_checkpoint(run_.checkpoint); });
    if (run_.settings.resume && team_.first_finds(has_checkpoint(run_.checkpoint))) {
      const at::Tensor identity = at::full({1}, 0, at::kLong);
      auto loaded = alkn::load_checkpoint(run_.checkpoint, unlearner_, {{kIdentity, identity}});
      if (identity.item<std::int64_t>() != run_.identity) {
        data_error("a checkpoint of this run", "one of a run with other inputs",
                   run_.checkpoint.string());
      }
      if (loaded) {
        task.emplace(std::move(*loaded));
        steps_done_ = unlearner_.last_step().step + 1;
      }
      for (auto& group : unlearner_.param_groups()) {
        group.options().set_lr(run_.strength.lr);  // the schedule counts from the full rate
      }
    }
    run_.metrics.start([&](const Json& line) {
      const auto t = line["task"].get<std::int64_t>();
      return t < unlearner_.num_tasks() || (t == unlearner_.num_tasks() && line["kind"] == "step" &&
                                            line["step"].get<std::int64_t>() < steps_done_);
    });
    for (const MetricsFile::Line& line : run_.metrics.lines()) {
      if (field<std::string>(line.value, "kind", line.where) == "task") {
        rows_.push_back(row_of(line));
        run_.on_row(field<std::int64_t>(line.value, "task", line.where), rows_.back());
      }
    }
    if (std::ssize(rows_) != unlearner_.num_tasks()) {
      data_error("a line for each of the " + std::to_string(unlearner_.num_tasks()) +
                     " requests that are done",
                 std::to_string(rows_.size()), run_.metrics.path().string());
    }
    return task;
  }

  static constexpr const char* kIdentity = "trainer.identity";
  static constexpr std::uint64_t kForgetBatches = 1, kRetainBatches = 2;
  static constexpr MeanOver kMean = std::is_same_v<typename Method::Options, alkn::NPOOptions>
                                        ? MeanOver::sequences
                                        : MeanOver::tokens;

  const Run& run_;
  const Team& team_;
  Method unlearner_;
  std::int64_t steps_done_ = 0;  ///< of a task that goes on after an interruption
  double seconds_a_step_ = 0;    ///< of the last task
  std::vector<StrengthRow> sweep_;
  std::set<std::string> warned_;
  std::vector<TaskRow> rows_;
};

}  // namespace continual
