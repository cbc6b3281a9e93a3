// A function of one tensor whose gradient is written by hand. torch::autograd::Function would do:
// but every file compiles what it makes of each function for torch.compile.
#pragma once

#include <ATen/FuncTorchTLS.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <alkn/tensor/autograd.hpp>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

using at::Tensor;

/// The node of such a function in LibTorch's graph.
class GradientNode : public torch::autograd::Node {
 public:
  /// The gradient by the function's input. @param saved what the forward pass has saved
  /// @param grad by its result
  using Backward = Tensor (*)(const std::vector<Tensor>& saved, const Tensor& grad);

  GradientNode(const char* name, Backward backward) : name_(name), backward_(backward) {}

  [[nodiscard]] std::string name() const override { return name_; }

  void save(const std::vector<Tensor>& tensors) {
    for (const Tensor& t : tensors) {
      // one of c10::InferenceMode cannot be a saved variable; nothing writes to such a tensor
      const bool tracked = t.defined() && !t.is_inference();
      saved_.push_back({tracked ? torch::autograd::SavedVariable(t, /*is_output=*/false)
                                : torch::autograd::SavedVariable(),
                        tracked ? Tensor() : t});
    }
  }

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    refuse_create_graph(name_);
    TORCH_CHECK(!released_, torch::autograd::ERR_BACKWARD_TWICE);
    if (!grads[0].defined()) return {Tensor()};
    std::vector<Tensor> tensors;
    tensors.reserve(saved_.size());
    for (const Saved& one : saved_)
      tensors.push_back(one.untracked.defined() ? one.untracked : one.tracked.unpack());
    return {backward_(tensors, grads[0])};
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    saved_.clear();
    released_ = true;
  }

 private:
  struct Saved {
    torch::autograd::SavedVariable tracked;
    Tensor untracked;
  };

  const char* name_;
  Backward backward_;
  std::vector<Saved> saved_;
  bool released_ = false;
};

/// A function's result, and what its gradient needs.
struct Forward {
  Tensor result;
  std::vector<Tensor> saved;
};

/// The result of `forward`, differentiable once by `input`.
/// @param name of the function, for error texts
/// @throws c10::NotImplementedError where the input has a forward-mode gradient, and in the
/// backward pass with create_graph
inline Tensor with_gradient(const char* name, const Tensor& input,
                            const std::function<Forward()>& forward,
                            GradientNode::Backward backward) {
  if (const auto& functorch = at::functorch::functorchTLSAccessor())
    functorch->checkSupportsCppAutogradFunction();
  TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(input), "alkn::", name,
                              ": expected a tensor without a forward-mode gradient, got one with "
                              "it (the function has none)");
  std::shared_ptr<GradientNode> node;
  if (at::GradMode::is_enabled() && input.requires_grad()) {
    node = std::shared_ptr<GradientNode>(new GradientNode(name, backward),
                                         torch::autograd::deleteNode);
    node->set_next_edges(torch::autograd::collect_next_edges(input));
  }
  Forward pass = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return forward();
  }();
  if (node) {
    torch::autograd::set_history(pass.result, node);
    node->save(pass.saved);
  }
  return std::move(pass.result);
}

}  // namespace alkn::detail
