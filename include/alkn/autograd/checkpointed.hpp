// Activation checkpointing: a block keeps its inputs in place of its activations, and runs again in
// the backward pass.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <alkn/autograd/block_graph.hpp>
#include <alkn/tensor/autograd.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn {

using at::Tensor;

namespace detail {

/// The default generators of the CPU and of a block's device, as they are.
class GeneratorStates {
 public:
  explicit GeneratorStates(const std::vector<Tensor>& tensors) {
    add(at::kCPU);
    for (const Tensor& t : tensors) {  // a block's tensors are on one device
      if (states_.size() == 1 && t.is_cuda()) add(t.device());
    }
  }
  void restore() const {
    for (const auto& [device, state] : states_) {
      at::Generator generator = at::globalContext().defaultGenerator(device);
      const std::lock_guard<std::mutex> lock(generator.mutex());
      generator.set_state(state);
    }
  }

 private:
  void add(const at::Device& device) {
    at::Generator generator = at::globalContext().defaultGenerator(device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    states_.emplace_back(device, generator.get_state());
  }
  std::vector<std::pair<at::Device, Tensor>> states_;
};

/// Takes the hooks of tensors away for a scope. What is found in it goes to the caller's own
/// backward pass, which runs them: a second time, they would change the gradient twice.
class WithoutHooks {
 public:
  explicit WithoutHooks(const std::vector<Tensor>& tensors) {
    for (const Tensor& t : tensors) {
      const auto node = torch::autograd::impl::gradient_edge(t).function;
      if (!node || node->tensor_pre_hooks().empty()) continue;
      taken_.emplace_back(node, Hooks()).second.swap(node->tensor_pre_hooks());
    }
  }
  ~WithoutHooks() {
    for (auto& [node, hooks] : taken_) node->tensor_pre_hooks().swap(hooks);
  }
  WithoutHooks(const WithoutHooks&) = delete;
  WithoutHooks& operator=(const WithoutHooks&) = delete;

 private:
  using Hooks = std::vector<std::unique_ptr<torch::autograd::FunctionPreHook>>;
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, Hooks>> taken_;
};

struct Checkpointed : torch::autograd::Function<Checkpointed> {
  static constexpr const char* kName = "checkpointed";
  using Tensors = torch::autograd::variable_list;
  using Block = std::function<Tensor(const Tensors& inputs)>;

  /// What the backward pass runs again.
  struct Run : torch::CustomClassHolder {
    Block block;
    std::size_t num_inputs = 0;
    GeneratorStates generators;
    Run(Block b, std::size_t n, GeneratorStates g)
        : block(std::move(b)), num_inputs(n), generators(std::move(g)) {}
  };

  /// @param list the inputs, then the parameters; as a TensorList, or LibTorch does not see them
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Block& block,
                        std::size_t num_inputs, at::TensorList list) {
    const Tensors tensors = list.vec();
    const Tensors inputs(tensors.begin(),
                         tensors.begin() + static_cast<std::ptrdiff_t>(num_inputs));
    std::vector<std::int64_t> versions;
    for (const Tensor& t : tensors) versions.push_back(version_of(t));
    auto run = c10::make_intrusive<Run>(block, num_inputs, GeneratorStates(tensors));
    const Tensor result = block(inputs);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      TORCH_CHECK(version_of(tensors[i]) == versions[i], "alkn::", kName,
                  ": expected a block that leaves its inputs and parameters as they are, got one "
                  "that wrote to ",
                  i < num_inputs ? "input " : "parameter ", i < num_inputs ? i : i - num_inputs);
    }
    ctx->saved_data["run"] = at::IValue::make_capsule(run);
    ctx->save_for_backward(tensors);
    return result;
  }

  static Tensors backward(torch::autograd::AutogradContext* ctx, const Tensors& grads) {
    refuse_create_graph(kName);
    const auto run = c10::static_intrusive_pointer_cast<Run>(ctx->saved_data["run"].toCapsule());
    const Tensors saved = ctx->get_saved_variables();
    const auto num_inputs = static_cast<std::ptrdiff_t>(run->num_inputs);
    Tensors tensors;  // the inputs as leaves of a graph of their own, the parameters themselves
    for (const Tensor& t : Tensors(saved.begin(), saved.begin() + num_inputs)) {
      tensors.push_back(t.detach().set_requires_grad(t.requires_grad()));
    }
    tensors.insert(tensors.end(), saved.begin() + num_inputs, saved.end());
    const Tensor result = run_again(*run, Tensors(tensors.begin(), tensors.begin() + num_inputs));
    check_leaves(kName, result, tensors);

    Tensors wanted, found;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i].defined() || !tensors[i].requires_grad() || !ctx->needs_input_grad(i))
        continue;
      wanted.push_back(tensors[i]);
      places.push_back(i + 2);  // behind the block and the number
    }
    // grad and not backward: it writes to no .grad, and the caller's engine hands out the gradients
    if (!wanted.empty() && result.requires_grad()) {
      const WithoutHooks scope(wanted);
      found = torch::autograd::grad({result}, wanted, grads, false, false, /*allow_unused=*/true);
    }
    Tensors all(tensors.size() + 2);
    for (std::size_t i = 0; i < found.size(); ++i) all[places[i]] = found[i];
    return all;
  }

 private:
  static std::int64_t version_of(const Tensor& t) {
    return t.is_inference() ? 0 : static_cast<std::int64_t>(t._version());
  }

  /// With the random numbers of the first run; the generators are afterwards where they were.
  static Tensor run_again(const Run& run, const Tensors& inputs) {
    const GeneratorStates now(inputs);
    const at::AutoGradMode with_graph(true);
    run.generators.restore();
    try {
      const Tensor result = run.block(inputs);
      now.restore();
      return result;
    } catch (...) {
      now.restore();
      throw;
    }
  }
};

}  // namespace detail

/// block(inputs...), whose activations are not kept: the backward pass runs the block once more, on
/// the same inputs and with the same random numbers. Same result and gradients to the bit, for a
/// block that is a function of its inputs, its parameters and the default generators.
/// @param block from the tensors `inputs` to one tensor; kept until the backward pass, so it must
/// capture by value what does not live as long. It writes to none of its tensors.
/// @param parameters all tensors that need a gradient and that the block reads beside its inputs
/// @param inputs tensors, undefined ones as well
/// @returns the block's result; differentiable once. Without gradients (under NoGradGuard, or where
/// nothing needs one) the block just runs.
/// @throws c10::Error where the block writes to its inputs or parameters; in the backward pass
/// where it read a tensor that needs a gradient and was not given: the gradient would be lost.
/// torch::autograd::grad, backward() and Task::accumulate_retain_gradient all work through it, also
/// with inputs that need no gradient, as behind a frozen embedding. The generators are after the
/// backward pass where they were before it. What at::autocast did in the first run is not repeated.
/// Cost: the block's forward pass once more; memory: its inputs, a generator's state (5 kB), and
/// one block's activations at a time in the backward pass. Source: Chen et al. 2016,
/// arXiv:1604.06174.
template <class Block, class... Inputs>
Tensor checkpointed(Block block, const std::vector<Tensor>& parameters, const Inputs&... inputs) {
  static_assert(sizeof...(Inputs) > 0, "alkn: a checkpointed block needs at least one input");
  detail::Checkpointed::Tensors tensors;  // LibTorch's functions take none that are undefined
  std::array<std::ptrdiff_t, sizeof...(Inputs)> place{};  // of each input among them, or -1
  std::size_t number = 0;
  for (const Tensor* x : {static_cast<const Tensor*>(&inputs)...}) {
    place[number++] = x->defined() ? std::ssize(tensors) : -1;
    if (x->defined()) tensors.push_back(*x);
  }
  const std::size_t num_inputs = tensors.size();
  for (const Tensor& p : parameters) {
    if (p.defined()) tensors.push_back(p);
  }
  bool any = false;
  for (const Tensor& t : tensors) any = any || t.requires_grad();
  if (!any || !at::GradMode::is_enabled()) return block(inputs...);
  const auto on_list = [block = std::move(block), place](const auto& list) {
    const auto input = [&](std::ptrdiff_t at) {
      return at < 0 ? Tensor() : list[static_cast<std::size_t>(at)];
    };
    return std::apply([&](const auto&... at) -> Tensor { return block(input(at)...); }, place);
  };
  return detail::Checkpointed::apply(detail::Checkpointed::Block(on_list), num_inputs,
                                     at::TensorList(tensors));
}

}  // namespace alkn
