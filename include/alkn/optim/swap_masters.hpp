// fp32 masters in the place of an optimizer's low-precision parameters, for the time of its step.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>
#include <alkn/step/masters.hpp>

#include <cstddef>
#include <utility>
#include <vector>

namespace alkn::detail {

/// While it lives, a foreign base's param_groups hold the fp32 masters with fp32 gradients in place
/// of the low-precision parameters, so that the base's arithmetic and state are fp32.
class SwapMasters {
 public:
  /// @param optimizer null: nothing is swapped
  /// @param gradients per parameter in group order; undefined: the parameter's own gradient in fp32
  SwapMasters(torch::optim::Optimizer* optimizer, Masters& masters,
              const std::vector<Tensor>& gradients)
      : masters_(masters) {
    if (optimizer == nullptr) return;
    std::vector<Tensor> grads;
    std::size_t i = 0;
    for (auto& group : optimizer->param_groups()) {
      for (Tensor& param : group.params()) {
        const std::size_t index = i++;
        Tensor master = masters.get(param);
        if (!master.defined()) continue;
        Tensor grad = index < gradients.size() ? gradients[index] : Tensor();
        if (!grad.defined() && param.grad().defined()) grad = param.grad().to(at::kFloat);
        grads.push_back(param.grad().defined() ? grad : Tensor());
        swapped_.push_back({&param, master});
        swapped_.back().second.mutable_grad();  // where it will be
      }
    }
    for (std::size_t k = 0; k < swapped_.size(); ++k) {  // nothing throws any more
      auto& [place, other] = swapped_[k];
      other.mutable_grad() = std::move(grads[k]);
      std::swap(*place, other);
    }
  }
  ~SwapMasters() {
    for (auto& [place, original] : swapped_) {
      place->mutable_grad().reset();
      *place = original;
    }
  }
  SwapMasters(const SwapMasters&) = delete;
  SwapMasters& operator=(const SwapMasters&) = delete;

  /// Rounds the masters of the parameters that had a gradient into them.
  void write_back() {
    const at::NoGradGuard no_grad;
    for (auto& [place, original] : swapped_) {
      if (!place->grad().defined()) continue;
      original.copy_(*place);
      masters_.agree(original);
    }
  }

 private:
  Masters& masters_;
  std::vector<std::pair<Tensor*, Tensor>> swapped_;
};

}  // namespace alkn::detail
