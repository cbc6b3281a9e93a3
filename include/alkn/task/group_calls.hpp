// What UnlearnerCore asks of the other processes of its group; nothing of it without one.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>
#include <alkn/io/hash.hpp>
#include <alkn/task/core.hpp>
#include <alkn/text.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

/// What all processes must have alike and keep: the method, its options, the parameters.
ALKN_COMPILED_INLINE std::vector<std::string> UnlearnerCore::fixed_lines() const {
  std::vector<std::string> lines{text_of({"method ", settings_.owner}),
                                 shards_.sharded() ? "Sharding::state" : "Sharding::none"};
  for (const std::string& option : options_) lines.push_back("option " + option);
  for (const ParameterState& p : parameters_) {
    lines.push_back(text_of({"parameter \"", p.name, "\" ", c10::toString(p.dtype), " [",
                             listed(p.shape), "] in group ", p.group}));
    if (!p.device.is_cpu())
      lines.back() += " on " + c10::DeviceTypeName(p.device.type(), /*lower_case=*/true);
    if (settings_.mask == kernel::MaskKind::given)
      lines.back() +=
          text_of({", ", p.num_given, " entries in its mask of hash ", hash_text(p.given_hash)});
  }
  return lines;
}

/// What all processes must have alike at a call: that, which parameters are frozen, the groups'
/// options, the call's arguments.
ALKN_COMPILED_INLINE std::vector<std::string> UnlearnerCore::settings_lines(
    const std::string& asked) {
  std::vector<std::string> lines = fixed_lines();
  for (const ParameterState& p : parameters_) {
    if (!p.param.requires_grad()) lines.push_back(text_of({"parameter \"", p.name, "\" frozen"}));
  }
  const auto& groups = base_.optimizer().param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g)
    lines.push_back(text_of({"group ", g, ": ", base_.options_text(g)}));
  if (!asked.empty()) lines.push_back(asked);
  return lines;
}

/// A hash of settings_lines(); what does not change from step to step is hashed once.
ALKN_COMPILED_INLINE std::uint64_t UnlearnerCore::settings_hash(const std::string& asked) {
  if (!fixed_hash_) {
    std::uint64_t fixed = io::detail::hash_bytes("");
    for (const std::string& line : fixed_lines())
      fixed = io::detail::hash_bytes(line + "\n", fixed);
    fixed_hash_ = fixed;
  }
  std::string now;
  for (const ParameterState& p : parameters_) now.push_back(p.param.requires_grad() ? '1' : '0');
  const auto& groups = base_.optimizer().param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) now.append("\n").append(base_.options_text(g));
  return io::detail::hash_bytes(now.append("\n").append(asked), *fixed_hash_);
}

/// @param state with call and argument; the rest is filled in
ALKN_COMPILED_INLINE std::vector<double> UnlearnerCore::meet(CallState& state,
                                                             const std::function<void()>& checks) {
  const auto note_place = [&] {
    state.task = num_tasks_;
    state.step = task_ ? task_->done : 0;
  };
  const auto here = [&] {
    checks();
    note_place();  // again: a closure of step() may have ended the task
    state.settings = settings_hash(state.asked);
  };
  note_place();
  return agreement_.meet(state, here, [&] { return settings_lines(state.asked); });
}

/// Deals the parameters from `first` on, and gives all processes the values of process 0.
ALKN_COMPILED_INLINE void UnlearnerCore::share_parameters(std::size_t first) {
  if (!shards_.active()) return;
  std::vector<Tensor> params, before;
  for (std::size_t i = first; i < parameters_.size(); ++i) {
    params.push_back(parameters_[i].param);
    before.push_back(shards_.rank() == 0 ? Tensor() : parameters_[i].param.detach().clone());
  }
  shards_.add(params);
  forget_others(first);
  shards_.publish_from_first(params);
  std::vector<char> differs(params.size());
  for (std::size_t i = 0; i < params.size(); ++i)
    differs[i] = before[i].defined() && !at::equal(before[i], params[i]) ? 1 : 0;
  differs = shards_.any(std::move(differs));
  differed_.clear();
  for (std::size_t i = 0; i < params.size(); ++i) {
    if (differs[i] != 0) differed_.push_back(parameters_[first + i].name);
  }
}

/// Drops what there is of the parameters from `first` on whose state is elsewhere.
ALKN_COMPILED_INLINE void UnlearnerCore::forget_others(std::size_t first) {
  const auto others = [this](std::size_t i) { return !shards_.owns(i); };
  forget_state(base_.optimizer().state(), first, others);
  if (task_) forget_state(task_->state_before, first, others);
  for (std::size_t i = first; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) base_.masters().leave(parameters_[i].param);
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {  // all have been made anew
    if (!shards_.owns(i)) parameters_[i].given = Tensor();
  }
}

ALKN_COMPILED_INLINE std::vector<double> UnlearnerCore::agree(Call call,
                                                              const std::function<void()>& checks,
                                                              const double& argument) {
  CallState state{.call = call, .same_argument = false};
  return meet(state, [&] {
    checks();
    state.argument = argument;
  });
}

ALKN_COMPILED_INLINE void UnlearnerCore::spread_loaded() {
  if (!shards_.sharded()) return;
  forget_others(0);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) p.used = p.start = p.retain = p.score = p.mask = Tensor();
  }
  send_all_weights();
}

/// Makes the processes' gradients averages, in the `grad` of the parameters whose state is here,
/// and hides those of the others. present_: the parameters that have one on any process.
ALKN_COMPILED_INLINE HiddenGradients UnlearnerCore::share_gradients() {
  HiddenGradients others;
  if (!shards_.active()) return others;
  std::vector<Tensor> gradients;
  std::vector<char> defined;
  for (const ParameterState& p : parameters_) {
    gradients.push_back(p.param.grad());
    defined.push_back(gradients.back().defined() ? 1 : 0);
  }
  present_ = shards_.any(std::move(defined));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (present_[i] == 0 || !shards_.owns(i)) continue;
    Tensor& grad = parameters_[i].param.mutable_grad();
    if (!grad.defined())
      grad = at::zeros_like(parameters_[i].param, at::MemoryFormat::Contiguous);
    else if (!has_plain_values(grad))
      grad = plain_values(grad);
  }
  shards_.average(gradients, present_, [&](std::size_t i, std::int64_t begin, const Tensor& mean) {
    parameters_[i].param.grad().view({-1}).narrow(0, begin, mean.numel()).copy_(mean);
  });
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (shards_.owns(i) || !gradients[i].defined()) continue;
    others.hidden.emplace_back(parameters_[i].param, gradients[i]);
    parameters_[i].param.mutable_grad().reset();
  }
  return others;
}

/// Sends weights from where they were written to all.
ALKN_COMPILED_INLINE void UnlearnerCore::send_weights(const std::vector<char>& which) {
  if (!shards_.sharded()) return;
  std::vector<Tensor> params;
  for (const ParameterState& p : parameters_) params.push_back(p.param);
  shards_.publish(params, which);
}

/// Tells all processes what the last step did to the parameters of each.
ALKN_COMPILED_INLINE void UnlearnerCore::share_results() {
  if (!shards_.sharded()) return;
  const std::size_t n = parameters_.size();
  std::vector<double> all(3 * n);  // entries trained; eta, and whether there is one
  for (std::size_t i = 0; i < n; ++i) {
    const ParameterState& p = parameters_[i];
    if (!shards_.owns(i)) continue;
    all[i] = static_cast<double>(p.num_trained);
    all[n + i] = p.eta.value_or(0);
    all[2 * n + i] = p.eta ? 1 : 0;
  }
  shards_.sum(all);
  for (std::size_t i = 0; i < n; ++i) {
    ParameterState& p = parameters_[i];
    if (shards_.owns(i)) continue;
    p.num_trained = static_cast<std::int64_t>(all[i]);
    p.eta.reset();
    if (all[2 * n + i] > 0) p.eta = all[n + i];
  }
}

ALKN_COMPILED_INLINE std::vector<TensorReport> UnlearnerCore::tensor_reports() {
  return together(
      Call::last_tensors, 0, [] {}, [&] { return report(0, false).tensors; });
}

ALKN_COMPILED_INLINE std::vector<std::int64_t> UnlearnerCore::parameter_sizes() const {
  std::vector<std::int64_t> sizes;
  for (const ParameterState& p : parameters_) sizes.push_back(p.param.numel());
  return sizes;
}

}  // namespace alkn::detail
