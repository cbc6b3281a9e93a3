// How many bytes a run on a checkpoint will take, part by part, before it starts.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "continual/batch.hpp"
#include "continual/settings.hpp"
#include "models/causal_model.hpp"

namespace continual {

/// Bytes by what they are for. The plan's peak is in a step of a first request.
struct MemoryPlan {
  std::vector<std::pair<std::string, double>> parts;
  std::vector<std::pair<std::string, double>> savings;  ///< what other settings would do

  [[nodiscard]] double total() const {
    double sum = 0;
    for (const auto& [name, bytes] : parts) sum += bytes;
    return sum;
  }
};

namespace detail {

/// A line of /proc in kB ("VmRSS:", "MemAvailable:") as bytes; 0 where there is none.
inline double proc_bytes(const char* file, const std::string& key) {
  std::ifstream stream(file);
  for (std::string word; stream >> word;) {
    if (word == key) {
      double kilobytes = 0;
      stream >> kilobytes;
      return 1024 * kilobytes;
    }
  }
  return 0;
}

/// Numbers that autograd keeps for one token in one block. Padding has none: models leave it out.
inline double kept_per_token(const models::Config& c) {
  const auto hidden = static_cast<double>(c.hidden), inner = static_cast<double>(c.intermediate);
  const auto queries = static_cast<double>(c.heads * c.head_size);
  const auto keys = static_cast<double>(c.key_value_heads * c.head_size);
  // Rotated queries and keys, values, and the result twice: of sequences, and of rows.
  const double attention = 3 * queries + 2 * keys;
  if (c.family == "llama") return 6 * hidden + attention + 4 * inner;
  return (c.family == "phi" ? 2 : 4) * hidden + attention + 2 * inner;
}

/// Tokens and answer rows of the largest batch.
inline std::pair<double, double> largest_batch(const EncodedData& data, std::int64_t batch) {
  std::vector<std::pair<std::size_t, std::int64_t>> sizes;
  const auto add = [&](const Samples& samples) {
    for (const Sample& sample : samples) {
      const auto answer = std::count_if(sample.labels.begin(), sample.labels.end(),
                                        [](std::int64_t label) { return label != kNotCounted; });
      sizes.emplace_back(sample.tokens.size(), answer);
    }
  };
  for (const EncodedRequest& request : data.requests) add(request.forget);
  add(data.shown);
  std::sort(sizes.rbegin(), sizes.rend());
  double tokens = 0, rows = 0;
  for (std::size_t i = 0; i < std::min(sizes.size(), static_cast<std::size_t>(batch)); ++i) {
    tokens += static_cast<double>(sizes[i].first);
    rows += static_cast<double>(sizes[i].second);
  }
  return {tokens, rows};
}

}  // namespace detail

/// @param weights, trained: numbers of them  @param batch samples that go through the model at once
inline MemoryPlan memory_plan(const models::Config& config, double weights, double trained,
                              const Settings& settings, const EncodedData& data,
                              const std::string& method, std::int64_t batch, double program) {
  const bool narrow = settings.pretrained.dtype == "bfloat16";
  const double size = narrow ? 2 : 4;
  const bool masked = method == "alkn";
  const bool negates = masked || method == "task-vector";
  const auto [tokens, rows] = detail::largest_batch(data, batch);
  const auto layers = static_cast<double>(config.layers);
  const auto vocabulary = static_cast<double>(config.vocabulary);
  const auto hidden = static_cast<double>(config.hidden);
  const double all_blocks = tokens * layers * detail::kept_per_token(config) * size;
  const double one_block = all_blocks / layers + tokens * layers * hidden * size;
  const double activations = settings.pretrained.recompute ? one_block : all_blocks;
  const double logits = 2 * rows * vocabulary * size;

  MemoryPlan plan;
  plan.parts = {{"program and libraries", program},
                {"weights", weights * size},
                {"gradients", trained * size}};
  if (narrow) plan.parts.emplace_back("fp32 masters", 4 * trained);
  plan.parts.emplace_back("AdamW's moments", 8 * trained);
  if (negates) plan.parts.emplace_back("weights before the request", 4 * trained);
  if (masked) {
    plan.parts.emplace_back("retain gradient", (narrow ? 2 : 4) * trained);
    plan.parts.emplace_back("score and masks", 4.25 * trained);
  }
  if (settings.method == "all") plan.parts.emplace_back("start of every method", size * trained);
  plan.parts.emplace_back("activations", activations);
  plan.parts.emplace_back("logits and their gradient", logits);
  // The embedding's gradient is summed of two of its size where the head is tied to it.
  if (config.tied) plan.parts.emplace_back("second embedding gradient", vocabulary * hidden * size);

  if (!settings.pretrained.recompute)
    plan.savings.emplace_back("--recompute", all_blocks - one_block);
  if (!narrow) {
    plan.savings.emplace_back("--dtype bfloat16", activations / 2 + logits / 2 + 2 * weights +
                                                      (masked ? 4 : 2) * trained - 4 * trained);
  }
  if (batch > 1) {
    plan.savings.emplace_back(fmt::format("--micro-batch {}", batch / 2),
                              (activations + logits) / 2);
  }
  if (trained == weights && config.layers > 1) {
    const double half = weights / 2;
    plan.savings.emplace_back("--train half of the weights",
                              half * (size + 8 + (negates ? 4 : 0) + (masked ? 8.25 : 0)));
  }
  return plan;
}

inline void print_plan(const MemoryPlan& plan) {
  constexpr double kMebi = 1024.0 * 1024.0;
  fmt::print("memory, MiB:\n");
  for (const auto& [name, bytes] : plan.parts)
    fmt::print("  {:<28}{:>8.0f}\n", name, bytes / kMebi);
  fmt::print("  {:<28}{:>8.0f}\n", "peak", plan.total() / kMebi);
  for (const auto& [name, bytes] : plan.savings) {
    if (bytes > 0) fmt::print("  {:<28}{:>8.0f} less\n", name, bytes / kMebi);
  }
}

/// Throws std::runtime_error where the machine has less memory free than the plan still needs.
inline void require_memory(const MemoryPlan& plan, double program) {
  constexpr double kMebi = 1024.0 * 1024.0;
  const double available = detail::proc_bytes("/proc/meminfo", "MemAvailable:");
  const double needed = plan.total() - program;
  if (available > 0 && needed > available) {
    data_error(fmt::format("{:.0f} MiB of free memory", needed / kMebi),
               fmt::format("{:.0f} MiB", available / kMebi), "--dry-run shows the parts");
  }
}

}  // namespace continual
