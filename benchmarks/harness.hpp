// A harness that compares the cost of optimizer steps: arms take turns, so that what disturbs the
// machine disturbs all.
//
// An optimizer of your own beside these, in ten lines:
//
//     alkn_bench::Model model(alkn_bench::shapes("one"));              // parameters, and fresh
//     gradients every round MyOptimizer mine(model.parameters(), MyOptions()); torch::optim::SGD
//     sgd(model.parameters(), torch::optim::SGDOptions(1e-3)); alkn_bench::Comparison
//     comparison(model); comparison.add({"ceiling", [&] { model.sweep(); }, 28, 28, 8});  // the
//     first arm is what the others' share is of comparison.add({"torch SGD", [&] { sgd.step(); },
//     12, 12, 0}); comparison.add({"mine", [&] { mine.step(); }, 28, 28, 8});       // name, step,
//     bytes moved, least bytes, state comparison.run(25); comparison.print();
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <alkn/kernel/arena.hpp>
#include <alkn/kernel/cpu_threshold.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace alkn_bench {

/// Named lists of parameter shapes: one (16 Mi elements), gpt2 (124 M), llama (a block of
/// Llama-2-7B), small (2000 of 2048), or a number of elements.
/// @throws std::invalid_argument for another name
inline std::vector<std::vector<std::int64_t>> shapes(const std::string& name) {
  std::vector<std::vector<std::int64_t>> list;
  if (name == "one") return {{4096, 4096}};
  if (name == "small") return std::vector<std::vector<std::int64_t>>(2000, {32, 64});
  if (name == "gpt2") {
    list = {{50257, 768}, {1024, 768}};
    for (int layer = 0; layer < 12; ++layer) {
      for (const std::vector<std::int64_t>& shape :
           std::vector<std::vector<std::int64_t>>{{768},
                                                  {768},
                                                  {768, 2304},
                                                  {2304},
                                                  {768, 768},
                                                  {768},
                                                  {768},
                                                  {768},
                                                  {768, 3072},
                                                  {3072},
                                                  {3072, 768},
                                                  {768}}) {
        list.push_back(shape);
      }
    }
    list.push_back({768});
    list.push_back({768});
    return list;
  }
  if (name == "llama") {
    for (int i = 0; i < 4; ++i) list.push_back({4096, 4096});
    for (int i = 0; i < 3; ++i) list.push_back({11008, 4096});
    list.push_back({4096});
    list.push_back({4096});
    return list;
  }
  if (!name.empty() && name.size() < 12 &&
      std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
      std::stoll(name) > 0) {
    return {{std::stoll(name)}};
  }
  throw std::invalid_argument(
      "alkn_bench::shapes: expected one, small, gpt2, llama or a positive number of "
      "elements, got \"" +
      name + "\"");
}

/// Parameters and gradients that LibTorch allocated.
class Model {
 public:
  explicit Model(const std::vector<std::vector<std::int64_t>>& shapes) {
    const at::NoGradGuard no_grad;
    std::int64_t largest = 0;
    for (const auto& shape : shapes) {
      parameters_.push_back(at::randn(shape).mul_(0.02).requires_grad_(true));
      parameters_.back().mutable_grad() = at::zeros(shape);
      elements_ += parameters_.back().numel();
      largest = std::max(largest, parameters_.back().numel());
    }
    noise_ = at::randn({largest + kShifts}).mul_(1e-3);
    arena_.reserve(static_cast<std::size_t>(elements_) * 8);
    for (const at::Tensor& p : parameters_) {
      moments_.push_back(
          {arena_.allocate_array<float>(p.numel()), arena_.allocate_array<float>(p.numel())});
    }
    next_gradients();
  }

  [[nodiscard]] const std::vector<at::Tensor>& parameters() const { return parameters_; }
  [[nodiscard]] std::int64_t elements() const { return elements_; }

  /// Gives the parameters fresh normal gradients: another stretch of one long array of noise.
  void next_gradients() {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& p : parameters_) {
      turn_ = alkn::kernel::mixed(turn_ + 1);
      const auto shift = static_cast<std::int64_t>(turn_ % kShifts);
      p.grad().view({-1}).copy_(noise_.narrow(0, shift, p.numel()));
    }
  }

  /// The ceiling: reads p, g and two moments, writes p and the moments, computes nothing worth
  /// mentioning.
  void sweep() {
    constexpr std::int64_t kPart = 65536;
    for (std::size_t t = 0; t < parameters_.size(); ++t) {
      auto* p = parameters_[t].data_ptr<float>();
      const auto* g = parameters_[t].grad().data_ptr<float>();
      float *m = moments_[t].first, *v = moments_[t].second;
      const std::int64_t n = parameters_[t].numel();
      const auto part = [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) {
          m[i] = m[i] * 0.5F + g[i];
          v[i] = v[i] * 0.5F + g[i];
          p[i] = p[i] + g[i] * 1e-3F;
        }
      };
      if (n < kPart) {
        part(0, n);
      } else {
        at::parallel_for(0, n, kPart, part);
      }
    }
  }

 private:
  std::vector<at::Tensor> parameters_;
  static constexpr std::int64_t kShifts = 1 << 20;
  at::Tensor noise_;
  std::vector<std::pair<float*, float*>> moments_;
  alkn::kernel::Arena arena_;
  std::int64_t elements_ = 0;
  std::uint64_t turn_ = 0;
};

/// One optimizer in a comparison; bytes are per element of a parameter.
struct Arm {
  std::string name;
  std::function<void()> step;
  double bytes = 0;        ///< moved by this implementation
  double floor_bytes = 0;  ///< that any implementation has to move
  double state_bytes = 0;  ///< kept beside parameter and gradient
  int every = 1;           ///< takes part in every so many rounds (for slow ones)
  std::vector<double> seconds = {};

  [[nodiscard]] double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
  [[nodiscard]] double mean() const {
    double sum = 0;
    for (const double s : seconds) sum += s / static_cast<double>(seconds.size());
    return sum;
  }
};

class Comparison {
 public:
  explicit Comparison(Model& model) : model_(model) {
    if (model.elements() == 0)
      throw std::invalid_argument("alkn_bench::Comparison: expected elements, got zero");
  }

  void add(Arm arm) { arms_.push_back(std::move(arm)); }

  /// Every round gives new gradients and runs each arm once, in the order of their addition, after
  /// `warm_up` rounds that are not counted.
  /// @throws std::invalid_argument for fewer than one round
  void run(int rounds, int warm_up = 3) {
    if (rounds < 1) {
      throw std::invalid_argument("alkn_bench::Comparison: expected at least one round, got " +
                                  std::to_string(rounds));
    }
    for (int round = -warm_up; round < rounds; ++round) {
      model_.next_gradients();
      for (Arm& arm : arms_) {
        if (round < 0 ? arm.every > 1 && round < -1 : round % arm.every != 0) continue;
        const auto start = std::chrono::steady_clock::now();
        arm.step();
        const auto stop = std::chrono::steady_clock::now();
        if (round >= 0) arm.seconds.push_back(std::chrono::duration<double>(stop - start).count());
      }
    }
  }

  [[nodiscard]] const std::vector<Arm>& arms() const { return arms_; }

  /// One row of results an arm. @param reference the arm that ratio_to_fused_adamw is against
  [[nodiscard]] nlohmann::json rows(const std::string& shape, const std::string& reference) const {
    const auto n = static_cast<double>(model_.elements());
    double against = 0;
    for (const Arm& arm : arms_) against = arm.name == reference ? arm.median() : against;
    nlohmann::json rows = nlohmann::json::array();
    for (const Arm& arm : arms_) {
      if (arm.seconds.empty()) continue;
      nlohmann::json row;
      row["optimizer"] = arm.name;
      row["shape"] = shape;
      row["elements"] = model_.elements();
      row["threads"] = at::get_num_threads();
      row["ns_per_element"] = arm.median() / n * 1e9;
      row["bytes_per_element"] = arm.bytes;
      row["floor_bytes_per_element"] = arm.floor_bytes;
      row["gb_per_s"] = arm.bytes * n / arm.median() * 1e-9;
      row["share_of_ceiling"] =
          (arm.floor_bytes / arm.median()) / (arms_[0].bytes / arms_[0].median());
      row["ratio_to_ceiling"] = arm.median() / arms_[0].median();
      row["ratio_to_fused_adamw"] =
          against > 0 ? nlohmann::json(arm.median() / against) : nlohmann::json();
      row["state_bytes_per_parameter"] = arm.state_bytes;
      rows.push_back(std::move(row));
    }
    return rows;
  }

  static void print(const nlohmann::json& rows) {
    fmt::print("{:<34}{:>10}{:>8}{:>8}{:>8}{:>9}{:>9}{:>8}\n", "optimizer", "ns/el", "B/el",
               "floor", "GB/s", "x ceil.", "x fused", "state");
    for (const auto& r : rows) {
      const auto number = [&](const char* key) {
        return r.at(key).is_null() ? 0.0 : r.at(key).get<double>();
      };
      fmt::print("{:<34}{:>10.4f}{:>8.1f}{:>8.1f}{:>8.1f}{:>9.3f}{:>9.3f}{:>8.1f}\n",
                 r.at("optimizer").get<std::string>(), number("ns_per_element"),
                 number("bytes_per_element"), number("floor_bytes_per_element"), number("gb_per_s"),
                 number("ratio_to_ceiling"), number("ratio_to_fused_adamw"),
                 number("state_bytes_per_parameter"));
    }
  }

 private:
  Model& model_;
  std::vector<Arm> arms_;
};

}  // namespace alkn_bench
