// The parameters of an UnlearnerCore: matched by name, checked before every call that reads them.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/ones.h>
#include <c10/core/InferenceMode.h>
#include <alkn/io/hash.hpp>
#include <alkn/optim/gradient_check.hpp>
#include <alkn/optim/swap_masters.hpp>
#include <alkn/step/choose.hpp>
#include <alkn/task/core.hpp>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <typeinfo>
#include <unordered_map>
#include <utility>
#include <vector>

namespace alkn::detail {

ALKN_COMPILED_INLINE UnlearnerCore::UnlearnerCore(BaseAdapter& base, MethodSettings settings,
                                                  const std::vector<NamedParameter>& params,
                                                  const Processes& processes,
                                                  std::vector<std::string> options)
    : base_(base),
      settings_(std::move(settings)),
      shards_(processes),
      agreement_(processes.group, settings_.owner),
      options_(std::move(options)) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const auto checks = [&] {
    TORCH_CHECK_VALUE(settings_.masked == Masked::gradient || base_.fused(),
                      "alkn::", settings_.owner,
                      ": expected alkn::AdamW as Base for Masked::freeze, got another optimizer");
    match_parameters(params);
    take_given_masks();
    for (const ParameterState& p : parameters_) check_backend(p.param, p.name);
  };
  together(Call::construction, 0, checks, [&] { share_parameters(0); });
  if (base_.fused()) return;
  OptimizerState state = fresh_state();  // of masters, and of normal tensors
  base_.optimizer().state().swap(state);
}

ALKN_COMPILED_INLINE OptimizerState UnlearnerCore::fresh_state() {
  if (base_.fused()) return {};
  const SwapMasters swap(&base_.optimizer(), base_.masters(), {});
  return shards_.sharded() ? own_fresh_state() : base_.fresh_state();  // a move may need memory
}

/// That of the parameters whose state is here.
ALKN_COMPILED_INLINE OptimizerState UnlearnerCore::own_fresh_state() {
  OptimizerState state = base_.fresh_state();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!shards_.owns(i)) state.erase(parameters_[i].param.unsafeGetTensorImpl());
  }
  return state;
}

/// Throws unless there is code that steps a parameter; with a group, the fused kernels of the CPU,
/// or of one CUDA device whose tensors the group moves.
ALKN_COMPILED_INLINE void UnlearnerCore::check_backend(const Tensor& param,
                                                       const std::string& name) const {
  const Backend backend = resolve_backend(settings_.backend, param, settings_.owner, name);
  if (!shards_.active()) return;
  TORCH_CHECK_VALUE(backend != Backend::aten, "alkn::", settings_.owner,
                    ": expected parameters of float, bfloat16 or half and the fused kernels with a "
                    "group, got Backend::aten for ",
                    describe(param), " (parameter \"", name, "\")");
  TORCH_CHECK_VALUE(shards_.moves(param.device().type()), "alkn::", settings_.owner,
                    ": expected a group that moves tensors of ", param.device().type(),
                    " (for CUDA alkn/dist/nccl.hpp makes one), got another (parameter \"", name,
                    "\")");
  const Tensor& first = parameters_.empty() ? param : parameters_[0].param;
  TORCH_CHECK_VALUE(param.device() == first.device(), "alkn::", settings_.owner,
                    ": expected all parameters of a process on one device with a group, got ",
                    first.device(), " and ", param.device(), " (parameter \"", name, "\")");
}

/// Names every parameter of param_groups by its TensorImpl.
ALKN_COMPILED_INLINE void UnlearnerCore::match_parameters(
    const std::vector<NamedParameter>& named) {
  std::unordered_map<const void*, std::string> names;
  for (const NamedParameter& p : named) names.emplace(p.tensor.unsafeGetTensorImpl(), p.name);
  for (const ParameterState& p : parameters_) names.emplace(p.param.unsafeGetTensorImpl(), p.name);
  std::vector<ParameterState> matched;
  const auto& groups = base_.optimizer().param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (const Tensor& param : groups[g].params()) {
      ParameterState state;
      state.name = names.at(param.unsafeGetTensorImpl());
      state.param = param;
      state.group = g;
      state.shape = at::DimVector(param.sizes());
      state.dtype = param.scalar_type();
      state.device = param.device();
      matched.push_back(std::move(state));
    }
  }
  parameters_ = std::move(matched);
}

ALKN_COMPILED_INLINE void UnlearnerCore::take_given_masks() {
  if (settings_.mask != kernel::MaskKind::given) return;
  std::unordered_map<std::string, Tensor> masks;
  for (const NamedParameter& m : settings_.given) masks.emplace(m.name, m.tensor);
  for (ParameterState& p : parameters_) {
    const auto found = masks.find(p.name);
    const Tensor mask =
        found == masks.end()
            ? at::ones(p.shape, p.param.options().dtype(at::kBool).requires_grad(false))
            : found->second;
    TORCH_CHECK_VALUE(
        mask.defined() && mask.scalar_type() == at::kBool && mask.sizes() == p.param.sizes(),
        "alkn::", settings_.owner, ": expected a mask of Bool ", p.param.sizes(), ", got ",
        mask.defined() ? c10::str(mask.scalar_type(), " ", mask.sizes())
                       : std::string("an undefined tensor"),
        " (", place(p), ")");
    p.given = pack_bits(mask.to(p.device));
    p.num_given = count_bits(p.given);
    if (shards_.active()) {
      const Tensor words = p.given.cpu();
      p.given_hash = io::detail::hash_bytes(
          {static_cast<const char*>(words.const_data_ptr()), words.nbytes()});
    }
    masks.erase(p.name);
  }
  TORCH_CHECK_VALUE(masks.empty(), "alkn::", settings_.owner,
                    ": expected masks of parameters only, got one of an unknown parameter \"",
                    masks.begin()->first, "\"");
}

/// Throws unless param_groups hold the parameters that were named, unchanged in shape, dtype and
/// device.
ALKN_COMPILED_INLINE void UnlearnerCore::check_parameters(bool gradients) {
  const auto& groups = base_.optimizer().param_groups();
  std::size_t i = 0;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::size_t k = 0; k < groups[g].params().size(); ++k, ++i) {
      const Tensor& param = groups[g].params()[k];
      TORCH_CHECK_VALUE(i < parameters_.size() && param.is_same(parameters_[i].param),
                        "alkn::", settings_.owner,
                        ": expected the parameters that were named, got one without a name; use "
                        "add_named_parameters (group ",
                        g, ", position ", k, ")");
      const ParameterState& p = parameters_[i];
      TORCH_CHECK_VALUE(param.sizes() == at::IntArrayRef(p.shape) &&
                            param.scalar_type() == p.dtype && param.device() == p.device,
                        "alkn::", settings_.owner, ": expected ", p.dtype, " ",
                        at::IntArrayRef(p.shape), " on ", p.device, " as at construction, got ",
                        describe(param), " (", place(p), ")");
      if (!is_steppable(param)) check_parameter(settings_.owner, {p.name, param});
      if (!gradients) continue;
      check_gradient(settings_.owner, param, [&] { return place(p); });
      // another Base is given g' in place of the gradient
      const Tensor& grad = param.grad();
      TORCH_CHECK_VALUE(base_.fused() || !grad.defined() || is_low_precision(param) ||
                            at::has_internal_overlap(grad) != at::MemOverlap::Yes,
                        "alkn::", settings_.owner,
                        ": expected a gradient with entries in memory of their own, got one of ",
                        grad.sizes(), " with strides ", grad.strides(), " (", place(p), ")");
    }
  }
  TORCH_CHECK_VALUE(i == parameters_.size(), "alkn::", settings_.owner, ": expected ",
                    parameters_.size(), " parameters, got ", i);
}

ALKN_COMPILED_INLINE Backend UnlearnerCore::backend() const {
  CommonBackend common(settings_.backend, settings_.owner);
  for (const ParameterState& p : parameters_) common.add(p.param, p.name);
  return common.get();
}

/// Appends a group before the first task.
ALKN_COMPILED_INLINE void UnlearnerCore::add_parameters(const NewGroup& given) {
  TORCH_CHECK(num_tasks_ == 0 && !task_, "alkn::", settings_.owner,
              ": expected new parameters before the first task, got them after it began");
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  const std::size_t first = parameters_.size();
  const std::size_t num_groups = base_.optimizer().param_groups().size();
  try {
    const auto append = [&] {
      fixed_hash_.reset();
      std::unique_ptr<torch::optim::OptimizerOptions> options;
      const std::vector<NamedParameter> params = given(options);
      append_parameters(params, std::move(options));
    };
    together(Call::add_named_parameters, 0, append, [&] { share_parameters(first); });
  } catch (...) {  // on this process it may have gone well
    fixed_hash_.reset();
    if (parameters_.size() > first) {
      forget_state(base_.optimizer().state(), first, [](std::size_t) { return true; });
      for (std::size_t i = first; i < parameters_.size(); ++i)
        base_.masters().adopt(parameters_[i].param, Tensor());
      parameters_.resize(first);
      auto& groups = base_.optimizer().param_groups();
      while (groups.size() > num_groups) groups.pop_back();
    }
    throw;
  }
}

ALKN_COMPILED_INLINE void UnlearnerCore::forget_state(
    OptimizerState& state, std::size_t first, const std::function<bool(std::size_t)>& which) {
  for (std::size_t i = first; i < parameters_.size(); ++i) {
    if (!which(i)) continue;
    const Tensor& param = parameters_[i].param;
    state.erase(param.unsafeGetTensorImpl());
    const Tensor master = base_.masters().find(param);
    if (master.defined()) state.erase(master.unsafeGetTensorImpl());
  }
}

ALKN_COMPILED_INLINE void UnlearnerCore::append_parameters(
    const std::vector<NamedParameter>& params,
    std::unique_ptr<torch::optim::OptimizerOptions> options) {
  check_parameters(false);
  std::vector<NamedParameter> all;
  for (const ParameterState& p : parameters_) all.push_back({p.name, p.param});
  all.insert(all.end(), params.begin(), params.end());
  const auto once = collect_parameters(settings_.owner, all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    TORCH_CHECK_VALUE(i < once.size() && once[i].name == all[i].name, "alkn::", settings_.owner,
                      ": expected new parameters, got a duplicate parameter (parameter \"",
                      all[i].name, "\")");
  }
  std::vector<Tensor> tensors;
  for (const NamedParameter& p : params) {
    check_backend(p.tensor, p.name);
    tensors.push_back(p.tensor);
  }
  auto& optimizer = base_.optimizer();
  if (!options) options = optimizer.defaults().clone();
  std::vector<ParameterState> before = parameters_;
  const std::size_t num_groups = optimizer.param_groups().size();
  OptimizerState made;
  try {
    optimizer.add_param_group(
        torch::optim::OptimizerParamGroup(std::move(tensors), std::move(options)));
    match_parameters(params);
    take_given_masks();
    OptimizerState fresh = fresh_state();
    made.swap(fresh);
    optimizer.state().reserve(optimizer.state().size() + made.size());
    for (auto& [param, state] : made) {
      if (optimizer.state().find(param) == optimizer.state().end())
        optimizer.state()[param] = std::move(state);
    }
  } catch (...) {
    parameters_.swap(before);
    for (auto& [param, state] : made) {
      if (!state) optimizer.state().erase(param);  // it was taken from there
    }
    while (optimizer.param_groups().size() > num_groups) optimizer.param_groups().pop_back();
    throw;
  }
}

ALKN_COMPILED_INLINE void UnlearnerCore::put_options(
    torch::optim::OptimizerParamGroup& group,
    std::unique_ptr<torch::optim::OptimizerOptions>& values) {
  torch::optim::OptimizerOptions& own = group.options();
  const torch::optim::OptimizerOptions& given = *values;
  if (typeid(own) == typeid(given))
    base_.assign_options(own, given);
  else  // somebody has set others
    group.set_options(std::move(values));
}

}  // namespace alkn::detail
