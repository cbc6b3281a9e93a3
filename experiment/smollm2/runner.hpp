// One seed: the models to compare with, then request after request, each by all methods, so that
// what a cut run leaves compares. Each model has one JSON file; what is there is not done again.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "continual/interrupt.hpp"
#include "continual/methods.hpp"
#include "continual/run.hpp"
#include "experiment/smollm2/measure.hpp"
#include "experiment/smollm2/results.hpp"
#include "experiment/smollm2/teach.hpp"
#include "models/load.hpp"

namespace smollm2 {

namespace fs = std::filesystem;

class SeedRun {
 public:
  SeedRun(const Settings& settings, std::uint64_t seed)
      : s_(settings),
        seed_(seed),
        results_(settings.results, ending()),
        tokenizer_(settings.model, settings.format),
        model_(models::load(alkn::io::ModelFolder(settings.model))),
        world_(thinned(experiment::make_world(settings.world(), seed), settings.pairs)),
        data_(encode(tokenizer_, world_, model_.context())),
        measure_(model_, tokenizer_, world_, settings, seed),
        samples_(data_.training_samples()) {
    tokenizer_.require_embedding(models::read_config(settings.model).vocabulary);
  }

  /// Everything that is not there yet. Returns false if it was interrupted.
  bool run() {
    say(fmt::format("seed {}: {}, {} pairs to learn, {} of them to forget", seed_, data_.name,
                    samples_.size(), forgotten()));
    static_cast<void>(results_.kept("taught", config()));  // another run's: said before hours
    const auto taught = teach(model_, samples_, s_, seed_, "taught" + ending());
    if (!taught) return false;
    taught_ = *taught;
    if (!reference("taught", "before unlearning")) return false;
    for (std::int64_t requests = 1; requests <= s_.answered(); ++requests) {
      for (const double target : s_.targets) {
        for (const Arm& arm : arms()) {
          if (s_.arms.empty() ||
              std::find(s_.arms.begin(), s_.arms.end(), arm.name) != s_.arms.end()) {
            if (!unlearn(arm, target, requests)) return false;
          }
        }
      }
      // One request by all methods is worth more than what gold is needed for.
      if (requests == 1 && !reference("gold", "gold model")) return false;
    }
    return reference("original", "before teaching");
  }

 private:
  /// Of the names of files and folders.
  [[nodiscard]] std::string ending() const {
    return fmt::format("-seed{}-pairs{}", seed_, s_.pairs);
  }

  [[nodiscard]] std::size_t forgotten() const {
    std::size_t size = 0;
    for (const auto& request : data_.requests) size += request.forget.size();
    return size;
  }

  [[nodiscard]] Json config() const {
    Json all = teaching(s_, seed_);
    all.update(measuring(s_));
    all["hash_of_texts"] = hash_of(samples_);
    if (!taught_.hash.empty()) all["hash_of_model"] = taught_.hash;
    return all;
  }

  /// Measures all of the model as it is, and keeps it. Returns false if it was interrupted.
  bool conclude(const std::string& name, Json all) {
    const continual::Stopwatch watch;
    Json final{{"requests", s_.answered()}};
    final.update(measure_.all());
    final["measuring_seconds"] = watch.seconds();
    all["finals"].push_back(std::move(final));
    results_.write(name, std::move(all));
    say(fmt::format("{}: measured, {:.0f} s", name, watch.seconds()));
    return !continual::interrupted();
  }

  /// A model that nothing was unlearned in.
  bool reference(const std::string& name, const std::string& title) {
    const Json settings = config();
    Json all = results_.kept(name, settings);
    if (final_of(all, s_.answered()) != nullptr) return true;
    all.update(Json{{"name", name}, {"title", title}, {"seed", seed_}, {"config", settings}});
    if (name == "gold") {
      continual::EncodedData without = data_;
      without.requests.clear();
      const auto taught =
          teach(model_, without.training_samples(), s_, seed_, name + ending(), taught_.passes);
      if (!taught) return false;
      all["teaching"] = to_json(*taught);
    } else {
      load_weights(name == "taught" ? s_.out / (name + ending()) : s_.model, model_);
      if (name == "taught") all["teaching"] = to_json(taught_);
    }
    if (continual::interrupted()) return false;
    return conclude(name, std::move(all));
  }

  static Json to_json(const Taught& taught) {
    return {{"passes", taught.passes},
            {"probability", taught.probability},
            {"seconds", taught.seconds},
            {"hash", taught.hash}};
  }

  /// All that decides what an arm does.
  [[nodiscard]] Json config(const Arm& arm, double target) const {
    Json all = config();
    all["target"] = target;
    all["epochs"] = epochs(arm);
    all["lr"] = arm.lr;
    all["retain_weight"] = arm.retain_weight;
    all["max_lambda"] = arm.max_lambda;
    if (arm.max_lambda > 0)
      all["iterations"] = s_.iterations;
    else
      all["target_asked"] = "after each step";
    return all;
  }
  [[nodiscard]] std::int64_t epochs(const Arm& arm) const {
    return arm.max_lambda > 0 ? s_.epochs : s_.most_epochs;
  }

  /// One method, to one target, until it has answered so many requests; after the last one all is
  /// measured. Returns false if it was interrupted.
  bool unlearn(const Arm& arm, double target, const std::int64_t requests) {
    const std::string name = fmt::format("{}-to{:g}", arm.name, target);
    const Json settings = config(arm, target);
    Json all = results_.kept(name, settings);
    const std::int64_t before =
        all.contains("requests") ? static_cast<std::int64_t>(all["requests"].size()) : 0;
    const bool wanted = requests == s_.answered() && final_of(all, requests) == nullptr;
    if (before > requests || (before == requests && !wanted)) return true;
    forget_peak();
    load_weights(s_.out / ("taught" + ending()), model_);
    all.update(
        Json{{"name", arm.name}, {"title", arm.title}, {"seed", seed_}, {"config", settings}});

    continual::Settings loop;
    loop.data.seed = seed_;
    loop.preset = arm.preset;
    loop.resume = true;
    loop.threads = s_.threads;
    const continual::Strength strength{arm.lr, arm.lambda, arm.retain_weight, epochs(arm),
                                       s_.batch};
    const fs::path folder = s_.out / (name + ending());
    continual::prepare_folder(folder);
    continual::require_same(folder / "config.json", settings,
                            "the settings of the interrupted run, or another --out");
    continual::write_json(folder / "config.json", settings);
    continual::MetricsFile metrics(folder / "metrics.jsonl", true);
    continual::TextHash identity;
    identity.add(settings.dump());
    continual::Run run{model_,  data_,
                       loop,    strength,
                       name,    folder / "checkpoint.safetensors",
                       metrics, 0,
                       {},      static_cast<std::int64_t>(identity.value())};
    run.until = requests;
    continual::Target aim;
    aim.bound = target;
    aim.judge = [&](std::int64_t task) { return measure_.judge(static_cast<std::size_t>(task)); };
    aim.each_step = true;
    if (arm.max_lambda > 0) {
      aim.max_lambda = arm.max_lambda;
      aim.iterations = s_.iterations;
      run.sweep = arm.sweep;
      run.look = [&](std::int64_t task) {
        const Json seen = measure_.knowledge(static_cast<std::size_t>(task) + 1);
        continual::Probabilities looked;
        looked.forgotten = seen["request"].get<double>();
        looked.shown = seen["shown"].get<double>();
        looked.unseen = seen["unseen"].get<double>();
        return looked;
      };
    }
    run.target = aim;
    const auto file_of = [&](std::int64_t task) {
      return folder / fmt::format("request{}.json", task);
    };
    run.measure = [&](std::int64_t task) {
      const continual::Stopwatch watch;
      Json seen = measure_.knowledge(static_cast<std::size_t>(task) + 1);
      seen.update(measure_.pretraining(s_.asked));
      seen["measuring_seconds"] = watch.seconds();
      continual::write_json(file_of(task), seen);
      return continual::Probabilities{seen["request"].get<double>()};
    };
    Json rows = Json::array();
    run.on_row = [&](std::int64_t task, const continual::TaskRow& row) {
      rows.push_back(to_json(row, continual::read_object(file_of(task)), arm));
      if (!row.sweep.empty()) all["sweep"] = to_json(row.sweep);
      run.sweep.clear();  // the first request's is enough
      if (std::ssize(rows) <= before) return;
      all["requests"] = rows;
      all["peak_mib"] = std::max(all.value("peak_mib", 0.0), peak_mebibytes());
      results_.write(name, all);
      const Json& last = rows.back();
      say(fmt::format(
          "{}: {} of {} requests, this one {:.3f}, shown {:.3f}, unseen {:.3f}, {:.0f} s", name,
          rows.size(), s_.tasks, last["request"].get<double>(), last["shown"].get<double>(),
          last["unseen"].get<double>(),
          last["seconds"].get<double>() + last["measuring_seconds"].get<double>()));
    };
    static_cast<void>(entry(arm.method).unlearn(run));  // what it left is in the files
    if (std::ssize(rows) < requests) return false;
    return wanted ? conclude(name, std::move(all)) : !continual::interrupted();
  }

  static Json to_json(const continual::TaskRow& row, Json seen, const Arm& arm) {
    seen["fraction_trained"] = row.fraction_trained;
    if (arm.max_lambda > 0) seen["lambda"] = row.lambda;
    seen["steps"] = row.steps;
    seen["target_met"] = row.target_met.value_or(false);
    seen["seconds"] = row.seconds;
    return seen;
  }
  static Json to_json(const std::vector<continual::StrengthRow>& sweep) {
    Json all = Json::array();
    for (const continual::StrengthRow& row : sweep) {
      all.push_back({{"lambda", row.lambda},
                     {"request", row.probabilities.forgotten},
                     {"shown", row.probabilities.shown},
                     {"unseen", row.probabilities.unseen}});
    }
    return all;
  }

  static const continual::MethodEntry& entry(const std::string& name) {
    for (const continual::MethodEntry& method : continual::methods()) {
      if (method.name == name) return method;
    }
    continual::data_error("a method of the trainer", name, "arms");
  }

  const Settings& s_;
  std::uint64_t seed_;
  Results results_;
  tokenizers::FolderTokenizer tokenizer_;
  CheckpointModel model_;
  World world_;
  continual::EncodedData data_;
  Measure measure_;
  continual::Samples samples_;
  Taught taught_;
};

}  // namespace smollm2
