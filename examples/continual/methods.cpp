// The table of methods: a new one is a line in it.
#include "continual/methods.hpp"

#include <alkn/alkn.hpp>

#include <string_view>
#include <vector>

#include "continual/unlearn.hpp"

namespace continual {
namespace {

/// The library's options of a preset, for methods that have presets; else the defaults.
template <class Options>
Options preset_options([[maybe_unused]] std::string_view preset) {
  if constexpr (requires { Options::paper(); }) {
    if (preset.starts_with("paper")) {
      return Options::paper();
    }
    if (preset == "reference") {
      return Options::reference();
    }
    if (preset == "ratio") {
      return Options::ratio();
    }
    return Options::conflict();
  } else {
    return Options();
  }
}

template <class Method>
Rows unlearn(const Run& run) {
  auto options = preset_options<typename Method::Options>(run.settings.preset);
  if constexpr (Method::kNegates) {
    options.negation(run.strength.lambda);
  }
  if (run.strength.retain_weight > 0) {
    options.retain_term(alkn::RetainTerm::nll).retain_weight(run.strength.retain_weight);
  }
  return Unlearning<Method>(run, options).go();
}

}  // namespace

// Strengths for the made-up authors, at equal steps and near equal forgetting. Share that is left,
// in %, after the five requests of the default run with two threads, seeds 1 and 2:
//                             forgotten   kept, shown   kept, unseen
//   ALKN                        42  42        97  96         67  68
//   gradient ascent             45  47        50  56         48  56
//   gradient ascent + retain    47  42        71  66         57  53
//   NPO                         42  47        46  56         45  55
//   NPO + retain                39  47        94  93         64  68
//   task vector                 51  38        65  48         66  50
// Gradient ascent has a cliff: 1.6e-5 leaves 4 and 3 %.
const std::vector<MethodEntry>& methods() {
  static const std::vector<MethodEntry> table{
      {"alkn", "ALKN", {2e-4, 3.1, 0, 20, 16}, &unlearn<alkn::ALKN<>>},
      {"gradient-ascent",
       "gradient ascent",
       {1.2e-5, 0, 0, 20, 16},
       &unlearn<alkn::GradientAscent<>>},
      {"gradient-ascent+retain",
       "gradient ascent + retain",
       {2.25e-5, 0, 1, 20, 16},
       &unlearn<alkn::GradientAscent<>>},
      {"npo", "NPO", {1.25e-5, 0, 0, 20, 16}, &unlearn<alkn::NPO<>>},
      {"npo+retain", "NPO + retain", {4e-5, 0, 20, 20, 16}, &unlearn<alkn::NPO<>>},
      {"task-vector", "task vector", {6.9e-5, 1, 0, 20, 16}, &unlearn<alkn::TaskVector<>>}};
  return table;
}

// `paper` has the settings of the paper's experiments with real models, on TOFU; `paper-news` and
// `paper-books` those on texts. Their learning rates move next to nothing in a model this small.
const std::vector<PresetEntry>& presets() {
  static const std::vector<PresetEntry> table{
      {"conflict", {2e-4, 3.1, 0, 20, 16}},  {"ratio", {1.7e-4, 2, 0, 10, 32}},
      {"reference", {5e-4, 0.8, 0, 10, 32}}, {"paper", {3e-5, 0.8, 0, 5, 32}},
      {"paper-news", {3e-6, 0.8, 0, 2, 6}},  {"paper-books", {3e-6, 0.8, 0, 10, 6}}};
  return table;
}

namespace {

/// For a checkpoint of 135 million weights that was taught to an answer probability of .87. ALKN's
/// are from sweeps on made-up authors, 40 pairs a request: lambda 1, 2, 4, 6, 8 leave 74, 53, 32,
/// 22, 16 % of the first and 69, 59, 45, 35, 28 % of the second, and of what is shown, after the
/// second, 102, 104, 104, 102, 98 %. The rates of the others are not tuned. `paper` and its like
/// have what the paper took for models of billions.
Strength pretrained_strength(std::string_view method, std::string_view preset) {
  for (const PresetEntry& entry : presets()) {
    if (method == "alkn" && preset == entry.name && preset.starts_with("paper")) {
      return entry.strength;
    }
  }
  if (method == "alkn") {
    return {3e-5, preset == "reference" ? 3.0 : 4.0, 0, 5, 8};
  }
  if (method == "npo+retain") {
    return {3e-5, 0, 20, 5, 8};
  }
  if (method == "task-vector") {
    return {3e-5, 1, 0, 5, 8};
  }
  return {3e-6, 0, method == "gradient-ascent+retain" ? 1.0 : 0.0, 5, 8};
}

}  // namespace

// Answers that people wrote are longer and share less with each other than those that are made up:
// at these rates they would be forgotten several times over. On TOFU ALKN so leaves 48 % of what is
// forgotten, 98 % of what is shown and 78 % of what is not; the other rates there are not tuned.
Strength strength_of(const MethodEntry& method, const Settings& settings) {
  if (!settings.pretrained.folder.empty()) {
    return settings.over(pretrained_strength(method.name, settings.preset));
  }
  constexpr double kTextRate = 0.3;
  Strength strength = method.strength;
  for (const PresetEntry& preset : presets()) {
    if (method.name == methods().front().name && settings.preset == preset.name) {
      strength = preset.strength;
    }
  }
  if (!settings.data.paths.empty()) {
    strength.lr *= kTextRate;
  }
  return settings.over(strength);
}

}  // namespace continual
