// Replays a file of golden vectors, written by an independent implementation, and measures every
// difference.
#pragma once

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <alkn/alkn.hpp>
#include <alkn/tensor/bits.hpp>

#if !defined(ALKN_PLAIN_GOLDEN)  // where there is no zlib: files that somebody has unpacked
#include <zlib.h>
#endif

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace golden {

using at::Tensor;
/// In the order of the file: it decides ties of the modulation's ranking.
using Json = nlohmann::ordered_json;

/// The bound on every difference, as a share of the largest magnitude that the quantity has had.
inline constexpr double kBound = 1e-6;

inline Json read(const std::filesystem::path& path) {
#if defined(ALKN_PLAIN_GOLDEN)
  std::ifstream file(path);
  if (!file) throw std::runtime_error("golden: expected a readable file, got " + path.string());
  return Json::parse(file);
#else
  const gzFile file = gzopen(path.c_str(), "rb");  // reads plain files too
  if (file == nullptr)
    throw std::runtime_error("golden: expected a readable file, got " + path.string());
  std::string text;
  std::vector<char> block(1 << 20);
  for (int n = 0; (n = gzread(file, block.data(), static_cast<unsigned>(block.size()))) > 0;) {
    text.append(block.data(), static_cast<std::size_t>(n));
  }
  gzclose(file);
  return Json::parse(text);
#endif
}

inline Tensor tensor(const Json& values, at::IntArrayRef shape) {
  std::vector<float> numbers;
  for (const Json& v : values) numbers.push_back(v.get<float>());
  return at::from_blob(numbers.data(), shape, at::kFloat).clone();
}

inline std::vector<double> listed(const Tensor& t) {
  const Tensor flat = t.detach().to(at::kCPU).to(at::kDouble).contiguous().reshape({-1});
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

inline alkn::ALKNOptions options_of(const Json& o, alkn::Backend backend) {
  const std::string modulation = o.at("modulation");
  return alkn::ALKNOptions()
      .score(o.at("score") == "ratio" ? alkn::Score::ratio : alkn::Score::product)
      .alignment(o.at("alignment"))
      .unmask_ratio(o.at("unmask_ratio"))
      .threshold_every(o.at("threshold_every"))
      .penalty(o.at("penalty"))
      .penalty_scale(o.at("score_scale") == "product" ? alkn::PenaltyScale::product
                                                      : alkn::PenaltyScale::gradient)
      .masked(o.at("masked") == "freeze" ? alkn::Masked::freeze : alkn::Masked::gradient)
      .modulation(modulation == "tensor"      ? alkn::Modulation::tensor
                  : modulation == "parameter" ? alkn::Modulation::parameter
                                              : alkn::Modulation::none)
      .low_lr_ratio(o.at("low_lr_ratio"))
      .negation(o.at("negation"))
      .negation_decay(o.at("negation_decay"))
      .lr_decay(o.at("lr_decay"))
      .max_norm(o.at("max_norm"))
      .backend(backend);
}

inline alkn::AdamWOptions base_options_of(const Json& o) {
  return alkn::AdamWOptions(o.at("lr"))
      .betas({o.at("beta1"), o.at("beta2")})
      .eps(o.at("eps"))
      .weight_decay(o.at("weight_decay"));
}

/// The largest difference of each quantity, as a share of its largest magnitude so far; counts of
/// wrong bits.
struct Differences {
  double score = 0, threshold = 0, parameter = 0, negated = 0, clip_scale = 0;
  std::int64_t counts = 0, mask_bits = 0;

  [[nodiscard]] double largest() const {
    return std::max({score, threshold, parameter, negated, clip_scale});
  }
  [[nodiscard]] bool within_bound() const {
    return largest() <= kBound && counts == 0 && mask_bits == 0;
  }
};

class Replay {
 public:
  Replay(const Json& file, alkn::Backend backend, at::Device device = at::kCPU)
      : file_(file),
        device_(device),
        unlearner_(parameters(), options_of(file.at("options"), backend),
                   base_options_of(file.at("options"))) {}

  /// Results come late, as from a device.
  void report_late() {
    alkn::detail::CoreAccess::core(unlearner_)->base().runner().report_late(true);
  }
  /// The table that serves device -1 takes the steps.
  void emulate_cuda() {
    alkn::detail::CoreAccess::core(unlearner_)->base().runner().emulate_cuda(true);
  }

  /// What takes a step, in place of step(). @param step its number in the task, from 0
  void steps_by(std::function<void(alkn::ALKN<>&, std::size_t step)> take_step) {
    take_step_ = std::move(take_step);
  }

  Differences run() {
    for (const Json& record : file_.at("tasks")) run_task(record);
    return differences_;
  }

 private:
  struct Known {  // of one tensor: the magnitudes so far, and entries whose mask may differ
    double score = 0, parameter = 0;
    std::vector<char> doubtful;
  };

  std::vector<alkn::NamedParameter> parameters() {
    for (const auto& [name, shape] : file_.at("shapes").items()) {
      const Tensor t = placed(file_.at("initial").at(name), shape.get<std::vector<std::int64_t>>());
      params_.push_back({name, t.set_requires_grad(true)});
    }
    return params_;
  }

  [[nodiscard]] Tensor placed(const Json& values, at::IntArrayRef shape) const {
    return tensor(values, shape).to(device_);
  }

  auto& states() { return alkn::detail::CoreAccess::core(unlearner_)->parameters(); }

  void run_task(const Json& record) {
    for (auto& [name, known] : known_) known.score = 0;
    auto task =
        unlearner_.begin_task({.steps = static_cast<std::int64_t>(record.at("steps").size())});
    Tensor loss = at::zeros({}, at::TensorOptions(at::kFloat).device(device_));
    for (auto& p : params_) {
      loss = loss +
             p.tensor.mul(placed(record.at("retain_gradient").at(p.name), p.tensor.sizes())).sum();
    }
    task.accumulate_retain_gradient(loss);
    std::size_t step = 0;
    for (const Json& row : record.at("steps")) {
      for (auto& p : params_)
        p.tensor.mutable_grad() = placed(row.at("gradient").at(p.name), p.tensor.sizes());
      take_step_(unlearner_, step++);
      const double scale = row.at("clip_scale");
      differences_.clip_scale = std::max(
          differences_.clip_scale, std::abs(unlearner_.last_step().clip_scale - scale) / scale);
      for (std::size_t i = 0; i < params_.size(); ++i) compare_step(row, i);
    }
    std::map<std::string, Tensor> masks;
    task.end();
    for (std::size_t i = 0; i < params_.size(); ++i) compare_end(record, i);
  }

  void compare_step(const Json& row, std::size_t i) {
    const auto& state = states()[i];
    const std::string& name = state.name;
    Known& known = known_[name];
    known.doubtful.resize(static_cast<std::size_t>(state.param.numel()));
    const auto want = row.at("score").at(name).get<std::vector<double>>();
    differences_.score =
        std::max(differences_.score, compare(want, listed(state.score), known.score, {}));
    const Json& eta = row.at("threshold").at(name);
    double reach = 0;
    if (!eta.is_null()) {
      const double magnitude = std::max(std::abs(eta.get<double>()), known.score);
      differences_.threshold = std::max(
          differences_.threshold, std::abs(eta.get<double>() - state.eta.value()) / magnitude);
      reach = kBound * magnitude;
    }
    const auto mask = listed(alkn::detail::unpack_bits(state.mask, state.shape));
    std::int64_t on = 0;
    for (std::size_t k = 0; k < want.size(); ++k) {
      const auto threshold = static_cast<double>(eta.is_null() ? 0.0F : eta.get<float>());
      const bool trained = eta.is_null() || want[k] > threshold;
      on += mask[k] != 0 ? 1 : 0;
      if (trained == (mask[k] != 0)) continue;
      if (std::abs(want[k] - threshold) <= reach)
        known.doubtful[k] = 1;
      else
        differences_.mask_bits += 1;
    }
    const auto doubtful = std::count(known.doubtful.begin(), known.doubtful.end(), 1);
    const auto count = row.at("unmasked").at(name).get<std::int64_t>();
    if (on != state.num_trained || std::abs(on - count) > doubtful) differences_.counts += 1;
    const auto parameter = row.at("parameter").at(name).get<std::vector<double>>();
    differences_.parameter =
        std::max(differences_.parameter,
                 compare(parameter, listed(state.param), known.parameter, known.doubtful));
  }

  void compare_end(const Json& record, std::size_t i) {
    const auto& state = states()[i];
    Known& known = known_[state.name];
    const auto negated = record.at("negated").at(state.name).get<std::vector<double>>();
    differences_.negated = std::max(differences_.negated, compare(negated, listed(state.param),
                                                                  known.parameter, known.doubtful));
    const auto want = record.at("used").at(state.name).get<std::vector<double>>();
    const auto used = listed(alkn::detail::unpack_bits(state.used, state.shape));
    for (std::size_t k = 0; k < want.size(); ++k) {
      if (want[k] != used[k] && known.doubtful[k] == 0) differences_.mask_bits += 1;
    }
  }

  /// The largest difference as a share of `magnitude`, which grows with `want`.
  static double compare(const std::vector<double>& want, const std::vector<double>& got,
                        double& magnitude, const std::vector<char>& leave_out) {
    double worst = 0;
    for (std::size_t k = 0; k < want.size(); ++k) {
      magnitude = std::max(magnitude, std::abs(want[k]));
      if (!leave_out.empty() && leave_out[k] != 0) continue;
      const double difference = std::abs(want[k] - got.at(k));
      worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    }
    return magnitude > 0 ? worst / magnitude : worst;
  }

  const Json& file_;
  at::Device device_;
  std::vector<alkn::NamedParameter> params_;
  alkn::ALKN<> unlearner_;
  std::function<void(alkn::ALKN<>&, std::size_t)> take_step_ = [](auto& unlearner, std::size_t) {
    unlearner.step();
  };
  std::map<std::string, Known> known_;
  Differences differences_;
};

inline Differences replay(const Json& file, alkn::Backend backend, at::Device device = at::kCPU) {
  return Replay(file, backend, device).run();
}

/// By the CUDA table that serves device -1.
inline Differences replay_emulated(const Json& file) {
  Replay emulated(file, alkn::Backend::cpu);
  emulated.emulate_cuda();
  return emulated.run();
}

}  // namespace golden
