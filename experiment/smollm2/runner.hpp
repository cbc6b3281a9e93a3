// One seed: the models to compare with, then method after method from the taught one. Each leaves
// one JSON file, which grows with its requests; what is there is not done again.
#pragma once

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "continual/interrupt.hpp"
#include "continual/memory_plan.hpp"
#include "continual/methods.hpp"
#include "continual/run.hpp"
#include "experiment/smollm2/measure.hpp"
#include "experiment/smollm2/teach.hpp"
#include "models/load.hpp"

namespace smollm2 {

namespace fs = std::filesystem;

class SeedRun {
 public:
  SeedRun(const Settings& settings, std::uint64_t seed)
      : s_(settings),
        seed_(seed),
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
    finished(result("taught"), config());  // another run's: said before hours are spent
    const auto taught = teach(model_, samples_, s_, seed_, base("taught"));
    if (!taught) return false;
    taught_ = *taught;
    if (!reference("taught", "before unlearning")) return false;
    bool gold = false;
    for (const double target : s_.targets) {
      std::size_t done = 0;
      for (const Arm& arm : arms()) {
        if (!s_.arms.empty() &&
            std::find(s_.arms.begin(), s_.arms.end(), arm.name) == s_.arms.end())
          continue;
        constexpr std::size_t kBeforeGold = 2;  // what a short run is wanted for
        if (done++ == kBeforeGold && s_.requests == 0 && !std::exchange(gold, true)) {
          if (!reference("gold", "gold model")) return false;
        }
        if (!unlearn(arm, target)) return false;
      }
    }
    if (s_.requests > 0) return true;  // the other models are for whole results
    if (!gold && !reference("gold", "gold model")) return false;
    return reference("original", "before teaching");
  }

 private:
  [[nodiscard]] std::string base(const std::string& name) const {
    return fmt::format("{}-seed{}-pairs{}", name, seed_, s_.pairs);
  }
  [[nodiscard]] fs::path result(const std::string& name) const {
    return s_.results / (base(name) + ".json");
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

  /// Whether the file is there and whole; another run's would make a table of things that do not
  /// compare.
  static bool finished(const fs::path& path, const Json& config) {
    if (!fs::exists(path)) return false;
    const Json kept = continual::read_object(path);
    const auto before = continual::field<Json>(kept, "config", path.string());
    for (const auto& [key, value] : config.items()) {
      if (before.value(key, Json()) != value) {
        continual::data_error("results of the same settings, " + key + " " +
                                  alkn::io::shown(before.value(key, Json())) +
                                  ", or another --results",
                              alkn::io::shown(value), path.string());
      }
    }
    return kept.contains("final");
  }

  static void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }
  static double peak_mebibytes() {
    return continual::detail::proc_bytes("/proc/self/status", "VmHWM:") / (1024.0 * 1024.0);
  }
  /// The machine's load in the last minute: seconds mean little where others compute.
  static double load() {
    double average = 0;
    return ::getloadavg(&average, 1) == 1 ? average : 0;
  }

  /// What it ran on.
  static std::string machine() {
    std::ifstream stream("/proc/cpuinfo");
    for (std::string line; std::getline(stream, line);) {
      const std::size_t colon = line.find(": ");
      if (line.starts_with("model name") && colon != std::string::npos) {
        return fmt::format("{}, {} cores", line.substr(colon + 2),
                           std::thread::hardware_concurrency());
      }
    }
    return fmt::format("{} cores", std::thread::hardware_concurrency());
  }

  /// A model that nothing was unlearned in.
  bool reference(const std::string& name, const std::string& title) {
    const fs::path path = result(name);
    const Json settings = config();
    if (finished(path, settings)) return true;
    forget_peak();
    Json all{{"name", name}, {"title", title}, {"seed", seed_}, {"config", settings}};
    if (name == "gold") {
      continual::EncodedData without = data_;
      without.requests.clear();
      const auto taught =
          teach(model_, without.training_samples(), s_, seed_, base(name), taught_.passes);
      if (!taught) return false;
      all["teaching"] = to_json(*taught);
    } else {
      load_weights(name == "taught" ? s_.out / base(name) : s_.model, model_);
      if (name == "taught") all["teaching"] = to_json(taught_);
    }
    if (continual::interrupted()) return false;
    const continual::Stopwatch watch;
    all["final"] = measure_.all();
    all["measuring_seconds"] = watch.seconds();
    all["peak_mib"] = peak_mebibytes();
    all["load"] = load();
    all["machine"] = machine();
    write(path, all);
    return !continual::interrupted();
  }

  static Json to_json(const Taught& taught) {
    return {{"passes", taught.passes},
            {"probability", taught.probability},
            {"seconds", taught.seconds},
            {"hash", taught.hash}};
  }

  /// One method, request after request, to one target.
  bool unlearn(const Arm& arm, double target) {
    const std::string name = fmt::format("{}-to{:g}", arm.name, target);
    const fs::path path = result(name);
    Json settings = config();
    settings["target"] = target;
    settings["lr"] = arm.lr;
    settings["retain_weight"] = arm.retain_weight;
    settings["max_lambda"] = arm.max_lambda;
    if (finished(path, settings)) return true;
    forget_peak();
    load_weights(s_.out / base("taught"), model_);

    continual::Settings loop;
    loop.data.seed = seed_;
    loop.preset = arm.preset;
    loop.resume = true;
    loop.threads = s_.threads;
    const continual::Strength strength{arm.lr, arm.lambda, arm.retain_weight, s_.epochs, s_.batch};
    const fs::path folder = s_.out / base(name);
    continual::prepare_folder(folder);
    continual::require_same(folder / "config.json", settings,
                            "the settings of the interrupted run, or another --out");
    continual::write_json(folder / "config.json", settings);
    continual::MetricsFile metrics(folder / "metrics.jsonl", true);
    continual::TextHash identity;
    identity.add(settings.dump());
    const std::size_t requests = data_.requests.size();
    std::size_t current = 0;  // the request that the judges are asked about
    std::vector<continual::TaskRow> rows(requests);
    // What there is after the first `done` requests.
    const auto keep = [&](std::size_t done) {
      Json all{{"name", arm.name}, {"title", arm.title}, {"seed", seed_}, {"config", settings}};
      all["requests"] = Json::array();
      double seconds = 0, measuring = 0;
      for (std::size_t t = 0; t < done; ++t) {
        Json seen = continual::read_object(folder / fmt::format("request{}.json", t));
        measuring += seen["measuring_seconds"].get<double>();
        seconds += rows[t].seconds;
        seen["fraction_trained"] = rows[t].fraction_trained;
        if (arm.max_lambda > 0) seen["lambda"] = rows[t].lambda;
        seen["seconds"] = rows[t].seconds;
        if (t + 1 == requests) all["final"] = seen["final"];
        for (const char* key : {"final", "measuring_seconds"}) seen.erase(key);
        all["requests"].push_back(std::move(seen));
      }
      if (arm.max_lambda > 0) {
        all["sweep"] = continual::read_object(folder / "sweep.json")["sweep"];
      }
      all["seconds"] = seconds;
      all["measuring_seconds"] = measuring;
      all["peak_mib"] = peak_mebibytes();
      all["load"] = load();
      all["machine"] = machine();
      write(path, all);
      const Json& last = all["requests"].back();
      say(fmt::format(
          "{}: {} of {} requests, this one {:.3f}, shown {:.3f}, unseen {:.3f}, {:.0f} s", name,
          done, requests, last["request"].get<double>(), last["shown"].get<double>(),
          last["unseen"].get<double>(), seconds + measuring));
    };
    continual::Run run{model_,
                       data_,
                       loop,
                       strength,
                       name,
                       folder / "checkpoint.safetensors",
                       metrics,
                       0,
                       [&](std::int64_t task, const continual::TaskRow& row) {
                         rows[static_cast<std::size_t>(task)] = row;
                         current = static_cast<std::size_t>(task) + 1;
                         keep(current);
                       },
                       static_cast<std::int64_t>(identity.value())};
    if (s_.requests > 0) run.until = s_.requests;
    run.measure = [&](std::int64_t task) {
      const continual::Stopwatch watch;
      const auto t = static_cast<std::size_t>(task);
      Json seen = measure_.knowledge(t + 1);
      seen.update(measure_.pretraining(s_.asked));
      if (t + 1 == requests) seen["final"] = measure_.all();
      seen["measuring_seconds"] = watch.seconds();
      continual::write_json(folder / fmt::format("request{}.json", t), seen);
      return continual::Probabilities{seen["request"].get<double>()};
    };
    if (arm.max_lambda > 0) {
      alkn::EndTarget end;
      end.forget = [&] { return measure_.judge(current); };
      end.forget_bound = target;
      end.max_lambda = arm.max_lambda;
      constexpr int kCandidates = 6;
      end.iterations = kCandidates;
      run.target = end;
      run.sweep = {arm.max_lambda / 4, arm.max_lambda / 2, arm.max_lambda};
      run.look = [&](double lambda) {
        const fs::path file = folder / "sweep.json";
        Json all = lambda == run.sweep.front() ? Json{{"sweep", Json::array()}}
                                               : continual::read_object(file);
        Json seen{{"lambda", lambda}};
        seen.update(measure_.knowledge(1));
        all["sweep"].push_back(std::move(seen));
        continual::write_json(file, all);
      };
    } else {
      run.enough = [&] { return measure_.judge(current) <= target; };
    }
    static_cast<void>(entry(arm.method).unlearn(run));  // what it left is in the files
    return !continual::interrupted();
  }

  static const continual::MethodEntry& entry(const std::string& name) {
    for (const continual::MethodEntry& method : continual::methods()) {
      if (method.name == name) return method;
    }
    continual::data_error("a method of the trainer", name, "arms");
  }

  /// The file, then the forget quality of all that have none yet, if the gold model is there.
  void write(const fs::path& path, const Json& all) const {
    continual::write_json(path, all);
    if (!fs::exists(result("gold"))) return;
    const auto gold =
        continual::read_object(result("gold"))["final"]["truth_ratios"].get<std::vector<double>>();
    const std::string ending = base("");
    for (const auto& item : fs::directory_iterator(s_.results)) {
      const std::string file = item.path().filename().string();
      if (!file.ends_with(ending + ".json")) continue;
      Json one = continual::read_object(item.path());
      if (!one.contains("final") || one["final"].contains("forget_quality")) continue;
      Json& final = one["final"];
      final["forget_quality"] =
          Measure::forget_quality(final["truth_ratios"].get<std::vector<double>>(), gold);
      continual::write_json(item.path(), one);
    }
  }

  const Settings& s_;
  std::uint64_t seed_;
  tokenizers::FolderTokenizer tokenizer_;
  CheckpointModel model_;
  World world_;
  continual::EncodedData data_;
  Measure measure_;
  continual::Samples samples_;
  Taught taught_;
};

}  // namespace smollm2
