// What a step costs: alkn's methods beside LibTorch's optimizers, the ceiling of the same arrays,
// and ALKN as plain operations.
//
//   bench_step_cost [--shapes one,gpt2,llama,small] [--rounds 25] [--threads 1,2] [--out
//   build/bench/step_cost.json]
//
// QUICK=1 in the environment: 16 Mi elements in one tensor, the arms that matter most.
#include <ATen/Parallel.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <alkn/alkn.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "harness.hpp"
#include "plain_operations.hpp"

namespace {

using alkn_bench::Arm;
using alkn_bench::Comparison;
using alkn_bench::Model;

constexpr double kRate = 1e-5;
constexpr std::int64_t kManySteps = 1000000;
constexpr const char* kFused = "at::_fused_adamw_";

/// at::_fused_adamw_ over all tensors at once.
class FusedAdamW {
 public:
  explicit FusedAdamW(const Model& model) : model_(model) {
    for (const at::Tensor& p : model.parameters()) {
      exp_avg_.push_back(at::zeros_like(p.detach()));
      exp_avg_sq_.push_back(at::zeros_like(p.detach()));
      steps_.push_back(at::zeros({}));
    }
  }
  void step() {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> parameters, gradients;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      parameters.push_back(model_.parameters()[i].detach());
      gradients.push_back(model_.parameters()[i].grad());
      steps_[i].add_(1);
    }
    at::_fused_adamw_(parameters, gradients, exp_avg_, exp_avg_sq_, {}, steps_, kRate, 0.9, 0.999,
                      0.01, 1e-8, false, false);
  }

 private:
  const Model& model_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_, steps_;
};

/// A method inside a running task: its first, or a later one.
template <class Method>
class InTask {
 public:
  template <class BaseOptions>
  InTask(const Model& model, typename Method::Options options, const BaseOptions& base, bool later)
      : unlearner_(std::make_unique<Method>(named(model), options, base)) {
    if (later) {
      begin(model);
      unlearner_->step();
      static_cast<void>(task_->end());
    }
    begin(model);
  }
  void step() { unlearner_->step(); }

 private:
  static std::vector<alkn::NamedParameter> named(const Model& model) {
    std::vector<alkn::NamedParameter> list;
    for (const at::Tensor& p : model.parameters())
      list.push_back({fmt::format("p{}", list.size()), p});
    return list;
  }
  void begin(const Model& model) {
    task_.emplace(unlearner_->begin_task({.steps = kManySteps}));
    if (!task_->wants_retain_gradient()) return;
    at::Tensor loss = at::zeros({});
    for (const at::Tensor& p : model.parameters())
      loss = loss + at::sum(p * at::randn_like(p.detach()).mul_(1e-3));
    task_->accumulate_retain_gradient(loss);
  }

  std::unique_ptr<Method> unlearner_;
  std::optional<typename Method::TaskType> task_;
};

/// Adds an arm that owns its optimizer.
template <class Optimizer>
void add(Comparison& comparison, const char* name, std::shared_ptr<Optimizer> optimizer,
         double bytes, double floor, double state, int every = 1) {
  comparison.add({name, [optimizer] { optimizer->step(); }, bytes, floor, state, every});
}

template <class Method, class BaseOptions>
void add_method(Comparison& comparison, const char* name, const Model& model,
                const typename Method::Options& options, const BaseOptions& base, bool later,
                double bytes, double floor, double state, int every = 1) {
  add(comparison, name, std::make_shared<InTask<Method>>(model, options, base, later), bytes, floor,
      state, every);
}

std::vector<at::Tensor> like(const Model& model, bool mask) {
  std::vector<at::Tensor> list;
  for (const at::Tensor& p : model.parameters()) {
    const at::Tensor r = at::randn_like(p.detach()).mul_(1e-3);
    list.push_back(mask ? r > 0 : r);
  }
  return list;
}

/// The arms that every shape has.
void add_main(Comparison& comparison, Model& model) {
  const alkn::AdamWOptions fast(kRate);
  comparison.add({"ceiling", [&model] { model.sweep(); }, 28, 28, 8});
  add(comparison, kFused, std::make_shared<FusedAdamW>(model), 28, 28, 8);
  add(comparison, "alkn::AdamW", std::make_shared<alkn::AdamW>(model.parameters(), fast), 28, 28,
      8);
  const auto options = alkn::ALKNOptions();
  add_method<alkn::ALKN<>>(comparison, "ALKN, later task", model, options, fast, true, 48.25, 48.1,
                           20.25);
  add_method<alkn::ALKN<>>(comparison, "ALKN, first task", model, options, fast, false, 48.3, 48.3,
                           20.25);
}

void add_more(Comparison& comparison, Model& model) {
  const alkn::AdamWOptions fast(kRate);
  const auto options = alkn::ALKNOptions();
  auto sometimes = options;
  sometimes.threshold_every(kManySteps);
  add_method<alkn::ALKN<>>(comparison, "ALKN, first, threshold not due", model, sometimes, fast,
                           false, 44.1, 44.1, 20.1);
  add_method<alkn::GradientAscent<>>(comparison, "gradient ascent", model, {}, fast, false, 32, 32,
                                     8);
  add_method<alkn::NPO<>>(comparison, "NPO", model, {}, fast, false, 32, 32, 8);
  add_method<alkn::TaskVector<>>(comparison, "task vector", model, {}, fast, false, 32, 32, 12);
  const auto sgd = torch::optim::SGDOptions(kRate).momentum(0.9);
  add(comparison, "torch SGD, momentum",
      std::make_shared<torch::optim::SGD>(model.parameters(), sgd), 28, 20, 4, 4);
  const auto adamw = torch::optim::AdamWOptions(kRate);
  add(comparison, "torch AdamW", std::make_shared<torch::optim::AdamW>(model.parameters(), adamw),
      84, 28, 8, 4);
  add_method<alkn::ALKN<torch::optim::SGD>>(comparison, "ALKN over torch SGD", model, options, sgd,
                                            false, 52.3, 40.3, 16.25, 4);
  add_method<alkn::ALKN<torch::optim::AdamW>>(comparison, "ALKN over torch AdamW", model, options,
                                              adamw, false, 108, 48.3, 20.25, 4);
  auto aten = options;
  aten.backend(alkn::Backend::aten);
  add_method<alkn::ALKN<>>(comparison, "ALKN, backend aten", model, aten, fast, false, 300, 48.3,
                           20.25, 12);
  for (const bool later : {false, true}) {
    auto used = later ? like(model, true) : std::vector<at::Tensor>{};
    add(comparison, later ? "plain operations, later task" : "plain operations, first task",
        std::make_shared<alkn_bench::PlainOperations>(model.parameters(), like(model, false), used),
        300, later ? 48.1 : 48.3, 17, 12);
  }
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

struct Settings {
  std::vector<std::string> shapes = {"one", "small", "gpt2", "llama"};
  std::vector<int> threads;
  int rounds = 25;
  bool all = true;
  std::string out = "build/bench/step_cost.json";
};

nlohmann::json measure(const std::string& shape, const Settings& settings) {
  Model model(alkn_bench::shapes(shape));
  Comparison comparison(model);
  add_main(comparison, model);
  if (settings.all && shape == "one") add_more(comparison, model);
  comparison.run(settings.rounds);
  nlohmann::json rows = comparison.rows(shape, kFused);
  fmt::print("\n{}: {} elements in {} tensors, {} threads, median of {} rounds\n", shape,
             model.elements(), model.parameters().size(), at::get_num_threads(), settings.rounds);
  Comparison::print(rows);
  return rows;
}

int run(int argc, char** argv) {
  if (std::string(ALKN_BUILD_TYPE) != "Release") {
    fmt::print(stderr, "bench_step_cost: expected a Release build, got \"{}\"\n", ALKN_BUILD_TYPE);
    return 2;
  }
  Settings settings;
  settings.threads = {at::get_num_threads()};
  CLI::App app("The cost of a step");
  app.add_option("--shapes", settings.shapes, "one, gpt2, llama, small, or numbers of elements")
      ->delimiter(',');
  app.add_option("--threads", settings.threads, "Threads of LibTorch")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", settings.rounds, "Rounds; each runs every arm once")
      ->check(CLI::PositiveNumber);
  app.add_flag("--all,!--main", settings.all, "All arms, or only the main ones");
  app.add_option("--out", settings.out, "JSON file");
  if (const char* quick = std::getenv("QUICK"); quick != nullptr && std::string(quick) == "1") {
    settings.shapes = {"one"};
    settings.rounds = 15;
  }
  CLI11_PARSE(app, argc, argv);

  fmt::print("{}, LibTorch {}, {}\n", processor(), TORCH_VERSION,
             alkn::kernel::simd_name(alkn::kernel::simd_level()));
  nlohmann::json result;
  result["header"] = {{"processor", processor()},
                      {"libtorch", TORCH_VERSION},
                      {"instruction_set", alkn::kernel::simd_name(alkn::kernel::simd_level())},
                      {"rounds", settings.rounds}};
  result["rows"] = nlohmann::json::array();
  for (const int threads : settings.threads) {
    at::set_num_threads(threads);
    for (const std::string& shape : settings.shapes) {
      for (auto& row : measure(shape, settings)) {
        if (row.at("optimizer") == "ceiling") {
          result["header"]["ceilings_gb_per_s"][fmt::format("{}, {} threads", shape, threads)] =
              row.at("gb_per_s");
        }
        result["rows"].push_back(std::move(row));
      }
    }
  }
  const std::filesystem::path out(settings.out);
  if (out.has_parent_path()) std::filesystem::create_directories(out.parent_path());
  std::ofstream file(out);
  file << result.dump(2) << '\n';
  file.close();
  if (!file)
    throw std::runtime_error("expected a file to write, got none at \"" + settings.out +
                             "\" (--out)");
  fmt::print("\nwrote {}\n", settings.out);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step_cost: {}\n", error.what());
    return 1;
  }
}
