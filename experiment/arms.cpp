#include "experiment/arms.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randperm.h>
#include <alkn/alkn.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "continual/methods.hpp"
#include "continual/unlearn.hpp"

namespace experiment {
namespace {

using continual::Rows;
using continual::Run;
using continual::Strength;

template <class Objective, class Mask, class Ending>
Rows unlearn(const Run& run, alkn::MethodOptions<Objective, Mask, Ending> options) {
  if constexpr (Ending::kNegates) {
    options.negation(run.strength.lambda);
  }
  return continual::Unlearning<alkn::Unlearner<Objective, Mask, Ending>>(run, options).go();
}

/// ALKN with every token's weight 1.
Rows without_soft_labels(const Run& run) {
  return unlearn<alkn::TokenNLL, alkn::LocalizedMask, alkn::Negate>(run, {});
}

Rows without_sparsity(const Run& run) {
  return unlearn<alkn::EntropicSoftLabels, alkn::NoMask, alkn::Negate>(run, {});
}

Rows without_modulation(const Run& run) {
  return unlearn(run, alkn::ALKNOptions().modulation(alkn::Modulation::none));
}

/// The gradients are clipped and masked before the step sees them.
Rows random_mask(const Run& run) {
  return unlearn(
      run, alkn::MethodOptions<alkn::EntropicSoftLabels, alkn::NoMask, alkn::Negate>().max_norm(0));
}

/// The weights that NPO moves stay moved, against the gradient: the entries that help what is kept
/// are those where both gradients agree, which is the sign opposite to that of a negated task.
Rows masked_npo(const Run& run) {
  return unlearn(
      run,
      alkn::MethodOptions<alkn::NegativePreference, alkn::LocalizedMask, alkn::Keep>().alignment(
          1));
}

/// The trainer's own method of that name.
const continual::MethodEntry& entry(const std::string& name) {
  for (const continual::MethodEntry& method : continual::methods()) {
    if (method.name == name) {
      return method;
    }
  }
  continual::data_error("a method of the trainer", name, "experiment");
}

/// What all arms have in common but the rate: twenty passes in batches of 16.
Strength strength(double lr, double lambda, double retain_weight = 0) {
  constexpr std::int64_t kEpochs = 20, kBatch = 16;
  return {lr, lambda, retain_weight, kEpochs, kBatch};
}

/// The learning rates are those that are tried first: near a forget probability of one fifth on
/// made-up authors of a seed that no result comes from.
std::vector<Arm> make_arms() {
  std::vector<Arm> all;
  constexpr double kLambda = 4;  // of `conflict` and what lacks a part of it
  const auto preset = [&](const char* name, double lr, double lambda) {
    all.push_back({std::string("alkn-") + name, std::string("ALKN, ") + name, "alkn", name,
                   strength(lr, lambda), entry("alkn").unlearn});
  };
  preset("conflict", 2.9e-4, kLambda);
  preset("ratio", 1.4e-4, 2);
  preset("reference", 3.1e-4, 0.8);
  preset("paper", 5.6e-4, 0.8);
  const auto ablation = [&](const char* name, const char* text, double lr,
                            Rows (*function)(const Run&)) {
    all.push_back({name, text, "ablation", "conflict", strength(lr, kLambda), function});
  };
  ablation("alkn-no-soft-labels", "ALKN without soft labels", 2.8e-4, &without_soft_labels);
  ablation("alkn-no-sparsity", "ALKN without sparsity", 1e-5, &without_sparsity);
  ablation("alkn-no-modulation", "ALKN without modulation", 2.3e-4, &without_modulation);
  ablation("alkn-random-mask", "ALKN with a random mask, no modulation", 3.4e-5, &random_mask);
  all.back().random_mask = true;
  const auto baseline = [&](const std::string& name, const std::string& text, const char* of,
                            double lr, double retain_weight) {
    const double lambda = name == "task-vector" ? 1 : 0;
    all.push_back(
        {name, text, "baseline", "", strength(lr, lambda, retain_weight), entry(of).unlearn});
  };
  baseline("task-vector", "task vector", "task-vector", 1.15e-4, 0);
  baseline("gradient-ascent", "gradient ascent", "gradient-ascent", 2.2e-5, 0);
  baseline("npo", "NPO", "npo", 2.2e-5, 0);
  const auto with_retain = [&](int weight, double ascent_lr, double npo_lr) {
    const std::string text = std::to_string(weight);
    baseline("gradient-ascent+retain-" + text, "gradient ascent + retain, weight " + text,
             "gradient-ascent+retain", ascent_lr, weight);
    baseline("npo+retain-" + text, "NPO + retain, weight " + text, "npo+retain", npo_lr, weight);
  };
  with_retain(1, 3.4e-5, 2.4e-5);
  with_retain(5, 7e-5, 3.2e-5);
  with_retain(20, 1.5e-4, 6e-5);
  all.push_back(
      {"npo+mask", "NPO under ALKN's mask", "baseline", "", strength(2.1e-4, 0), &masked_npo});
  return all;
}

}  // namespace

const std::vector<Arm>& arms() {
  static const std::vector<Arm> all = make_arms();
  return all;
}

const Arm& arm(const std::string& name) {
  for (const Arm& candidate : arms()) {
    if (candidate.name == name) {
      return candidate;
    }
  }
  continual::data_error("the name of a method", name, "experiment");
}

std::function<void(const std::vector<alkn::TensorReport>&)> record(MaskTrace& trace) {
  return [&trace](const std::vector<alkn::TensorReport>& tensors) {
    std::vector<std::int64_t> counts;
    for (const alkn::TensorReport& tensor : tensors) {
      counts.push_back(std::llround(tensor.fraction_trained * static_cast<double>(tensor.size)));
    }
    trace.push_back(std::move(counts));
  };
}

std::function<void()> mask_at_random(continual::Transformer& model, const MaskTrace& trace,
                                     std::uint64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  auto step = std::make_shared<std::size_t>(0);
  return [&model, &trace, generator, step] {
    constexpr double kMaxNorm = 1;
    const at::NoGradGuard no_grad;
    const auto parameters = model.parameters();
    double square = 0;
    for (const at::Tensor& parameter : parameters) {
      square += parameter.grad().square().sum(at::kDouble).item<double>();
    }
    const double scale = std::min(1.0, kMaxNorm / (std::sqrt(square) + 1e-6));
    const std::vector<std::int64_t>& counts = trace.at((*step)++);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor grad = parameters[i].grad();
      const at::Tensor kept =
          at::randperm(grad.numel(), generator, at::kLong).lt(counts.at(i)).view(grad.sizes());
      grad.mul_(scale).mul_(kept);
    }
  };
}

}  // namespace experiment
