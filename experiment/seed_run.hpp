// One seed of the experiment: its models, its runs, and what is measured on them. Every finished
// piece is a file; what is there is not done again.
#pragma once

#include <ATen/Context.h>
#include <alkn/io/atomic_file.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "continual/base_model.hpp"
#include "continual/interrupt.hpp"
#include "continual/progress.hpp"
#include "continual/run.hpp"
#include "experiment/arms.hpp"
#include "experiment/attacks.hpp"
#include "experiment/measure.hpp"
#include "experiment/search.hpp"
#include "experiment/settings.hpp"

namespace experiment {

namespace fs = std::filesystem;

/// The process' largest resident memory since `reset`, in bytes; Linux.
class PeakMemory {
 public:
  PeakMemory() { std::ofstream("/proc/self/clear_refs") << "5"; }
  [[nodiscard]] std::optional<double> bytes() const {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (double kib = 0; word == "VmHWM:" && status >> kib) {
        return kib * 1024;
      }
    }
    return std::nullopt;
  }
};

/// An interruption, on its way to main.
struct Interrupted {};

class SeedRun {
 public:
  SeedRun(const Settings& settings, std::uint64_t seed)
      : settings_(settings),
        seed_(seed),
        folder_(settings.out / ("seed-" + std::to_string(seed))),
        world_(make_world(settings.world, seed)) {
    for (const char* part : {"runs", "models", "points", "by-task", "logs"}) {
      continual::prepare_folder(folder_ / part);
    }
    continual::lock_path(lock_, folder_ / "run", "a folder that no other process writes to");
    const Json inputs{{"hash_of_texts", hash_of(world_)}};
    continual::require_same(folder_ / "inputs.json", inputs,
                            "the texts of the runs in this folder");
    continual::write_json(folder_ / "inputs.json", inputs);
  }

  /// Trains what is not there, and measures base and gold.
  void prepare() {
    continual::Settings training = run_settings(nullptr);
    auto trained = continual::train_or_load(world_.learned, training, folder_ / "models");
    if (!trained) {
      throw Interrupted();
    }
    say("base model", trained->reused ? 0 : trained->seconds);
    base_seconds_ = trained->seconds;
    tokenizer_.emplace(trained->tokenizer.model());
    net_ = trained->model;
    data_ = trained->data;
    base_ = weights();
    measure_.emplace(world_, *tokenizer_, settings_.measure);
    gold_ = gold_weights("gold", world_.tasks.size(), seed_);
    load(base_);
    original_codes_ = nf4_codes(*net_);
    full_utility_ = !measure_->at_floor(*net_);
    load(gold_);
    gold_values_ = measure_->gold_values(*net_);
    if (!fs::exists(folder_ / "models.json")) {
      measure_models();
    }
  }

  /// The method's runs along its axis of strength, probabilities only.
  void sweep(const Arm& method) {
    std::vector<AxisPoint> points;
    for (std::int64_t k = 0; k < settings_.runs; ++k) {
      const fs::path path = run_path(method, k);
      if (!fs::exists(path)) {
        const double strength =
            rounded(points.empty() ? method.strength.lr : next_strength(points, settings_.levels));
        continual::write_json(path, run(method, strength, k));
      }
      points.push_back(point_of(path));
    }
    // Only the runs nearest to the levels are looked at again.
    const std::set<std::int64_t> wanted = chosen(points);
    for (std::int64_t k = 0; k < settings_.runs; ++k) {
      if (!wanted.count(k)) {
        fs::remove(model_path(method, k));
      }
    }
  }

  /// Full metrics and attacks on the run nearest to a level.
  void measure_point(const Arm& method, double level) {
    const std::vector<AxisPoint> points = sweep_points(method);
    const auto k = static_cast<std::int64_t>(nearest_point(points, level));
    const fs::path path = folder_ / "points" / run_path(method, k).filename();
    if (fs::exists(path)) {
      return;  // nearest to another level, too
    }
    const continual::Stopwatch watch;
    const double strength = points[static_cast<std::size_t>(k)].strength;
    continual::load_model(model_path(method, k), *net_);
    continual::write_json(path, {{"metrics", measure_->metrics(*net_, gold_values_, full_utility_)},
                                 {"attacks", attacks()}});
    fs::remove(model_path(method, k));
    say(fmt::format("{} at {:g}: metrics and attacks", method.title, strength), watch.seconds());
  }

  /// Of the run nearest to the first level: what it did request by request, for one seed.
  void measure_by_task(const Arm& method) {
    if (seed_ != settings_.inspected_seed()) {
      return;
    }
    const std::vector<AxisPoint> points = sweep_points(method);
    const std::size_t k = nearest_point(points, settings_.levels_in_order().front());
    const fs::path path =
        folder_ / "by-task" / run_path(method, static_cast<std::int64_t>(k)).filename();
    if (!fs::exists(path)) {
      const continual::Stopwatch watch;
      continual::write_json(path, by_task(method, points[k].strength));
      say(fmt::format("{} at {:g}: request by request", method.title, points[k].strength),
          watch.seconds());
    }
  }

  /// The schema's entry of a seed, from the files that are there; nothing before the models are.
  static Json collect(const Settings& settings, std::uint64_t seed) {
    const fs::path folder = settings.out / ("seed-" + std::to_string(seed));
    if (!fs::exists(folder / "models.json")) {
      return nullptr;
    }
    Json entry = read_json(folder / "models.json");
    Json examples = list_of(entry, "examples", folder / "models.json");
    entry.erase("examples");
    entry["runs"] = Json::array();
    for (const std::string& name : settings.methods) {
      for (std::int64_t k = 0; k < settings.runs; ++k) {
        const std::string file = name + "-" + std::to_string(k) + ".json";
        if (!fs::exists(folder / "runs" / file)) {
          continue;
        }
        Json run = read_json(folder / "runs" / file);
        if (fs::exists(folder / "points" / file)) {
          run.update(read_json(folder / "points" / file));
        }
        if (fs::exists(folder / "by-task" / file)) {
          Json inspected = read_json(folder / "by-task" / file);
          const Json answers = list_of(inspected, "answers", folder / "by-task" / file);
          for (std::size_t i = 0; i < examples.size(); ++i) {
            examples[i]["unlearned"].push_back({{"method", name},
                                                {"strength", run["strength"]},
                                                {"answer", i < answers.size() ? answers[i] : ""}});
          }
          inspected.erase("answers");
          run.update(inspected);
        }
        entry["runs"].push_back(std::move(run));
      }
    }
    if (!examples.empty() && examples[0].contains("unlearned")) {
      entry["examples"] = std::move(examples);
    }
    return entry;
  }

 private:
  using Weights = std::vector<at::Tensor>;

  static Json read_json(const fs::path& path) { return continual::read_object(path); }

  /// What a file has as a list. Throws std::runtime_error where it has none.
  static Json list_of(const Json& object, const char* key, const fs::path& path) {
    Json list = continual::field<Json>(object, key, path.string());
    if (!list.is_array()) {
      continual::data_error("a list \"" + std::string(key) + "\"", alkn::io::shown(list),
                            path.string());
    }
    return list;
  }

  /// Of a file in `runs`. Throws std::runtime_error where it is none.
  static AxisPoint point_of(const fs::path& path) {
    using continual::field;
    const Json run = read_json(path);
    const std::string where = path.string();
    const auto probability = field<Json>(run, "probability", where);
    return {field<double>(run, "strength", where),
            field<Json>(probability, "forgotten", where).is_null()
                ? 0.0
                : field<double>(probability, "forgotten", where)};
  }

  /// Three digits: what is written is what was run.
  static double rounded(double strength) {
    return std::strtod(fmt::format("{:.3g}", strength).c_str(), nullptr);
  }

  [[nodiscard]] std::vector<AxisPoint> sweep_points(const Arm& method) const {
    std::vector<AxisPoint> points;
    for (std::int64_t k = 0; k < settings_.runs; ++k) {
      points.push_back(point_of(run_path(method, k)));
    }
    return points;
  }

  void say(const std::string& what, double seconds) const {
    fmt::print("seed {}: {}, {:.1f} s\n", seed_, what, seconds);
    std::fflush(stdout);
  }

  [[nodiscard]] fs::path run_path(const Arm& method, std::int64_t k) const {
    return folder_ / "runs" / (method.name + "-" + std::to_string(k) + ".json");
  }
  [[nodiscard]] fs::path model_path(const Arm& method, std::int64_t k) const {
    return folder_ / "models" / (method.name + "-" + std::to_string(k) + ".safetensors");
  }

  [[nodiscard]] std::set<std::int64_t> chosen(const std::vector<AxisPoint>& points) const {
    std::set<std::int64_t> numbers;
    for (const double level : settings_.levels) {
      numbers.insert(static_cast<std::int64_t>(nearest_point(points, level)));
    }
    return numbers;
  }

  [[nodiscard]] continual::Settings run_settings(const Arm* method) const {
    continual::Settings s;
    s.base = settings_.base;
    s.data.seed = seed_;
    s.resume = true;  // a training that was interrupted goes on
    if (method != nullptr) {
      s.resume = false;
      s.preset = method->preset;
    }
    return s;
  }

  [[nodiscard]] Weights weights() const {
    Weights all;
    for (const at::Tensor& parameter : net_->parameters()) {
      all.push_back(parameter.detach().clone());
    }
    return all;
  }
  void load(const Weights& all) {
    const at::NoGradGuard no_grad;
    const auto parameters = net_->parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      at::Tensor(parameters[i]).copy_(all[i]);
    }
  }

  /// A model that never saw the first `requests` requests, trained for as many steps as the base
  /// model, with the base model's vocabulary; from the disk if it is there.
  Weights gold_weights(const std::string& name, std::size_t requests, std::uint64_t seed) {
    const fs::path path = folder_ / "models" / (name + ".safetensors");
    if (!fs::exists(path)) {
      const continual::Stopwatch watch;
      continual::EncodedData rest = data_;
      rest.requests.erase(rest.requests.begin(),
                          rest.requests.begin() + static_cast<std::ptrdiff_t>(requests));
      continual::Settings training = run_settings(nullptr);
      training.data.seed = seed;
      at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
      generator.set_current_seed(seed);
      continual::Transformer fresh(net_->config());
      const std::int64_t steps =
          training.base.epochs *
          continual::num_batches(data_.training_samples(), training.base.batch);
      const at::AutoGradMode with_grad(true);
      if (!continual::memorise(fresh, rest.training_samples(), training, steps,
                               folder_ / "models" / (name + ".checkpoint"))) {
        throw Interrupted();
      }
      continual::save_model(path, fresh);
      say(name + " model", watch.seconds());
    }
    continual::load_model(path, *net_);
    return weights();
  }

  [[nodiscard]] Questions example_questions() const {
    constexpr std::size_t kForgotten = 6, kKept = 3;
    Questions all;
    const auto spread = [&](const Questions& from, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        all.push_back(from[i * from.size() / count]);
      }
    };
    spread(measure_->forgotten().asked, kForgotten);
    spread(world_.unseen.asked, kKept);
    return all;
  }

  Json attacks() {
    return {{"relearning", relearn(*net_, *measure_, *tokenizer_, settings_.relearn, seed_)},
            {"quantization", quantize(*net_, *measure_, original_codes_)},
            {"membership", measure_->membership(*net_, gold_values_)}};
  }

  /// The entries of base and gold, and the examples' first columns.
  void measure_models() {
    const continual::Stopwatch watch;
    Json entry{{"seed", seed_}, {"tasks", Json::array()}};
    for (const auto& request : world_.learned.requests) {
      entry["tasks"].push_back(request.name);
    }
    const Questions questions = example_questions();
    Json examples = Json::array();
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const bool forgotten = i < questions.size() * 2 / 3;
      examples.push_back({{"set", forgotten ? "forgotten" : "unseen"},
                          {"question", questions[i].question},
                          {"answer", questions[i].answer}});
    }
    // Gold is held against a second one of another seed: what chance alone makes of forget quality.
    load(gold_weights("gold-other", world_.tasks.size(), seed_ + 1000));
    const GoldValues other = measure_->gold_values(*net_);
    for (const bool gold : {false, true}) {
      load(gold ? gold_ : base_);
      const char* name = gold ? "gold" : "base";
      Json& model = entry[name] = {{"probability", measure_->probabilities(*net_)}};
      model["metrics"] = measure_->metrics(*net_, gold ? other : gold_values_, full_utility_);
      model["attacks"] = attacks();
      if (!gold) {
        model["seconds"] = base_seconds_;
      }
      const auto answers = measure_->answers(*net_, questions);
      for (std::size_t i = 0; i < answers.size(); ++i) {
        examples[i][gold ? "gold" : "original"] = answers[i];
      }
    }
    entry["examples"] = std::move(examples);
    continual::write_json(folder_ / "models.json", entry);
    say("base and gold measured", watch.seconds());
  }

  /// Unlearns all requests from the base model; the run's hooks may be set by `set_up`.
  template <class SetUp>
  double unlearn(const Arm& method, double strength, const fs::path& log, SetUp&& set_up) {
    load(base_);
    const at::AutoGradMode with_grad(true);
    const continual::Settings settings = run_settings(&method);
    continual::Strength full = method.strength;
    full.lr = strength;
    full.epochs = settings_.epochs;
    continual::MetricsFile metrics(log, false);
    double seconds = 0;
    continual::Run run{
        *net_,
        data_,
        settings,
        full,
        method.title,
        folder_ / "models" / (method.name + ".checkpoint"),
        metrics,
        0,
        [&](std::int64_t, const continual::TaskRow& row) { seconds += row.seconds; }};
    run.measure = [](std::int64_t) { return continual::Probabilities(); };
    set_up(run);
    if (!method.unlearn(run)) {
      throw Interrupted();
    }
    return seconds;
  }

  /// The same, with the random mask's densities where the method has one.
  template <class SetUp>
  double unlearn_any(const Arm& method, double strength, const fs::path& log, SetUp&& set_up) {
    if (!method.random_mask) {
      return unlearn(method, strength, log, set_up);
    }
    MaskTrace trace;
    unlearn(arm("alkn-no-modulation"), strength, log,
            [&](continual::Run& run) { run.after_step = record(trace); });
    return unlearn(method, strength, log, [&](continual::Run& run) {
      run.before_step = mask_at_random(*net_, trace, seed_);
      set_up(run);
    });
  }

  Json run(const Arm& method, double strength, std::int64_t k) {
    const PeakMemory memory;
    const double seconds =
        unlearn_any(method, strength, folder_ / "logs" / (method.name + "-sweep.jsonl"),
                    [](continual::Run&) {});
    const auto bytes = memory.bytes();
    Json result{{"method", method.name},
                {"strength", strength},
                {"probability", measure_->probabilities(*net_)},
                {"seconds", seconds},
                {"peak_memory_bytes", bytes ? Json(*bytes) : Json(nullptr)}};
    continual::save_model(model_path(method, k), *net_);
    const auto value = [&](const char* key) {
      const Json& p = result["probability"][key];
      return p.is_null() ? std::nan("") : p.get<double>();
    };
    say(fmt::format("{} at {:g}: forgotten {:.3f}, shown {:.3f}, unseen {:.3f}", method.title,
                    strength, value("forgotten"), value("shown"), value("unseen")),
        seconds);
    return result;
  }

  /// The run once more, looked at after every request: the matrix, forget quality, the log.
  Json by_task(const Arm& method, double strength) {
    const std::string log = method.name + ".jsonl";
    Json tasks = Json::array(), shown = Json::array(), unseen = Json::array();
    Json quality = Json::array();
    const auto row = [&] {
      Json values = Json::array();
      for (const QuestionSet& task : world_.tasks) {
        values.push_back(continual::number(measure_->probability(*net_, task.asked)));
      }
      tasks.push_back(std::move(values));
      shown.push_back(continual::number(measure_->probability(*net_, world_.shown.asked)));
      unseen.push_back(continual::number(measure_->probability(*net_, world_.unseen.asked)));
    };
    const std::vector<Eigen::ArrayXd> golds = prefix_ratios();
    load(base_);
    row();
    unlearn_any(method, strength, folder_ / "logs" / log, [&](continual::Run& run) {
      run.measure = [&](std::int64_t task) {
        const at::NoGradGuard no_grad;
        row();
        quality.push_back(
            measure_->forget_quality(measure_->truth_ratios(*net_, measure_->forgotten()),
                                     golds[static_cast<std::size_t>(task)], task + 1));
        const Json& last = tasks.back();
        const auto at = [&](std::int64_t t) {
          return last[static_cast<std::size_t>(t)].template get<double>();
        };
        double earlier = 0;
        for (std::int64_t t = 0; t < task; ++t) {
          earlier += at(t) / static_cast<double>(task);
        }
        return continual::Probabilities{
            at(task), task == 0 ? std::nan("") : earlier,
            measure_->probability(*net_, world_.tasks[static_cast<std::size_t>(task)].rephrased),
            shown.back().template get<double>(), unseen.back().template get<double>()};
      };
    });
    Json matrix{{"metric", "probability"},
                {"tasks", std::move(tasks)},
                {"shown", std::move(shown)},
                {"unseen", std::move(unseen)}};
    return {{"matrix", Json::array({std::move(matrix)})},
            {"forget_quality_by_task", std::move(quality)},
            {"log", "seed-" + std::to_string(seed_) + "/logs/" + log},
            {"answers", measure_->answers(*net_, example_questions())}};
  }

  /// Truth ratios of all forgotten questions under the gold models of the first 1, 2, ... requests.
  const std::vector<Eigen::ArrayXd>& prefix_ratios() {
    for (std::size_t t = prefix_ratios_.size(); t + 1 < world_.tasks.size(); ++t) {
      load(gold_weights("gold-" + std::to_string(t + 1), t + 1, seed_));
      prefix_ratios_.push_back(measure_->truth_ratios(*net_, measure_->forgotten()));
    }
    if (prefix_ratios_.size() < world_.tasks.size()) {
      prefix_ratios_.push_back(gold_values_.truth_ratios);
    }
    return prefix_ratios_;
  }

  const Settings& settings_;
  std::uint64_t seed_;
  fs::path folder_;
  std::optional<alkn::io::FileLock> lock_;
  World world_;
  std::optional<continual::Tokenizer> tokenizer_;
  std::shared_ptr<continual::Transformer> net_;
  continual::EncodedData data_;
  std::optional<Measure> measure_;
  Weights base_, gold_;
  GoldValues gold_values_;
  Codes original_codes_;
  std::vector<Eigen::ArrayXd> prefix_ratios_;
  bool full_utility_ = false;
  double base_seconds_ = 0;
};

}  // namespace experiment
