// What a run is asked to do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "continual/data.hpp"
#include "continual/json.hpp"
#include "continual/team.hpp"

namespace continual {

/// How a method goes about one request.
struct Strength {
  double lr = 1e-3;
  double lambda = 1;         ///< of methods that negate
  double retain_weight = 0;  ///< of the retain loss that is added; 0: none
  std::int64_t epochs = 5;
  std::int64_t batch = 32;  ///< samples, on each process
};

/// How the model learns, before anything is forgotten.
struct BaseSettings {
  std::int64_t epochs = 40;
  std::int64_t batch = 32;  ///< samples, on each process
  std::int64_t vocabulary = 2000;
  double lr = 2e-3;
};

/// A checkpoint in place of the small model.
struct PretrainedSettings {
  std::filesystem::path folder;       ///< Hugging Face's; empty: the small model
  std::int64_t teach = 0;             ///< passes over the data before anything is forgotten
  std::optional<double> teach_until;  ///< answer probability that is enough
  std::optional<double> teach_lr;
  double save_every = 300;  ///< seconds from one checkpoint of the teaching to the next
  std::string train;        ///< regular expression of the parameters that change; empty: all
  std::optional<std::string> format;  ///< of question and answer; none: the chat template
  std::string dtype = "float32";
  bool recompute = false;  ///< blocks run again in the backward pass
  bool dry_run = false;    ///< stop at the memory plan
};

/// The command line. An option that is not given keeps the method's, or the preset's, own value.
struct Settings {
  DataSettings data;
  BaseSettings base;
  PretrainedSettings pretrained;
  std::string method = "all";
  std::string preset = "conflict";
  std::optional<double> lr, lambda, retain_weight;
  std::optional<std::int64_t> epochs, batch;
  std::int64_t micro_batch = 0;        ///< samples of a batch at once; 0: all
  std::optional<double> guard;         ///< how far the retain loss may rise, in nats a token
  std::optional<double> forget_until;  ///< answer probability to which each request has to fall
  std::vector<double> sweep;           ///< strengths to look at before one is taken
  std::filesystem::path out = "continual-run";
  std::filesystem::path cache;       ///< of trained models; empty: `out`
  std::filesystem::path checkpoint;  ///< empty: in `out`
  bool resume = false;
  int threads = 0;    ///< 0: as many as LibTorch takes
  int processes = 0;  ///< that share the work; 0: as many as a launcher has started, or one
  Team team;          ///< these, once they have met

  [[nodiscard]] Strength over(Strength strength) const {
    strength.lr = lr.value_or(strength.lr);
    strength.lambda = lambda.value_or(strength.lambda);
    strength.retain_weight = retain_weight.value_or(strength.retain_weight);
    strength.epochs = epochs.value_or(strength.epochs);
    strength.batch = batch.value_or(strength.batch);
    return strength;
  }
};

/// All that changes the numbers of a run, to be stored beside them.
inline Json to_json(const Settings& settings, const std::string& method, const Strength& strength,
                    int threads) {
  Json paths = Json::array();
  for (const auto& path : settings.data.paths) {
    paths.push_back(path.string());
  }
  Json retain = Json::array();
  for (const auto& path : settings.data.retain) {
    retain.push_back(path.string());
  }
  Json json{{"method", method},
            {"preset", settings.preset},
            {"data", paths},
            {"retain", retain},
            {"tasks", settings.data.tasks ? Json(*settings.data.tasks) : nullptr},
            {"authors_per_task", settings.data.authors_per_task},
            {"retain_authors", settings.data.retain_authors},
            {"seed", settings.data.seed},
            {"threads", threads},
            {"lr", strength.lr},
            {"lambda", strength.lambda},
            {"retain_weight", strength.retain_weight},
            {"epochs", strength.epochs},
            {"batch", strength.batch},
            {"base_epochs", settings.base.epochs},
            {"base_batch", settings.base.batch},
            {"base_lr", settings.base.lr},
            {"vocabulary", settings.base.vocabulary}};
  json["guard"] = settings.guard ? Json(*settings.guard) : nullptr;
  if (settings.team.size() > 1) json["processes"] = settings.team.size();
  if (settings.micro_batch > 0) json["micro_batch"] = settings.micro_batch;
  if (settings.forget_until) json["forget_until"] = *settings.forget_until;
  if (const PretrainedSettings& p = settings.pretrained; !p.folder.empty()) {
    json["model"] = {{"folder", p.folder.string()},
                     {"teach", p.teach},
                     {"teach_until", p.teach_until ? Json(*p.teach_until) : nullptr},
                     {"train", p.train},
                     {"format", p.format ? Json(*p.format) : nullptr},
                     {"dtype", p.dtype}};
  }
  return json;
}

}  // namespace continual
