// What a step costs: alkn's methods beside LibTorch's optimizers, the ceilings of the same arrays,
// and ALKN as plain operations.
//
//   bench_step_cost                                          the whole table
//   bench_step_cost --shapes 2^10,2^20 --arms "ceiling;alkn::AdamW" --threads 1,2 --rounds 50
//   bench_step_cost --first-task                             the mean of first tasks of 60 steps
//   bench_step_cost --against small                          a list of tensors against one tensor
//   bench_step_cost --shapes smollm2 --gradients FILE        real gradients against normal ones
//   bench_step_cost --shapes 2^23 --scales 1e-16,1e-20       small normal gradients against those
//
// QUICK=1 in the environment: 16 Mi elements in one tensor, slow arms in fewer rounds.
#include <torch/version.h>
#include <alkn/kernel/simd/dispatch.hpp>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "arms.hpp"

namespace {

using alkn_bench::Arm;
using alkn_bench::ArmMaker;
using alkn_bench::Comparison;
using alkn_bench::Model;

constexpr int kWarmUp = 3;

struct Settings {
  std::vector<std::string> shapes = {"one", "small", "gpt2", "llama"};
  std::vector<std::string> arms;
  std::vector<int> threads = {at::get_num_threads()};
  int rounds = 25;
  int slow = 1;  ///< slow arms take part in one of so many rounds
  bool first_task = false;
  std::string against;
  std::string gradients;       ///< of record_gradients
  std::vector<double> scales;  ///< of normal gradients
  std::string out = "build/bench/step_cost.json";
};

/// Makes the arm and takes its first step, which allocates its state: that is what it keeps.
void add(Comparison& comparison, Model& model, const ArmMaker& maker) {
  const double before = alkn_bench::resident_bytes();
  Arm arm = maker.make(model);
  arm.subject = model.subject();
  arm.step();
  if (arm.state_bytes == 0 && model.elements() >= 1 << 22) {
    arm.state_bytes =
        (alkn_bench::resident_bytes() - before) / static_cast<double>(model.elements());
  }
  comparison.add(std::move(arm));
}

/// The arms of a shape that were asked for. What fits into memory takes turns in one comparison,
/// the rest in further ones; the ceilings and at::_fused_adamw_ take part in each.
void measure(const std::string& shape, const Settings& settings, bool all, nlohmann::json& rows) {
  constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 28;
  Model model(shape);
  std::vector<ArmMaker> peers, rest;
  for (const ArmMaker& maker :
       alkn_bench::chosen(alkn_bench::all_arms(settings.slow), settings.arms)) {
    const bool slow = maker.kind == alkn_bench::Kind::slow && model.elements() > 1 << 24;
    if (maker.kind == alkn_bench::Kind::peer) {
      peers.push_back(maker);
    } else if (!settings.arms.empty() || maker.kind == alkn_bench::Kind::main || (all && !slow)) {
      rest.push_back(maker);
    }
  }
  // a step of few elements is short: more rounds
  const std::int64_t more = (std::int64_t{1} << 22) / model.elements();
  const int rounds = settings.rounds * static_cast<int>(std::clamp<std::int64_t>(more, 1, 16));
  fmt::print("\n{}: {} elements in {} tensors, {} threads, medians of {} rounds\n", shape,
             model.elements(), model.parameters().size(), model.subject().threads, rounds);
  const auto at_once =
      static_cast<std::size_t>(std::max<std::int64_t>(1, kElementsAtOnce / model.elements()));
  for (std::size_t first = 0; first == 0 || first < rest.size(); first += at_once) {
    Comparison comparison(model.subject(), [&] { model.next_gradients(); });
    for (const ArmMaker& maker : peers) add(comparison, model, maker);
    for (std::size_t i = first; i < std::min(rest.size(), first + at_once); ++i) {
      add(comparison, model, rest[i]);
    }
    comparison.run(rounds);
    nlohmann::json found = comparison.rows(alkn_bench::kFused);
    const auto skip = static_cast<std::ptrdiff_t>(first == 0 ? 0 : peers.size());
    found.erase(found.begin(), found.begin() + skip);
    comparison.print(alkn_bench::kFused);
    rows.insert(rows.end(), found.begin(), found.end());
  }
}

void measure_first_task(const std::string& shape, nlohmann::json& rows) {
  constexpr int kSteps = 60;
  Model model(shape);
  Comparison comparison(model.subject(), [&] { model.next_gradients(); });
  comparison.add(model.ceiling());
  comparison.add(alkn_bench::first_tasks(model, kSteps));
  comparison.run(2 * kSteps, 0);
  const nlohmann::json found = comparison.rows(alkn_bench::kFused);
  fmt::print("\n{}: first tasks, {} threads\n", shape, model.subject().threads);
  comparison.print(alkn_bench::kFused);
  rows.insert(rows.end(), found.begin() + 1, found.end());  // the ceiling has its row
}

/// The same elements as `shape`, in one tensor: the arms of the two take turns.
void measure_against_one(const std::string& shape, const Settings& settings, nlohmann::json& rows) {
  for (const char* name : {"alkn::AdamW", "ALKN, later task", "ALKN, first task"}) {
    Model many(shape);
    Model one(std::to_string(many.elements()));
    Comparison comparison(one.subject(), [&] { many.next_gradients(), one.next_gradients(); });
    const auto maker = alkn_bench::chosen(alkn_bench::all_arms(1), {name});
    add(comparison, one, maker[0]);
    add(comparison, many, maker[0]);
    comparison.run(settings.rounds, 8);
    nlohmann::json pair = comparison.rows(name);
    for (auto& row : pair) row["shape"] = row["shape"].get<std::string>() + ", in pairs";
    fmt::print("\n{} against one tensor\n", shape);
    comparison.print(name);
    for (auto& row : pair) {  // neither a ceiling nor a fused AdamW took part
      row["share_of_ceiling"] = row["ratio_to_fused_adamw"] = nullptr;
      rows.push_back(row);
    }
  }
}

/// An arm on two kinds of gradients, which take turns: those of `source` against normal ones.
void measure_gradients(const std::string& shape, const std::string& name,
                       const std::shared_ptr<const alkn_bench::GradientSource>& source,
                       const Settings& settings, nlohmann::json& rows) {
  const auto usual = std::make_shared<alkn_bench::NormalGradients>(1e-3);
  fmt::print("\n{}: {} against normal gradients, {} threads\n", shape, name, at::get_num_threads());
  for (const char* arm : {alkn_bench::kFused, "alkn::AdamW", "ALKN, later task", "ALKN, first task",
                          "ALKN, first task, threshold not due"}) {
    Model normal(shape, usual), other(shape, source);
    int round = 0;
    const int all = settings.rounds + kWarmUp;
    Comparison comparison(normal.subject(), [&] {
      normal.next_gradients();
      other.next_gradients(static_cast<double>(round++) / all);
    });
    const auto maker = alkn_bench::chosen(alkn_bench::all_arms(1), {arm});
    add(comparison, normal, maker[0]);
    add(comparison, other, maker[0]);
    comparison.run(settings.rounds, kWarmUp);
    nlohmann::json pair = comparison.rows(arm);
    for (auto& row : pair) row["share_of_ceiling"] = row["ratio_to_fused_adamw"] = nullptr;
    pair[0]["gradients"] = "normal", pair[1]["gradients"] = name;
    pair[1]["ratio_to_normal"] =
        pair[1]["ns_per_element"].get<double>() / pair[0]["ns_per_element"].get<double>();
    fmt::print("{:<38}{:>9.4f}{:>9.4f} ns/el{:>9.3f} x normal\n", arm,
               pair[0]["ns_per_element"].get<double>(), pair[1]["ns_per_element"].get<double>(),
               pair[1]["ratio_to_normal"].get<double>());
    rows.insert(rows.end(), pair.begin(), pair.end());
  }
}

Settings parse(int argc, char** argv) {
  Settings settings;
  if (const char* quick = std::getenv("QUICK"); quick != nullptr && std::string(quick) == "1") {
    settings.shapes = {"one"};
    settings.slow = 12;
  }
  CLI::App app("The cost of a step");
  app.add_option("--shapes", settings.shapes,
                 "one, small, gpt2, smollm2, llama, numbers, or powers: 2^20")
      ->delimiter(',');
  app.add_option("--arms", settings.arms, "Names of the table's arms; the first is the ceiling")
      ->delimiter(';');
  app.add_option("--threads", settings.threads, "Threads of LibTorch")->delimiter(',');
  app.add_option("--rounds", settings.rounds, "Rounds; each runs every arm once");
  app.add_flag("--first-task", settings.first_task, "Means over first tasks of 60 steps instead");
  app.add_option("--against", settings.against, "A shape, beside one tensor of as many elements");
  app.add_option("--gradients", settings.gradients,
                 "The file of record_gradients: real gradients, beside normal ones");
  app.add_option("--scales", settings.scales, "Normal gradients of these scales, beside those")
      ->delimiter(',');
  app.add_option("--out", settings.out, "JSON file");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  for (const std::string& shape : settings.shapes) alkn_bench::shapes(shape);  // throws early
  alkn_bench::chosen(alkn_bench::all_arms(1), settings.arms);
  return settings;
}

void run(int argc, char** argv) {
  alkn_bench::require_release(ALKN_BUILD_TYPE);
  const Settings settings = parse(argc, argv);
  const alkn_bench::JsonFile file(settings.out);
  const char* simd = alkn::kernel::simd_name(alkn::kernel::simd_level());
  fmt::print("{}, {} cores, {}, LibTorch {}\n", alkn_bench::processor(), alkn_bench::num_cores(),
             simd, TORCH_VERSION);
  nlohmann::json result, rows = nlohmann::json::array();
  result["header"] = {{"processor", alkn_bench::processor()},
                      {"cores", alkn_bench::num_cores()},
                      {"instruction_set", simd},
                      {"libtorch", TORCH_VERSION},
                      {"threads", settings.threads},
                      {"rounds", settings.rounds}};
  for (const int threads : settings.threads) {
    if (threads < 1) throw std::invalid_argument("expected at least one thread (--threads)");
    at::set_num_threads(threads);
    if (!settings.against.empty()) {
      measure_against_one(settings.against, settings, rows);
      continue;
    }
    for (const std::string& shape : settings.shapes) {
      if (!settings.gradients.empty()) {
        measure_gradients(shape, "real",
                          std::make_shared<alkn_bench::RealGradients>(settings.gradients), settings,
                          rows);
      }
      for (const double scale : settings.scales) {
        measure_gradients(shape, fmt::format("{:g}", scale),
                          std::make_shared<alkn_bench::NormalGradients>(scale), settings, rows);
      }
      if (!settings.gradients.empty() || !settings.scales.empty()) continue;
      if (settings.first_task) {
        measure_first_task(shape, rows);
      } else {
        measure(shape, settings, shape == "one" && threads == settings.threads[0], rows);
      }
    }
  }
  nlohmann::json& ceilings = result["header"]["ceilings_gb_per_s"] = nlohmann::json::array();
  for (const auto& row : rows) {
    if (row["optimizer"].get<std::string>().rfind("ceiling", 0) != 0) continue;
    ceilings.push_back({{"of", row["optimizer"]},
                        {"shape", row["shape"]},
                        {"threads", row["threads"]},
                        {"gb_per_s", row["gb_per_s"]}});
  }
  result["rows"] = std::move(rows);
  file.write(result);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_step_cost: {}\n", error.what());
    return 1;
  }
}
