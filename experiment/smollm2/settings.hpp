// What the experiment on a real model is asked to do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "continual/json.hpp"
#include "continual/settings.hpp"
#include "experiment/world.hpp"

namespace smollm2 {

using continual::Json;

struct Settings {
  std::filesystem::path model = "models/smollm2-135m";
  std::filesystem::path data;  ///< TOFU's folder; empty: authors are made up
  std::filesystem::path out = "build/experiment-smollm2";
  std::filesystem::path results;  ///< empty: in `out`
  std::string format = "Question: {question}\\nAnswer: {answer}";
  std::int64_t tasks = 5, authors_per_task = 4, shown = 6, unseen = 14;
  std::int64_t pairs = 10;  ///< of each author's twenty
  std::int64_t teach_passes = 6, teach_batch = 16;
  double teach_until = 0.8;  ///< answer probability
  double teach_lr = 3e-4;
  std::int64_t epochs = 2, batch = 8;  ///< of one request
  std::int64_t most_epochs = 6;        ///< of methods that train until the target is met
  std::vector<double> targets{0.4};    ///< answer probability that a request is to fall to
  int iterations = 8;  ///< of the search for that: lambda is found to its largest / 2^iterations
  std::vector<std::uint64_t> seeds{1};
  std::vector<std::string> arms;  ///< names; empty: all
  std::int64_t requests = 0;      ///< of the tasks, that each method answers; 0: all
  std::int64_t judged = 16;       ///< pairs that say whether the target is met
  std::int64_t asked = 20;        ///< questions of each set that are measured
  std::int64_t told = 40;         ///< forgotten questions whose truth ratio is measured
  std::int64_t generated = 12;    ///< questions of each set that are answered freely
  std::int64_t new_tokens = 56;   ///< of such an answer at most
  std::int64_t relearn_steps = 10, relearn_warmup = 5, relearn_batch = 8;
  double relearn_lr = 1.5e-4;  ///< teaching's for half of its batch, up and down as there
  int threads = 2;

  /// Requests that are answered before all is measured.
  [[nodiscard]] std::int64_t answered() const {
    return requests > 0 ? std::min(requests, tasks) : tasks;
  }

  [[nodiscard]] experiment::WorldSettings world() const {
    experiment::WorldSettings world;
    if (!data.empty()) world.paths = {data};
    world.tasks = tasks;
    world.authors_per_task = authors_per_task;
    world.shown = shown;
    world.selection = 0;
    world.unseen = unseen;
    world.held_out = 0;
    return world;
  }
};

/// All that decides what a model is taught, beside its weights and the texts.
inline Json teaching(const Settings& s, std::uint64_t seed) {
  return {{"seed", seed},
          {"tasks", s.tasks},
          {"authors_per_task", s.authors_per_task},
          {"authors_kept", s.shown + s.unseen},
          {"pairs_per_author", s.pairs},
          {"format", s.format},
          {"teach_passes", s.teach_passes},
          {"teach_until", s.teach_until},
          {"teach_lr", s.teach_lr},
          {"teach_batch", s.teach_batch},
          {"threads", s.threads}};
}

/// All that decides the numbers of an arm beside that and the arm's own strength.
inline Json measuring(const Settings& s) {
  return {{"authors_shown", s.shown},
          {"batch", s.batch},
          {"judged", s.judged},
          {"asked", s.asked},
          {"told", s.told},
          {"generated", s.generated},
          {"new_tokens", s.new_tokens},
          {"relearn_steps", s.relearn_steps},
          {"relearn_warmup", s.relearn_warmup},
          {"relearn_batch", s.relearn_batch},
          {"relearn_lr", s.relearn_lr}};
}

/// A method with its strength; the batch is that of the settings.
struct Arm {
  std::string name, title;
  std::string method, preset;  ///< of the trainer's table
  double lr = 0, lambda = 0, retain_weight = 0;
  double max_lambda = 0;  ///< of the search for the target; 0: the method trains until it is met
  std::vector<double> sweep{};  ///< lambdas that the first request is looked at with
};

/// In the order of their worth: a run that is cut short has the first ones. Conflict trains fewer
/// weights from request to request (.62, .17, .09), which takes a larger lambda each time.
inline const std::vector<Arm>& arms() {
  static const std::vector<Arm> all{
      {"conflict", "ALKN, conflict", "alkn", "conflict", 3e-5, 4, 0, 96, {3, 6, 12}},
      {"npo+retain", "NPO + retain, weight 20", "npo+retain", "", 1e-4, 0, 20, 0},
      {"paper", "ALKN, paper", "alkn", "paper", 1e-4, 1.5, 0, 6, {1.5, 3, 6}},
      {"task-vector", "task vector", "task-vector", "", 3e-5, 1, 0, 6, {1.5, 3, 6}},
      {"reference", "ALKN, reference", "alkn", "reference", 3e-5, 4, 0, 12, {3, 6, 12}},
      {"gradient-ascent+retain", "gradient ascent + retain, weight 5", "gradient-ascent+retain", "",
       5e-5, 0, 5, 0}};
  return all;
}

}  // namespace smollm2
