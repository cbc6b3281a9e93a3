// A model as it is to be while it is measured.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include <utility>
#include <vector>

namespace alkn::eval {

/// While it lives the model is in evaluation mode and nothing builds a graph; afterwards every
/// module's mode and the default generators' states are what they were.
class EvaluationScope {
 public:
  /// @param module may be null: a callable without modes
  explicit EvaluationScope(torch::nn::Module* module, at::Device device = at::kCPU) {
    for (const at::Device where : {at::Device(at::kCPU), device}) {
      if (!generators_.empty() && where.is_cpu()) continue;
      at::Generator generator = at::globalContext().defaultGenerator(where);
      generators_.emplace_back(generator, generator.get_state());
    }
    if (module == nullptr) return;
    modes_.emplace_back(module, module->is_training());
    for (const auto& part : module->modules(/*include_self=*/false)) {
      modes_.emplace_back(part.get(), part->is_training());
    }
    module->eval();
  }
  ~EvaluationScope() {
    for (const auto& [part, training] : modes_) {
      if (part->is_training() != training) part->train(training);  // with its children: they follow
    }
    for (auto& [generator, state] : generators_) generator.set_state(state);
  }
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

 private:
  at::NoGradGuard no_grad_;
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;  ///< parents before their children
  std::vector<std::pair<at::Generator, at::Tensor>> generators_;
};

}  // namespace alkn::eval
