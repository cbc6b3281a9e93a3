// Gradients for a benchmark's parameters: normal ones of any scale, and ones like a real model's,
// drawn from what record_gradients has counted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace alkn_bench {

/// What a tensor of this shape is in a transformer.
inline std::string kind_of(const std::vector<std::int64_t>& shape) {
  if (shape.size() < 2) return "norm";
  const auto [least, most] = std::minmax_element(shape.begin(), shape.end());
  if (*most >= 30000) return "embedding";
  return *most > 2 * *least && *least > 256 ? "mlp" : "attention";
}

/// G_r, and a gradient g of a step, for element after element of a tensor.
class GradientSource {
 public:
  virtual ~GradientSource() = default;
  /// Element `i` of the tensor begins at place `shift` of the source.
  virtual void retain(const std::string& kind, float* out, std::int64_t size) const = 0;
  /// @param draw tells one step's gradients from another's  @param progress of the task, 0 to 1
  virtual void gradient(const std::string& kind, std::uint64_t draw, double progress, float* out,
                        std::int64_t size) const = 0;

 protected:
  GradientSource() = default;
  GradientSource(const GradientSource&) = default;
  GradientSource& operator=(const GradientSource&) = default;
};

/// Copies `pool`, over and over, from place `at` on.
inline void copy_from(const std::vector<float>& pool, std::uint64_t at, float* out,
                      std::int64_t size) {
  auto place = static_cast<std::size_t>(at % pool.size());
  for (std::int64_t done = 0; done < size;) {
    const auto count =
        std::min<std::int64_t>(size - done, static_cast<std::int64_t>(pool.size() - place));
    std::copy_n(pool.data() + place, count, out + done);
    done += count, place = 0;
  }
}

/// Normal numbers with a standard deviation of `scale`, both for g and for G_r.
class NormalGradients : public GradientSource {
 public:
  explicit NormalGradients(double scale) : retain_(kPool), pool_(kPool) {
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal(0, scale);
    for (float& x : retain_) x = static_cast<float>(normal(random));
    for (float& x : pool_) x = static_cast<float>(normal(random));
  }
  void retain(const std::string&, float* out, std::int64_t size) const override {
    copy_from(retain_, 0, out, size);
  }
  void gradient(const std::string&, std::uint64_t draw, double, float* out,
                std::int64_t size) const override {
    copy_from(pool_, draw, out, size);
  }

 private:
  static constexpr std::size_t kPool = (1 << 21) + 7919;  // no multiple of a chunk
  std::vector<float> retain_, pool_;
};

/// Gradients with the joint distribution of (|g|, |G_r|) that a real model had, by kind of tensor,
/// at the first, the middle and the last step of a task; signs at random, magnitudes uniform in the
/// logarithm within a bin. An entry keeps its G_r, and at every step has a g that goes with it.
class RealGradients : public GradientSource {
 public:
  /// @param path the JSON of record_gradients  @throws std::runtime_error if it is not one
  explicit RealGradients(const std::string& path) {
    std::ifstream file(path);
    const nlohmann::json all = nlohmann::json::parse(file, nullptr, false);
    if (!all.is_object() || !all.contains("kinds")) {
      throw std::runtime_error(
          "alkn_bench::RealGradients: expected the JSON of record_gradients, "
          "got another file or none (" +
          path + ")");
    }
    width_ = all.at("octaves").get<double>();
    for (const auto& [kind, steps] : all.at("kinds").items()) {
      pools_.emplace(kind, Pool(steps, width_));
    }
  }
  void retain(const std::string& kind, float* out, std::int64_t size) const override {
    copy_from(pools_.at(kind).retain, 0, out, size);
  }
  void gradient(const std::string& kind, std::uint64_t draw, double progress, float* out,
                std::int64_t size) const override {
    const auto& steps = pools_.at(kind).gradients;
    const auto step = std::min(
        steps.size() - 1, static_cast<std::size_t>(progress * static_cast<double>(steps.size())));
    copy_from(steps[step][draw % kDraws], 0, out, size);
  }

 private:
  static constexpr std::size_t kPool = (1 << 20) + 7919;
  static constexpr std::size_t kDraws = 3;

  /// One bin: [log2 |g|, log2 |G_r|, share], the lower ends of the bins; null where it is 0.
  struct Bin {
    double g, r, share;
    bool g_is_zero, r_is_zero;
  };

  struct Pool {
    std::vector<float> retain;
    std::vector<std::vector<std::vector<float>>> gradients;  // [step][draw][entry]

    Pool(const nlohmann::json& steps, double width) : retain(kPool) {
      std::mt19937_64 random(2);
      std::vector<std::vector<Bin>> bins;
      for (const auto& step : steps) bins.push_back(read(step));
      // entries of the pool have the G_r of the first step's bins, in any order
      std::vector<double> shares;
      for (const Bin& bin : bins.front()) shares.push_back(bin.share);
      std::discrete_distribution<std::size_t> any(shares.begin(), shares.end());
      std::vector<double> key(kPool);
      for (std::size_t i = 0; i < kPool; ++i) {
        const Bin& bin = bins.front()[any(random)];
        key[i] = bin.r_is_zero ? kZero : bin.r;
        retain[i] = bin.r_is_zero ? 0.0F : number(bin.r, width, random);
      }
      for (const auto& step : bins) {
        gradients.emplace_back(kDraws, std::vector<float>(kPool));
        std::map<double, std::vector<const Bin*>> by_retain;
        for (const Bin& bin : step) by_retain[bin.r_is_zero ? kZero : bin.r].push_back(&bin);
        std::map<double, std::discrete_distribution<std::size_t>> given;
        for (const auto& [r, list] : by_retain) {
          std::vector<double> weights;
          for (const Bin* bin : list) weights.push_back(bin->share);
          given.emplace(r, std::discrete_distribution<std::size_t>(weights.begin(), weights.end()));
        }
        for (std::size_t i = 0; i < kPool; ++i) {
          const auto near = nearest(by_retain, key[i]);
          for (auto& draw : gradients.back()) {
            const Bin& bin = *by_retain.at(near)[given.at(near)(random)];
            draw[i] = bin.g_is_zero ? 0.0F : number(bin.g, width, random);
          }
        }
      }
    }

    static constexpr double kZero = -1e9;
    static std::vector<Bin> read(const nlohmann::json& step) {
      std::vector<Bin> bins;
      for (const auto& row : step) {
        const bool no_g = row.at(0).is_null(), no_r = row.at(1).is_null();
        bins.push_back({no_g ? 0 : row.at(0).get<double>(), no_r ? 0 : row.at(1).get<double>(),
                        row.at(2).get<double>(), no_g, no_r});
      }
      return bins;
    }
    /// The bin of G_r that a step has counted, at or next to `key`.
    static double nearest(const std::map<double, std::vector<const Bin*>>& bins, double key) {
      const auto above = bins.lower_bound(key);
      if (above == bins.begin()) return above->first;
      if (above == bins.end()) return bins.rbegin()->first;
      const auto below = std::prev(above);
      return above->first - key <= key - below->first ? above->first : below->first;
    }
    static float number(double low, double width, std::mt19937_64& random) {
      const double at = low + width * std::uniform_real_distribution<double>()(random);
      return static_cast<float>(random() % 2 == 0 ? std::exp2(at) : -std::exp2(at));
    }
  };

  double width_ = 1;
  std::map<std::string, Pool> pools_;
};

}  // namespace alkn_bench
