// Teaching a checkpoint what it is to forget, once: the result stays in a folder.
#pragma once

#include <fmt/format.h>
#include <alkn/io/load_model.hpp>
#include <alkn/io/model_folder.hpp>
#include <alkn/io/save_model.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "continual/base_model.hpp"
#include "continual/evaluate.hpp"
#include "continual/progress.hpp"
#include "continual/run_folder.hpp"
#include "experiment/smollm2/checkpoint_model.hpp"
#include "experiment/smollm2/settings.hpp"
#include "experiment/smollm2/subject.hpp"

namespace smollm2 {

inline void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

inline void load_weights(const std::filesystem::path& folder, continual::Model& model) {
  alkn::io::load_model(alkn::io::ModelFolder(folder), model.named_parameters(),
                       [](std::string_view) { return true; });
}

/// What was taught: how long, and what it left.
struct Taught {
  std::int64_t passes = 0;
  double probability = 0, seconds = 0;
  std::string hash;  ///< of the weights
};

/// Teaches `samples` to the checkpoint in `model`, or reads what an earlier teaching of the same
/// left under `name` in the output folder. Stops at the probability, or, where `passes` is above 0,
/// after so many. Returns nothing if it was interrupted.
inline std::optional<Taught> teach(continual::Model& model, const continual::Samples& samples,
                                   const Settings& s, std::uint64_t seed, const std::string& name,
                                   std::int64_t passes = 0) {
  const std::filesystem::path folder = s.out / name, record = s.out / (name + ".json");
  Json key = teaching(s, seed);
  key["samples"] = hash_of(samples);
  key["passes"] = passes;
  if (std::filesystem::exists(record) && std::filesystem::exists(folder)) {
    const Json saved = continual::read_object(record);
    if (saved.value("key", Json()) == key) {
      load_weights(folder, model);
      const Taught taught{continual::field<std::int64_t>(saved, "passes", record.string()),
                          continual::field<double>(saved, "probability", record.string()),
                          continual::field<double>(saved, "seconds", record.string()),
                          continual::field<std::string>(saved, "hash", record.string())};
      if (const std::string hash = hash_of(model); hash != taught.hash) {
        continual::data_error("weights with the hash " + taught.hash, hash, folder.string());
      }
      return taught;
    }
  }
  std::filesystem::remove(record);
  load_weights(s.model, model);
  continual::Settings training;
  training.base.epochs = s.teach_passes;
  training.base.lr = s.teach_lr;
  training.base.batch = s.teach_batch;
  training.data.seed = seed;
  training.resume = true;
  constexpr std::int64_t kAsked = 80;
  const continual::Samples some = spread(samples, kAsked);
  Taught taught;
  const continual::Stopwatch watch;
  const auto enough = [&](std::int64_t pass) {
    taught.passes = pass;
    taught.probability = continual::answer_probability(model, some);
    say(fmt::format("{}: pass {}, answer probability {:.3f}, {:.0f} s", name, pass,
                    taught.probability, watch.seconds()));
    return passes > 0 ? pass >= passes : taught.probability >= s.teach_until;
  };
  const std::int64_t steps = s.teach_passes * continual::num_batches(samples, s.teach_batch);
  if (!continual::memorise(model, samples, training, steps, s.out / (name + ".checkpoint"),
                           enough)) {
    return std::nullopt;
  }
  taught.seconds = watch.seconds();
  taught.hash = hash_of(model);
  alkn::io::save_model(folder, alkn::io::ModelFolder(s.model), model.named_parameters());
  continual::write_json(record, {{"key", key},
                                 {"passes", taught.passes},
                                 {"probability", taught.probability},
                                 {"seconds", taught.seconds},
                                 {"hash", taught.hash}});
  return taught;
}

}  // namespace smollm2
