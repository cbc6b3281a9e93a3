// What the benchmark of the GPU is asked and what it says: arguments, times, bars, JSON. No
// LibTorch and no CUDA in here.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness.hpp"

namespace alkn_bench::gpu {

struct Settings {
  std::string path;  ///< of the JSON
  std::int64_t elements = std::int64_t{256} << 20;
  int rounds = 15;
};

inline constexpr const char* kUsage = "usage: gpu_step FILE.json [MEBI_ELEMENTS [ROUNDS]]";

/// FILE.json [MEBI_ELEMENTS [ROUNDS]]. @throws std::invalid_argument with a sentence
inline Settings parse(const std::vector<std::string>& arguments) {
  const auto number = [](const std::string& text, const char* name, std::int64_t largest) {
    const bool digits =
        !text.empty() && text.size() < 8 &&
        std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    const std::int64_t value = digits ? std::stoll(text) : 0;
    if (value >= 1 && value <= largest) return value;
    throw std::invalid_argument(
        fmt::format("expected {} in 1 .. {}, got \"{}\"\n{}", name, largest, text, kUsage));
  };
  if (arguments.empty() || arguments.size() > 3) {
    throw std::invalid_argument(
        fmt::format("expected 1 to 3 arguments, got {}\n{}", arguments.size(), kUsage));
  }
  Settings settings;
  settings.path = arguments[0];
  if (arguments.size() > 1) settings.elements = number(arguments[1], "MEBI_ELEMENTS", 4096) << 20;
  if (arguments.size() > 2) {
    settings.rounds = static_cast<int>(number(arguments[2], "ROUNDS", 10000));
  }
  return settings;
}

/// The times of one competitor.
struct Times {
  std::string name;
  std::int64_t elements = 0;
  double floor_bytes = 0;  ///< an element, that cannot be less
  std::vector<double> ms = {};

  /// @throws std::logic_error before the first round
  [[nodiscard]] double median() const {
    if (ms.empty()) throw std::logic_error("alkn_bench::gpu::Times: no step of " + name + " yet");
    return alkn_bench::median(ms);
  }
  /// Floor bytes a millisecond.
  [[nodiscard]] double rate() const {
    return floor_bytes * static_cast<double>(elements) / median();
  }
};

struct Bar {
  std::string name;
  double value, bound;
  bool at_most;
  [[nodiscard]] bool met() const { return at_most ? value <= bound : value >= bound; }
};

/// A part that was not measured for want of memory.
struct Skipped {
  std::string name;
  std::int64_t needed_bytes = 0, free_bytes = 0;
};

class Report {
 public:
  explicit Report(std::string device) : device_(std::move(device)) {}

  void add(const std::vector<Times>& arms) { arms_.insert(arms_.end(), arms.begin(), arms.end()); }
  void add(Skipped part) { skipped_.push_back(std::move(part)); }
  void at_most(const std::string& name, double value, double bound) {
    bars_.push_back({name, value, bound, true});
  }
  void at_least(const std::string& name, double value, double bound) {
    bars_.push_back({name, value, bound, false});
  }

  /// @throws std::out_of_range for an arm that is not there
  [[nodiscard]] const Times& arm(const std::string& name) const {
    for (const Times& t : arms_) {
      if (t.name == name) return t;
    }
    throw std::out_of_range("alkn_bench::gpu::Report: expected an arm, got \"" + name + "\"");
  }
  [[nodiscard]] double ratio(const std::string& of, const std::string& to) const {
    return arm(of).median() / arm(to).median();
  }
  /// The time of an arm beside that of its floor bytes at the rate of the first arm, the copy.
  [[nodiscard]] double over_floor(const std::string& name) const {
    return arms_.at(0).rate() / arm(name).rate();
  }
  [[nodiscard]] bool all_met() const {
    return std::all_of(bars_.begin(), bars_.end(), [](const Bar& bar) { return bar.met(); });
  }

  [[nodiscard]] nlohmann::json json() const {
    nlohmann::json out;
    out["device"] = device_;
    for (const char* list : {"arms", "bars", "skipped"}) out[list] = nlohmann::json::array();
    for (const Times& t : arms_) {
      out["arms"].push_back({{"name", t.name},
                             {"elements", t.elements},
                             {"ms", t.median()},
                             {"floor_bytes", t.floor_bytes},
                             {"gb_per_s", t.rate() * 1e-6},
                             {"share_of_copy", t.rate() / arms_[0].rate()}});
    }
    for (const Bar& bar : bars_) {
      out["bars"].push_back({{"name", bar.name},
                             {"value", bar.value},
                             {"bound", bar.bound},
                             {"kind", bar.at_most ? "at most" : "at least"},
                             {"met", bar.met()}});
    }
    for (const Skipped& part : skipped_) {
      out["skipped"].push_back({{"name", part.name},
                                {"needed_bytes", part.needed_bytes},
                                {"free_bytes", part.free_bytes}});
    }
    return out;
  }

  void print() const {
    fmt::print("{}\n{:<44} {:>9} {:>9} {:>8}\n", device_, "arm", "ms", "GB/s", "of copy");
    for (const Times& t : arms_) {
      fmt::print("{:<44} {:>9.3f} {:>9.1f} {:>8.3f}\n", t.name, t.median(), t.rate() * 1e-6,
                 t.rate() / arms_[0].rate());
    }
    for (const Bar& bar : bars_) {
      fmt::print("{:<56} {:>7.3f}, {} {:.2f}: {}\n", bar.name, bar.value,
                 bar.at_most ? "at most" : "at least", bar.bound, bar.met() ? "met" : "MISSED");
    }
    for (const Skipped& part : skipped_) {
      fmt::print("{}: skipped, it needs {} bytes of memory, and {} are free\n", part.name,
                 part.needed_bytes, part.free_bytes);
    }
  }

 private:
  std::string device_;
  std::vector<Times> arms_;
  std::vector<Bar> bars_;
  std::vector<Skipped> skipped_;
};

/// `elements` in `count` tensors of sizes that differ by a factor of a hundred.
inline std::vector<std::int64_t> uneven_sizes(std::int64_t elements, std::int64_t count) {
  std::vector<std::int64_t> list;
  std::int64_t left = elements;
  for (std::int64_t i = 0; i < count - 1; ++i) {
    list.push_back(elements / count * (i % 10 == 0 ? 500 : i % 10 == 1 ? 5 : 60) / 100);
    left -= list.back();
  }
  list.push_back(left);
  return list;
}

/// The parameters of Llama-2-7B.
inline std::vector<std::int64_t> llama_2_7b() {
  std::vector<std::int64_t> list(2, std::int64_t{32000} * 4096);
  for (int layer = 0; layer < 32; ++layer) {
    for (const auto& shape : shapes("llama")) {
      list.push_back(shape.size() == 2 ? shape[0] * shape[1] : shape[0]);
    }
  }
  list.push_back(4096);
  return list;
}

/// What the steps of a bfloat16 model with fp32 masters and the compact state keep: 2 bytes each of
/// parameter, gradient, retain gradient, score and two moments, 4 of the master, and two masks.
inline std::int64_t compact_state_bytes(const std::vector<std::int64_t>& sizes) {
  std::int64_t bytes = 0;
  for (const std::int64_t n : sizes) bytes += 16 * n + 2 * 8 * ((n + 63) / 64);
  return bytes;
}

}  // namespace alkn_bench::gpu
