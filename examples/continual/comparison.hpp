// Methods from one trained model, one after another, in one table.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <alkn/io/file_lock.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "continual/evaluate.hpp"
#include "continual/methods.hpp"
#include "continual/model.hpp"
#include "continual/readers.hpp"
#include "continual/run.hpp"
#include "continual/run_folder.hpp"
#include "continual/settings.hpp"
#include "continual/tables.hpp"

namespace continual {

inline constexpr const char* kAlone = "a folder that no other process writes to";

/// All that decides the result, but for the trained model.
inline Json config_of(const Settings& settings, const MethodEntry& method,
                      const std::string& texts) {
  Json config =
      to_json(settings, method.name, strength_of(method, settings), at::get_num_threads());
  config["hash_of_texts"] = texts;
  return config;
}

/// A resumed run must be the run that was interrupted.
inline void check_config(const std::filesystem::path& path, const Json& config, bool resume) {
  if (resume) require_same(path, config, "--resume with the settings of the interrupted run");
  write_json(path, config);
}

/// Where a method's results go.
inline std::filesystem::path folder_of(const Settings& settings, const MethodEntry& method) {
  return settings.method == "all" ? settings.out / method.name : settings.out;
}

/// The same before the model is trained, as far as it can be told.
inline void check_before_training(const Settings& settings, const std::string& texts) {
  for (const MethodEntry& method : methods()) {
    const auto path = folder_of(settings, method) / "config.json";
    const bool asked = settings.method == "all" || settings.method == method.name;
    if (!settings.resume || !asked || !std::filesystem::exists(path)) continue;
    Json config = config_of(settings, method, texts);
    config["hash_of_model"] = read_object(path).value("hash_of_model", Json());
    require_same(path, config, "--resume with the settings of the interrupted run");
  }
}

/// What the methods start from, and what goes into a method's folder beside the results.
struct Subject {
  Model& model;
  const EncodedData& data;
  std::string texts;  ///< a number for all texts of the data
  std::function<void(const std::filesystem::path& folder)> prepare;  ///< before a method runs
  std::function<void(const std::filesystem::path& folder)> save;     ///< the model, after it
  std::filesystem::path saved;  ///< in the folder: what `save` writes
};

/// Runs methods from one trained model.
class Comparison {
 public:
  Comparison(const Settings& settings, Subject subject)
      : settings_(settings),
        subject_(std::move(subject)),
        team_(settings.team),
        before_(evaluate_all(subject_.model, subject_.data, team_)),
        trained_loss_(mean_loss(subject_.model, subject_.data.shown, team_)) {
    TextHash hash;
    for (const auto& [name, parameter] : trainable(subject_.model)) {
      const at::Tensor weights = parameter.detach().contiguous();
      hash.add({static_cast<const char*>(weights.const_data_ptr()),
                static_cast<std::size_t>(weights.nbytes())});
      if (settings.method == "all") weights_.push_back(weights.clone());  // else never restored
    }
    model_hash_ = hash.text();
  }

  /// Returns false if it was interrupted.
  bool run(const MethodEntry& method, const std::filesystem::path& folder, bool details) {
    const at::AutoGradMode with_grad(true);
    restore_weights();
    const Strength strength = strength_of(method, settings_);
    const Json config = full_config(method);
    std::optional<alkn::io::FileLock> lock;
    team_.once([&] {
      prepare_folder(folder);
      if (folder != settings_.out) lock_path(lock, folder / "run", kAlone);
      check_config(folder / "config.json", config, settings_.resume);
      std::filesystem::remove(folder / "summary.json");      // of an earlier run: this one has yet
      std::filesystem::remove_all(folder / subject_.saved);  // to finish
      if (subject_.prepare) subject_.prepare(folder);
    });
    MetricsFile metrics(folder / "metrics.jsonl", settings_.resume, team_.first());
    MethodRow result{method.title, {}, 0, 0, 0};
    Run run{subject_.model,
            subject_.data,
            settings_,
            strength,
            method.title,
            checkpoint_in(folder),
            metrics,
            trained_loss_,
            [&](std::int64_t task, const TaskRow& row) {
              const auto requests = static_cast<double>(subject_.data.requests.size());
              result.seconds += row.seconds;
              result.seconds_a_step += row.seconds_a_step / requests;
              result.fraction_trained += row.fraction_trained / requests;
              reduced_ = reduced_ || row.lambda_reduced;
              if (details) {
                print_request(task, subject_.data.requests[static_cast<std::size_t>(task)].name,
                              row);
                print_sweep(row);
              }
            },
            identity_of(config),
            [&](const std::string& warning) {
              if (!team_.first()) return;
              fmt::print(stderr, "continual: warning: {}: {}\n", method.title, warning);
            }};
    if (settings_.forget_until) {
      run.target = Target{*settings_.forget_until};
      run.target->max_lambda = settings_.lambda.value_or(run.target->max_lambda);
    }
    run.sweep = settings_.sweep;
    if (details) {
      fmt::print("\n{}: lr {:g}, {} epochs, batch {}\n", method.title, strength.lr, strength.epochs,
                 strength.batch);
      print_request_header(before_);
    }
    if (!method.unlearn(run)) {
      fmt::print("\ninterrupted; the same command with --resume goes on from {}\n",
                 run.checkpoint.string());
      return false;
    }
    result.probabilities = evaluate_all(subject_.model, subject_.data, team_);
    if (details) fmt::print("{:.2f} s a step\n", result.seconds_a_step);
    team_.once([&] {
      subject_.save(folder);
      write_json(folder / "summary.json", summary(result));
    });
    rows_.push_back(result);
    return true;
  }

  /// A method that an interrupted comparison had finished, from its summary.json.
  bool reuse(const MethodEntry& method, const std::filesystem::path& folder) {
    if (!settings_.resume || !team_.first_finds(std::filesystem::exists(folder / "summary.json"))) {
      return false;
    }
    team_.once([&] { check_config(folder / "config.json", full_config(method), true); });
    const auto path = folder / "summary.json";
    const Json saved = read_object(path);
    rows_.push_back({method.title,
                     probabilities_from(field<Json>(saved, "after", path.string()), path.string()),
                     field<double>(saved, "fraction_trained", path.string()),
                     field<double>(saved, "seconds", path.string()),
                     saved.value("seconds_a_step", 0.0)});
    return true;
  }

  void print() const {
    fmt::print("\n");
    print_comparison(before_, rows_);
    if (reduced_) {
      fmt::print("* lambda was reduced to keep the loss on what is shown within the guard\n");
    }
  }

  [[nodiscard]] Json summaries() const {
    Json all = Json::array();
    for (const MethodRow& row : rows_) {
      all.push_back(summary(row));
    }
    return all;
  }

 private:
  /// All that decides the result.
  [[nodiscard]] Json full_config(const MethodEntry& method) const {
    Json config = config_of(settings_, method, subject_.texts);
    config["hash_of_model"] = model_hash_;
    return config;
  }

  static std::int64_t identity_of(const Json& config) {
    TextHash hash;
    hash.add(config.dump());
    return static_cast<std::int64_t>(hash.value());
  }

  void restore_weights() {
    const at::NoGradGuard no_grad;
    const auto parameters = trainable(subject_.model);
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      parameters[i].second.copy_(weights_[i]);
    }
  }

  [[nodiscard]] std::filesystem::path checkpoint_in(const std::filesystem::path& folder) const {
    if (!settings_.checkpoint.empty()) return settings_.checkpoint;
    return folder / (team_.size() == 1 ? "checkpoint.safetensors" : "checkpoint");
  }

  [[nodiscard]] Json summary(const MethodRow& row) const {
    return {{"method", row.title},
            {"data", subject_.data.name},
            {"before", to_json(before_)},
            {"after", to_json(row.probabilities)},
            {"fraction_trained", row.fraction_trained},
            {"seconds", row.seconds},
            {"seconds_a_step", row.seconds_a_step}};
  }

  const Settings& settings_;
  Subject subject_;
  const Team& team_;
  std::string model_hash_;
  Probabilities before_;
  double trained_loss_;
  std::vector<at::Tensor> weights_;
  std::vector<MethodRow> rows_;
  bool reduced_ = false;
};

/// Runs the method that the settings name, or all of them, and prints what is left.
/// Returns false if it was interrupted.
inline bool compare(const Settings& settings, Subject subject) {
  const bool all = settings.method == "all";
  Comparison comparison(settings, std::move(subject));
  for (const MethodEntry& method : methods()) {
    if (!all && settings.method != method.name) {
      continue;
    }
    const auto folder = folder_of(settings, method);
    const bool details = !all || method.name == methods().front().name;
    if (!(all && comparison.reuse(method, folder)) && !comparison.run(method, folder, details)) {
      return false;
    }
  }
  comparison.print();
  if (all) {
    settings.team.once([&] { write_json(settings.out / "summary.json", comparison.summaries()); });
  }
  return true;
}

}  // namespace continual
