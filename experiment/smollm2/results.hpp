// The results of one seed: a JSON file for each model, which grows with what is done.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "continual/json.hpp"
#include "continual/memory_plan.hpp"
#include "continual/run_folder.hpp"
#include "experiment/smollm2/measure.hpp"
#include "experiment/smollm2/settings.hpp"

namespace smollm2 {

/// What it ran on.
inline std::string machine() {
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

/// The machine's load in the last minute: seconds mean little where others compute.
inline double load_average() {
  double average = 0;
  return ::getloadavg(&average, 1) == 1 ? average : 0;
}

/// The process's memory at its largest, since it was forgotten.
inline void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }
inline double peak_mebibytes() {
  return continual::detail::proc_bytes("/proc/self/status", "VmHWM:") / (1024.0 * 1024.0);
}

/// What was measured after so many requests, or nothing.
inline const Json* final_of(const Json& result, std::int64_t requests) {
  const auto finals = result.find("finals");
  if (finals == result.end()) return nullptr;
  for (const Json& one : *finals) {
    if (one.value("requests", std::int64_t{0}) == requests) return &one;
  }
  return nullptr;
}

/// The files of one seed and number of pairs.
class Results {
 public:
  Results(std::filesystem::path folder, std::string ending)
      : folder_(std::move(folder)), ending_(std::move(ending)) {}

  /// What is there of a model; an empty object: nothing. Throws where it is another run's: in one
  /// table they would not compare.
  [[nodiscard]] Json kept(const std::string& name, const Json& config) const {
    const std::filesystem::path path = path_of(name);
    if (!std::filesystem::exists(path)) return Json::object();
    Json kept = continual::read_object(path);
    const auto before = continual::field<Json>(kept, "config", path.string());
    for (const auto& [key, value] : config.items()) {
      if (before.value(key, Json()) != value) {
        continual::data_error("results of the same settings, " + key + " " +
                                  alkn::io::shown(before.value(key, Json())) +
                                  ", or another --results",
                              alkn::io::shown(value), path.string());
      }
    }
    return kept;
  }

  /// The file; then the forget quality of all that have none yet, where the gold model's truth
  /// ratios of the same questions are there.
  void write(const std::string& name, Json all) const {
    all["load"] = load_average();
    all["machine"] = machine();
    continual::write_json(path_of(name), all);
    if (!std::filesystem::exists(path_of("gold"))) return;
    const Json gold = continual::read_object(path_of("gold"));
    for (const auto& item : std::filesystem::directory_iterator(folder_)) {
      if (!item.path().filename().string().ends_with(ending_ + ".json")) continue;
      Json one = continual::read_object(item.path());
      bool changed = false;
      for (Json& final : one["finals"]) {
        const Json* reference = final_of(gold, final["requests"].get<std::int64_t>());
        if (reference == nullptr || final.contains("forget_quality")) continue;
        final["forget_quality"] = Measure::forget_quality(ratios(final), ratios(*reference));
        changed = true;
      }
      if (changed) continual::write_json(item.path(), one);
    }
  }

 private:
  static std::vector<double> ratios(const Json& final) {
    return final["truth_ratios"].get<std::vector<double>>();
  }
  [[nodiscard]] std::filesystem::path path_of(const std::string& name) const {
    return folder_ / (name + ending_ + ".json");
  }

  std::filesystem::path folder_;
  std::string ending_;
};

}  // namespace smollm2
