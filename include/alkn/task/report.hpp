// What a task is told at its beginning and its end, and what it reports.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace alkn {

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
  double max_lambda = 10;  ///< the largest candidate, (0, 1e30]
  int iterations = 10;     ///< lambda is found to max_lambda / 2^iterations, [1, inf)
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

}  // namespace alkn
