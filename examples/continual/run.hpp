// What a run works with, and what it reports.
#pragma once

#include <alkn/task/state.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "continual/batch.hpp"
#include "continual/evaluate.hpp"
#include "continual/json.hpp"
#include "continual/model.hpp"
#include "continual/run_folder.hpp"
#include "continual/settings.hpp"

namespace continual {

/// What one strength would have left.
struct StrengthRow {
  double lambda = 0;
  Probabilities probabilities;  ///< of this request and what is kept
};

/// One line of the table: what a request did.
struct TaskRow {
  Probabilities probabilities;
  double fraction_trained = 1;  ///< of the weights, in the last step
  double lambda = 0;            ///< of the negation; 0 where there is none
  bool lambda_reduced = false;  ///< the guard asked for less
  double seconds = 0;
  double seconds_a_step = 0;               ///< mean after the second
  std::int64_t steps = 0;                  ///< taken
  bool negates = true;                     ///< so does the method; not in the file
  std::optional<bool> target_met = {};     ///< whether it forgot as much as was asked for
  std::vector<StrengthRow> sweep = {};     ///< the strengths that were looked at
  std::vector<std::string> warnings = {};  ///< of the library
};

/// How far each request has to be forgotten. Methods that negate take the smallest lambda that does
/// it; the others stop training where it is done.
struct Target {
  double bound = 0;  ///< answer probability of what a request asks to forget
  /// The same as the model has it; of all the request's samples unless given.
  std::function<double(std::int64_t task)> judge = {};
  double max_lambda = alkn::EndTarget().max_lambda;
  int iterations = alkn::EndTarget().iterations;  ///< lambda is found to max_lambda / 2^iterations
  bool each_step = false;  ///< the others ask after each step, not after each pass
};

/// What a run works with.
struct Run {
  Model& model;
  const EncodedData& data;
  const Settings& settings;
  const Strength& strength;
  std::string title;
  std::filesystem::path checkpoint;
  MetricsFile& metrics;
  double trained_loss;  ///< on what is shown, before the first request
  std::function<void(std::int64_t, const TaskRow&)> on_row;  ///< after each request
  std::int64_t identity = 0;  ///< of all that decides the result; a checkpoint must have the same

  std::function<void(const std::string&)> warn = {};  ///< what the library warns of, once each
  std::optional<Target> target = {};                  ///< none: the method's own strength
  std::vector<double> sweep = {};  ///< strengths to look at before one is taken, where it negates

  // What an experiment looks into; each may be empty.
  std::function<Probabilities(std::int64_t task)> measure = {};  ///< in place of `evaluate`
  std::function<void()> before_step = {};  ///< the gradients are there, the step is not taken
  std::function<void(const std::vector<alkn::TensorReport>&)> after_step = {};
  std::function<Probabilities(std::int64_t task)> look = {};  ///< in place of `evaluate_strength`
  /// Requests that are answered; where those are not all, the checkpoint stays for the rest.
  std::int64_t until = std::numeric_limits<std::int64_t>::max();
};

/// All rows of a run; nothing: it was interrupted, and a checkpoint is on the disk.
using Rows = std::optional<std::vector<TaskRow>>;

/// The line of metrics.jsonl for one step.
inline Json step_line(const alkn::StepReport& report, double loss,
                      std::optional<double> retain_loss, double lr) {
  Json line{{"kind", "step"}, {"task", report.task}, {"step", report.step}, {"loss", number(loss)}};
  if (retain_loss) {
    line["retain_loss"] = number(*retain_loss);
  }
  line["lr"] = lr;
  line["grad_norm"] = number(report.grad_norm);
  line["clip_scale"] = number(report.clip_scale);
  line["unmask_ratio"] = report.unmask_ratio;
  line["fraction_trained"] = report.fraction_trained;
  line["skipped"] = report.skipped;
  return line;
}

/// The thresholds of the tensors that have one, by name: what a step of the first request learned.
inline Json thresholds(const std::vector<alkn::TensorReport>& tensors) {
  Json all = Json::object();
  for (const alkn::TensorReport& tensor : tensors) {
    if (tensor.threshold) {
      all[tensor.name] = number(*tensor.threshold);
    }
  }
  return all;
}

/// The line for one request.
inline Json task_line(const alkn::TaskReport& report, const TaskRow& row) {
  Json tensors = Json::array();
  for (const alkn::TensorReport& tensor : report.tensors) {
    tensors.push_back(
        {{"name", tensor.name},
         {"size", tensor.size},
         {"fraction_trained", tensor.fraction_trained},
         {"overlap", tensor.overlap},
         {"threshold", tensor.threshold ? number(*tensor.threshold) : Json(nullptr)}});
  }
  Json line{{"kind", "task"},
            {"task", report.task},
            {"steps", report.steps},
            {"skipped_steps", report.skipped_steps},
            {"lambda", row.lambda},
            {"lambda_reduced", row.lambda_reduced},
            {"fraction_trained", row.fraction_trained},
            {"overlap", report.overlap},
            {"seconds", row.seconds},
            {"seconds_a_step", row.seconds_a_step}};
  line.update(to_json(row.probabilities));
  if (row.target_met) line["target_met"] = *row.target_met;
  if (!row.sweep.empty()) {
    line["sweep"] = Json::array();
    for (const StrengthRow& strength : row.sweep) {
      Json entry{{"lambda", strength.lambda}};
      entry.update(to_json(strength.probabilities));
      line["sweep"].push_back(std::move(entry));
    }
  }
  if (!row.warnings.empty()) line["warnings"] = row.warnings;
  line["tensors"] = std::move(tensors);
  return line;
}

/// The row that an earlier, interrupted run wrote. Throws std::runtime_error for another line.
inline TaskRow row_of(const MetricsFile::Line& line) {
  TaskRow row;
  row.probabilities = probabilities_from(line.value, line.where);
  row.fraction_trained = field<double>(line.value, "fraction_trained", line.where);
  row.lambda = field<double>(line.value, "lambda", line.where);
  row.lambda_reduced = field<bool>(line.value, "lambda_reduced", line.where);
  row.seconds = field<double>(line.value, "seconds", line.where);
  if (line.value.contains("seconds_a_step")) {
    row.seconds_a_step = field<double>(line.value, "seconds_a_step", line.where);
  }
  row.steps = field<std::int64_t>(line.value, "steps", line.where);
  if (line.value.contains("target_met")) {
    row.target_met = field<bool>(line.value, "target_met", line.where);
  }
  if (line.value.contains("sweep")) {
    for (const Json& entry : line.value["sweep"]) {
      row.sweep.push_back(
          {field<double>(entry, "lambda", line.where), probabilities_from(entry, line.where)});
    }
  }
  return row;
}

}  // namespace continual
