// What a graph of autograd's leads to.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <set>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace alkn::detail {

/// Throws where the graph of `result` leads to a leaf that needs a gradient and is none of `known`;
/// what lies behind one of these is not looked at.
inline void check_leaves(std::string_view owner, const at::Tensor& result,
                         const std::vector<at::Tensor>& known) {
  std::set<std::pair<const torch::autograd::Node*, std::uint32_t>> ends;
  for (const at::Tensor& t : known) {
    if (!t.defined() || !t.requires_grad()) continue;
    const torch::autograd::Edge edge = torch::autograd::impl::gradient_edge(t);
    ends.emplace(edge.function.get(), edge.input_nr);
  }
  if (!result.requires_grad()) return;
  std::vector<torch::autograd::Edge> open{torch::autograd::impl::gradient_edge(result)};
  std::unordered_set<const torch::autograd::Node*> seen;
  while (!open.empty()) {
    const torch::autograd::Edge edge = open.back();
    open.pop_back();
    if (!edge.is_valid() || ends.count({edge.function.get(), edge.input_nr}) != 0) continue;
    if (!seen.insert(edge.function.get()).second) continue;
    const auto* leaf = dynamic_cast<const torch::autograd::AccumulateGrad*>(edge.function.get());
    TORCH_CHECK(leaf == nullptr, "alkn::", owner,
                ": expected all tensors that the block reads and that need a gradient among its "
                "inputs and parameters, got another of ",
                leaf == nullptr ? at::IntArrayRef() : leaf->variable.sizes());
    for (const auto& next : edge.function->next_edges()) open.push_back(next);
  }
}

}  // namespace alkn::detail
