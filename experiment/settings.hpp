// What the experiment is asked to do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "continual/json.hpp"
#include "continual/settings.hpp"
#include "experiment/arms.hpp"
#include "experiment/attacks.hpp"
#include "experiment/measure.hpp"
#include "experiment/world.hpp"

namespace experiment {

struct Settings {
  WorldSettings world;
  continual::BaseSettings base;
  MeasureSettings measure;
  RelearnSettings relearn;
  std::vector<std::string> methods;  ///< names of arms
  std::vector<std::uint64_t> seeds{1, 2, 3};
  std::vector<double> levels{.5, .2, .05};
  std::int64_t runs = 6;  ///< of each method and seed, on its axis of strength
  std::int64_t epochs = 20;
  bool quick = false;
  int threads = 1;
  std::filesystem::path out = "experiment-run";
  std::optional<std::uint64_t> only_seed;  ///< of `seeds`, the one that this process runs
  bool collect = false;                    ///< writes results.json from what there is
  int jobs = 0;                            ///< seeds at once, each a process; 0: a core each
  std::string command;

  Settings() {
    for (const Arm& a : arms()) {
      methods.push_back(a.name);
    }
  }

  /// A trial: one seed, little data, few methods.
  void make_quick() {
    quick = true;
    world = {world.paths, 2, 1, 2, 1, 2, 2};
    base.epochs = 60;
    epochs = 10;
    base.vocabulary = 600;
    measure.resamples = 100;
    measure.samples = 2;
    measure.leakage_questions = 10;
    relearn.steps = {1, 2, 5, 10};
    methods = {"alkn-conflict", "alkn-random-mask", "task-vector", "npo+retain-20"};
    seeds = {1};
    runs = 3;
  }

  /// The levels in the order of the measurements, so that a run that is cut short has the middle
  /// one. One seed's runs nearest to it are looked at request by request.
  [[nodiscard]] std::vector<double> levels_in_order() const {
    std::vector<double> order(levels.rbegin(), levels.rend());
    std::rotate(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(order.size() / 2),
                order.end());
    return order;
  }
  [[nodiscard]] std::uint64_t inspected_seed() const { return seeds.front(); }
};

/// Everything that changes the numbers, for results.json.
inline continual::Json configuration(const Settings& s) {
  std::string paths, steps;
  for (const auto& path : s.world.paths) {
    paths += (paths.empty() ? "" : " ") + path.string();
  }
  for (const std::int64_t step : s.relearn.steps) {
    steps += (steps.empty() ? "" : ", ") + std::to_string(step);
  }
  return {{"data", paths.empty() ? "generated authors" : paths},
          {"requests", s.world.tasks},
          {"authors_per_request", s.world.authors_per_task},
          {"authors_shown", s.world.shown},
          {"authors_selection", s.world.selection},
          {"authors_unseen", s.world.unseen},
          {"authors_held_out", s.world.held_out},
          {"questions_per_author", continual::kPairsPerAuthor},
          {"base_epochs", s.base.epochs},
          {"base_batch", s.base.batch},
          {"base_lr", s.base.lr},
          {"vocabulary", s.base.vocabulary},
          {"epochs", s.epochs},
          {"runs_per_method_and_seed", s.runs},
          {"bootstrap_resamples", s.measure.resamples},
          {"sampled_answers", s.measure.samples},
          {"sampled_questions", s.measure.leakage_questions},
          {"relearning_lr", s.relearn.lr},
          {"relearning_batch", s.relearn.batch},
          {"relearning_steps", steps},
          {"threads", s.threads}};
}

}  // namespace experiment
