// A harness that compares what a step costs: its arms take turns in every round, in another order
// each time, so that whatever disturbs the machine disturbs all of them alike. No LibTorch in here;
// model.hpp brings parameters and gradients. An optimizer of your own beside others:
// own_optimizer.cpp.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace alkn_bench {

/// What a comparison is about.
struct Subject {
  std::string shape;          ///< the name that the rows get
  std::int64_t elements = 0;  ///< of all parameters
  int threads = 1;
};

/// The middle one, of an even number the upper. @param values at least one
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// One competitor. Bytes are per element of a parameter.
struct Arm {
  std::string name;
  std::function<void()> step;          ///< what is timed
  double bytes = 0;                    ///< moved to and from memory by this implementation
  double floor_bytes = 0;              ///< that any implementation has to move
  double state_bytes = 0;              ///< kept beside parameter and gradient
  int every = 1;                       ///< takes part in one of so many rounds
  std::function<void()> prepare = {};  ///< before every step, not timed
  bool by_mean = false;                ///< its row has the mean of its steps, not the median
  bool writes_gradients = false;       ///< the other arms of the round get fresh ones after it
  Subject subject = {};                ///< of this arm; left empty: that of the comparison
  std::vector<double> seconds = {};    ///< out: of its steps

  /// The time of a step. @throws std::logic_error before the first round
  [[nodiscard]] double time() const {
    if (seconds.empty()) throw std::logic_error("alkn_bench::Arm: no step of " + name + " yet");
    if (by_mean) {
      double sum = 0;
      for (const double s : seconds) sum += s;
      return sum / static_cast<double>(seconds.size());
    }
    return median(seconds);
  }
};

/// Arms and their rounds. The first arm is the ceiling, which the others' share is of.
class Comparison {
 public:
  /// @param refresh what every round begins with, not timed: fresh gradients
  /// @throws std::invalid_argument for no element or no thread
  explicit Comparison(Subject subject, std::function<void()> refresh = {})
      : subject_(std::move(subject)), refresh_(std::move(refresh)) {
    if (subject_.elements < 1) {
      throw std::invalid_argument("alkn_bench::Comparison: expected at least one element, got " +
                                  std::to_string(subject_.elements));
    }
    if (subject_.threads < 1) {
      throw std::invalid_argument("alkn_bench::Comparison: expected at least one thread, got " +
                                  std::to_string(subject_.threads));
    }
  }

  void add(Arm arm) {
    if (arm.subject.elements == 0) arm.subject = subject_;
    arms_.push_back(std::move(arm));
  }

  /// Every round refreshes the gradients and gives each arm one step, after `warm_up` rounds that
  /// do not count.
  /// @throws std::invalid_argument for less than one round, or without arms
  void run(int rounds, int warm_up = 3) {
    if (rounds < 1) {
      throw std::invalid_argument("alkn_bench::Comparison: expected at least one round, got " +
                                  std::to_string(rounds));
    }
    if (arms_.empty()) {
      throw std::invalid_argument("alkn_bench::Comparison: expected at least one arm, got none");
    }
    std::vector<Arm*> order;
    for (Arm& arm : arms_) order.push_back(&arm);
    for (int round = -warm_up; round < rounds; ++round) {
      if (refresh_) refresh_();
      std::shuffle(order.begin(), order.end(), shuffle_);
      for (Arm* arm : order) {
        const bool slow_warm_up = round < -1 && arm->every > 1;
        if (slow_warm_up || (round >= 0 && round % arm->every != 0)) continue;
        if (arm->prepare) arm->prepare();
        const auto start = std::chrono::steady_clock::now();
        arm->step();
        const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
        if (round >= 0) arm->seconds.push_back(time.count());
        if (arm->writes_gradients && refresh_) refresh_();
      }
    }
  }

  [[nodiscard]] const std::vector<Arm>& arms() const { return arms_; }

  /// One row an arm. share_of_ceiling: floor bytes a second, as a share of the ceiling's.
  /// @param fused the arm that ratio_to_fused_adamw is against; null in the rows where there is
  /// none
  [[nodiscard]] nlohmann::json rows(const std::string& fused) const {
    nlohmann::json rows = nlohmann::json::array();
    if (arms_.empty()) return rows;
    const auto one = [](const Arm& arm) {
      return arm.time() / static_cast<double>(arm.subject.elements) * 1e9;
    };
    const auto peer =
        std::find_if(arms_.begin(), arms_.end(), [&](const Arm& arm) { return arm.name == fused; });
    const double ceiling = arms_[0].floor_bytes / one(arms_[0]);
    for (const Arm& arm : arms_) {
      const double ns = one(arm);
      nlohmann::json row;
      row["optimizer"] = arm.name;
      row["shape"] = arm.subject.shape;
      row["elements"] = arm.subject.elements;
      row["threads"] = arm.subject.threads;
      row["ns_per_element"] = ns;
      row["bytes_per_element"] = arm.bytes;
      row["floor_bytes_per_element"] = arm.floor_bytes;
      row["gb_per_s"] = arm.bytes / ns;
      row["share_of_ceiling"] = arm.floor_bytes / ns / ceiling;
      row["ratio_to_fused_adamw"] =
          peer == arms_.end() ? nlohmann::json() : nlohmann::json(ns / one(*peer));
      row["state_bytes_per_parameter"] = arm.state_bytes;
      rows.push_back(std::move(row));
    }
    return rows;
  }

  /// Prints rows() as a table; "x ceiling" is the time beside that of the first arm.
  void print(const std::string& fused) const {
    fmt::print("{:<38}{:>9}{:>7}{:>7}{:>7}{:>9}{:>11}{:>9}{:>7}\n", "optimizer", "ns/el", "B/el",
               "floor", "GB/s", "% ceil.", "x ceiling", "x fused", "state");
    const nlohmann::json table = rows(fused);
    for (const auto& row : table) {
      const auto number = [](const nlohmann::json& x) { return x.is_null() ? 0 : x.get<double>(); };
      const double ns = number(row["ns_per_element"]);
      fmt::print("{:<38}{:>9.4f}{:>7.1f}{:>7.1f}{:>7.1f}{:>8.0f}%{:>11.3f}{:>9.3f}{:>7.1f}\n",
                 row["optimizer"].get<std::string>(), ns, number(row["bytes_per_element"]),
                 number(row["floor_bytes_per_element"]), number(row["gb_per_s"]),
                 100 * number(row["share_of_ceiling"]), ns / number(table[0]["ns_per_element"]),
                 number(row["ratio_to_fused_adamw"]), number(row["state_bytes_per_parameter"]));
    }
  }

 private:
  Subject subject_;
  std::function<void()> refresh_;
  std::vector<Arm> arms_;
  std::mt19937 shuffle_{1};
};

/// Named lists of parameter shapes: one (16 Mi elements in one tensor), small (2000 of 2048), gpt2
/// (124 M), smollm2 (135 M), llama (a block of Llama-2-7B), or one tensor of a number of elements,
/// 4096 or 2^12.
/// @throws std::invalid_argument for another name
inline std::vector<std::vector<std::int64_t>> shapes(const std::string& name) {
  using Shapes = std::vector<std::vector<std::int64_t>>;
  if (name == "one") return {{4096, 4096}};
  if (name == "small") return Shapes(2000, {32, 64});
  if (name == "gpt2") {
    Shapes list = {{50257, 768}, {1024, 768}};
    const Shapes layer = {{768}, {768}, {768, 2304}, {2304}, {768, 768},  {768},
                          {768}, {768}, {768, 3072}, {3072}, {3072, 768}, {768}};
    for (int i = 0; i < 12; ++i) list.insert(list.end(), layer.begin(), layer.end());
    list.insert(list.end(), 2, {768});
    return list;
  }
  if (name == "smollm2") {
    Shapes list = {{49152, 576}};
    const Shapes layer = {{576, 576},  {192, 576},  {192, 576}, {576, 576}, {1536, 576},
                          {1536, 576}, {576, 1536}, {576},      {576}};
    for (int i = 0; i < 30; ++i) list.insert(list.end(), layer.begin(), layer.end());
    list.push_back({576});
    return list;
  }
  if (name == "llama") {
    Shapes list(4, {4096, 4096});
    list.insert(list.end(), 3, {11008, 4096});
    list.insert(list.end(), 2, {4096});
    return list;
  }
  const bool power = name.rfind("2^", 0) == 0;
  const std::string digits = power ? name.substr(2) : name;
  if (!digits.empty() && digits.size() < 12 &&
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    const std::int64_t number = std::stoll(digits);
    if (!power && number > 0) return {{number}};
    if (power && number < 37) return {{std::int64_t{1} << number}};
  }
  throw std::invalid_argument(
      "alkn_bench::shapes: expected one, small, gpt2, smollm2, llama or a positive number of "
      "elements, "
      "got \"" +
      name + "\"");
}

/// Those of `all` (anything with a `name`) that are named; no names: all, in their order.
/// @throws std::invalid_argument for a name that is not there
template <class Named>
std::vector<Named> chosen(const std::vector<Named>& all, const std::vector<std::string>& names) {
  if (names.empty()) return all;
  std::vector<Named> list;
  for (const std::string& name : names) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Named& x) { return x.name == name; });
    if (found == all.end()) {
      std::string known;
      for (const Named& x : all) known += (known.empty() ? "\"" : ", \"") + x.name + "\"";
      throw std::invalid_argument("alkn_bench: expected an arm of " + known + ", got \"" + name +
                                  "\"");
    }
    list.push_back(*found);
  }
  return list;
}

/// The name of the processor, as Linux gives it.
inline std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}
inline int num_cores() { return static_cast<int>(std::thread::hardware_concurrency()); }

/// Timings of any other build would say nothing.
/// @throws std::runtime_error unless `build_type` is Release
inline void require_release(const std::string& build_type) {
  if (build_type == "Release") return;
  throw std::runtime_error("expected a Release build, got \"" + build_type + "\"");
}

/// A JSON file that is known to be writable before anything is measured.
class JsonFile {
 public:
  /// Makes its folder. @throws std::runtime_error if the file cannot be written
  explicit JsonFile(std::string path) : path_(std::move(path)) {
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    std::error_code ignored;  // the file's own error says more
    if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
    if (!std::ofstream(path_, std::ios::app)) fail();
  }
  void write(const nlohmann::json& value) const {
    std::ofstream file(path_);
    file << value.dump(1) << '\n';
    file.close();
    if (!file) fail();
    fmt::print("\nwrote {}\n", path_);
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error("alkn_bench::JsonFile: expected a file that can be written, got \"" +
                             path_ + "\"");
  }
  std::string path_;
};

}  // namespace alkn_bench
