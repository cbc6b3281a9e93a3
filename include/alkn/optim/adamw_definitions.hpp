// The definitions of adamw.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/gradient_check.hpp>
#include <alkn/parameters.hpp>
#include <alkn/step/choose.hpp>
#include <alkn/text.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn {
namespace detail {

inline const ArchiveTable& need_archive_table() {
  const ArchiveTable* table = archive_table.load();
  TORCH_CHECK(
      table != nullptr,
      "alkn::AdamW: expected alkn/optim/archive.hpp to be included somewhere in the program ",
      "for LibTorch's archives, got none");
  return *table;
}

}  // namespace detail

ALKN_COMPILED_INLINE AdamW::AdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                                  AdamWOptions defaults, Backend backend)
    : Optimizer(groups, std::make_unique<AdamWOptions>(defaults)), backend_(backend) {
  defaults.validate();
  check_groups();
}

ALKN_COMPILED_INLINE Tensor AdamW::step(LossClosure closure) {
  Tensor loss;
  if (closure) {
    const at::AutoGradMode with_grad(true);
    loss = closure();
  }
  step_all(detail::StepMode::run);
  return loss;
}

ALKN_COMPILED_INLINE void AdamW::save(torch::serialize::OutputArchive& archive) const {
  detail::need_archive_table().save(archive, *this);
}

ALKN_COMPILED_INLINE void AdamW::load(torch::serialize::InputArchive& archive) {
  detail::need_archive_table().load(archive, *this);
}

ALKN_COMPILED_INLINE void AdamW::step_all(detail::StepMode mode, detail::GradientChecks gradients) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  check_groups(gradients);
  slots_.clear();
  runner_.start();
  try {
    for (auto& group : param_groups_) {
      for (Tensor& param : group.params())
        slots_.push_back(plain_slot(slots_.size(), param, group_options(group), false));
    }
    if (slots_.empty()) return;
    if (mode == detail::StepMode::run && runner_.capturing(slots_[0].param->device()))
      mode = detail::StepMode::capture;
    kernel::StepArgs args;
    args.check_finite = false;  // it would cost one more pass over the gradients
    take_step(slots_, args, resolve_backend_of_all(), mode);
  } catch (...) {
    if (!runner_.has_written()) forget_new_state();
    throw;
  }
  slots_.clear();
}

ALKN_COMPILED_INLINE void AdamW::forget_new_state() {
  for (void* param : made_) state_.erase(param);
  made_.clear();
}

ALKN_COMPILED_INLINE const AdamWOptions& AdamW::group_options(
    const torch::optim::OptimizerParamGroup& group) {
  return static_cast<const AdamWOptions&>(group.options());
}

ALKN_COMPILED_INLINE const AdamWOptions& AdamW::checked_options(
    const torch::optim::OptimizerParamGroup& group, std::size_t number) {
  const auto* options = dynamic_cast<const AdamWOptions*>(&group.options());
  TORCH_CHECK_VALUE(
      options, "alkn::AdamW: expected alkn::AdamWOptions, got options of another class (group ",
      number, ")");
  return *options;
}

ALKN_COMPILED_INLINE detail::StepSlot AdamW::plain_slot(std::size_t position, const Tensor& param,
                                                        const AdamWOptions& options, bool compact) {
  detail::StepSlot slot;
  slot.param = param;
  const Tensor& grad = param.grad();
  if (!grad.defined()) return slot;
  slot.grad = grad;
  slot.master = masters_.get(param);
  const at::ScalarType type = detail::moment_dtype(param, compact || options.compact_state());
  const AdamWParamState& state = state_of(position, param, type);
  if (state.exp_avg().scalar_type() == type) {
    slot.exp_avg = state.exp_avg();
    slot.exp_avg_sq = state.exp_avg_sq();
  } else {  // the option has changed; the step takes them over
    slot.exp_avg = state.exp_avg().to(type);
    slot.exp_avg_sq = state.exp_avg_sq().to(type);
  }
  slot.adamw.lr = slot.adamw.lr_used = options.lr();
  std::tie(slot.adamw.beta1, slot.adamw.beta2) = options.betas();
  slot.adamw.eps = options.eps();
  slot.adamw.weight_decay =
      param.dim() >= 2 || options.decay_vectors() ? options.weight_decay() : 0;
  slot.adamw.step = state.step() + 1;
  return slot;
}

ALKN_COMPILED_INLINE kernel::StepResult AdamW::take_step(std::vector<detail::StepSlot>& slots,
                                                         const kernel::StepArgs& args,
                                                         Backend backend, detail::StepMode mode) {
  const kernel::StepResult result = runner_.run(slots, args, backend, mode);
  made_.clear();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (!slots[i].grad.defined() || states_[i]->exp_avg().is_same(slots[i].exp_avg)) continue;
    states_[i]->exp_avg(slots[i].exp_avg).exp_avg_sq(slots[i].exp_avg_sq);
  }
  if (!result.skipped && mode != detail::StepMode::capture) {
    std::size_t i = 0;
    for (auto& group : param_groups_) {
      for (Tensor& param : group.params()) {
        const std::size_t position = i++;
        if (!slots[position].grad.defined()) continue;
        AdamWParamState& state = *states_[position];
        state.step(state.step() + 1);
        masters_.agree(param);
      }
    }
  }
  return result;
}

ALKN_COMPILED_INLINE void AdamW::take_back(const std::vector<char>& stepped) {
  std::size_t i = 0;
  for (auto& group : param_groups_) {
    for (Tensor& param : group.params()) {
      if (stepped[i++] == 0) continue;
      auto& state = static_cast<AdamWParamState&>(*state_.at(param.unsafeGetTensorImpl()));
      state.step(state.step() - 1);
    }
  }
}

ALKN_COMPILED_INLINE void AdamW::check_groups(detail::GradientChecks gradients) {
  if (!is_checked()) check_list();
  states_.clear();
  made_.clear();
  for (std::size_t g = 0; g < param_groups_.size(); ++g) {
    checked_options(param_groups_[g], g).validate(detail::text_of({"group ", g}));
    for (std::size_t k = 0; k < param_groups_[g].params().size(); ++k)
      states_.push_back(check_tensors(g, k, gradients));
  }
}

ALKN_COMPILED_INLINE AdamWParamState& AdamW::state_of(std::size_t position, const Tensor& param,
                                                      at::ScalarType type) {
  if (states_[position] == nullptr) {
    TORCH_CHECK(!runner_.capturing(param.device()),
                "alkn::AdamW: expected a step with the same gradients before the one that a CUDA "
                "graph captures, got none");
    auto fresh = std::make_unique<AdamWParamState>();
    const auto options = param.options().dtype(type).requires_grad(false);
    if (state_.empty()) arrays_.renew(moment_bytes(), moment_bytes());
    fresh->exp_avg(arrays_.zeros(param.sizes(), options))
        .exp_avg_sq(arrays_.zeros(param.sizes(), options));
    made_.push_back(param.unsafeGetTensorImpl());
    AdamWParamState* made = fresh.get();
    state_.insert_or_assign(param.unsafeGetTensorImpl(), std::move(fresh));
    states_[position] = made;
  }
  return *states_[position];
}

ALKN_COMPILED_INLINE std::size_t AdamW::moment_bytes() const {
  std::size_t bytes = 0;
  for (const auto& group : param_groups_) {
    for (const Tensor& param : group.params()) {
      if (!param.grad().defined()) continue;
      bytes += 2 * static_cast<std::size_t>(param.numel()) *
               c10::elementSize(detail::moment_dtype(param, group_options(group).compact_state()));
    }
  }
  return bytes;
}

ALKN_COMPILED_INLINE bool AdamW::is_checked() const {
  std::size_t i = 0;
  for (const auto& group : param_groups_) {
    for (const Tensor& param : group.params()) {
      if (i == checked_.size() || !param.is_same(checked_[i].param) ||
          data_of(param) != checked_[i].data)
        return false;
      ++i;
    }
  }
  return i > 0 && i == checked_.size();
}

ALKN_COMPILED_INLINE const void* AdamW::data_of(const Tensor& param) {
  return param.layout() == at::kStrided && !param.is_meta() ? param.const_data_ptr() : nullptr;
}

ALKN_COMPILED_INLINE void AdamW::check_list() {
  std::vector<NamedParameter> all;
  for (std::size_t g = 0; g < param_groups_.size(); ++g) {
    for (std::size_t k = 0; k < param_groups_[g].params().size(); ++k) {
      all.push_back({place(g, k), param_groups_[g].params()[k]});
    }
  }
  const auto once = detail::collect_parameters("AdamW", all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    TORCH_CHECK_VALUE(i < once.size() && once[i].name == all[i].name,
                      "alkn::AdamW: expected every parameter once, got a duplicate parameter (",
                      all[i].name, ")");
  }
  std::vector<Checked> checked;
  checked.reserve(all.size());
  for (const NamedParameter& p : all) checked.push_back({p.tensor, data_of(p.tensor)});
  checked_ = std::move(checked);
}

ALKN_COMPILED_INLINE std::string AdamW::place(std::size_t group, std::size_t position) {
  return detail::text_of({"group ", group, ", position ", position});
}

ALKN_COMPILED_INLINE AdamWParamState* AdamW::check_tensors(std::size_t group, std::size_t position,
                                                           detail::GradientChecks gradients) const {
  const Tensor& param = param_groups_[group].params()[position];
  const auto fits = [&](const Tensor& t, at::ScalarType type) {
    return t.sizes() == param.sizes() && t.scalar_type() == type && t.device() == param.device();
  };
  if (!detail::is_steppable(param)) {
    detail::check_parameter("AdamW", {place(group, position), param});
  }
  const auto found = state_.find(param.unsafeGetTensorImpl());
  AdamWParamState* state = nullptr;
  if (found != state_.end()) {
    state = static_cast<AdamWParamState*>(found->second.get());
    const Tensor& held = state->exp_avg();
    TORCH_CHECK_VALUE(
        fits(held, detail::state_dtype(param)) || fits(held, detail::moment_dtype(param, true)),
        "alkn::AdamW: expected a parameter of shape ", held.sizes(), " on ", held.device(),
        " as at its first step, got ", param.scalar_type(), " ", param.sizes(), " on ",
        param.device(), " (group ", group, ", position ", position, ")");
  }
  if (gradients == detail::GradientChecks::wanted)
    detail::check_gradient("AdamW", param, [&] { return place(group, position); });
  return state;
}

ALKN_COMPILED_INLINE Backend AdamW::resolve_backend_of_all() const {
  detail::CommonBackend common(backend_, "AdamW");
  for (const auto& group : param_groups_) {
    for (const Tensor& param : group.params()) common.add(param, "");
  }
  return common.get();
}

}  // namespace alkn
