// alkn::AdamW: torch::optim::AdamW's update in one fused pass, fp32 masters for low-precision
// parameters.
#pragma once

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <torch/optim/optimizer.h>
#include <alkn/optim/adamw_options.hpp>
#include <alkn/optim/gradient_check.hpp>
#include <alkn/parameters.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/step/state_arrays.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn {

class AdamW;

namespace detail {

/// What reads and writes LibTorch's archives; set by including alkn/optim/archive.hpp anywhere in
/// the program.
struct ArchiveTable {
  void (*save)(torch::serialize::OutputArchive& archive, const AdamW& optimizer);
  void (*load)(torch::serialize::InputArchive& archive, AdamW& optimizer);
};
inline std::atomic<const ArchiveTable*> archive_table{nullptr};

inline const ArchiveTable& need_archive_table() {
  const ArchiveTable* table = archive_table.load();
  TORCH_CHECK(
      table != nullptr,
      "alkn::AdamW: expected alkn/optim/archive.hpp to be included somewhere in the program ",
      "for LibTorch's archives, got none");
  return *table;
}

struct AdamWArchive;

/// Whether a caller has checked the gradients already.
enum class GradientChecks : std::uint8_t { wanted, done };

}  // namespace detail

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), one fused pass over the weights:
///
///     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
///     theta = theta (1 - lr wd) - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
///
/// bfloat16 and half parameters are stepped through fp32 masters. From equal state a step differs
/// from torch::optim::AdamW's by at most 4 eps max(|theta|, lr): the second moment is summed in
/// one. Gradients that are not finite are taken as they are, as LibTorch's does; an Unlearner's
/// task skips such a step. Cost: 28 bytes of memory traffic an fp32 parameter; no allocation after
/// the first step.
class AdamW : public torch::optim::Optimizer {
 public:
  /// In checkpoints.
  static constexpr const char* kName = "alkn::AdamW";
  /// Groups with AdamWOptions of their own, complete in themselves, or with none: `defaults`.
  /// @throws c10::ValueError for an option out of range, an empty list, a parameter that comes
  /// twice,
  ///   overlapping storage, a sparse, complex or integer parameter
  explicit AdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 AdamWOptions defaults = {}, Backend backend = Backend::automatic)
      : Optimizer(groups, std::make_unique<AdamWOptions>(defaults)), backend_(backend) {
    defaults.validate();
    check_groups();
  }
  /// One group, for example of a model's parameters().
  explicit AdamW(std::vector<Tensor> params, AdamWOptions defaults = {},
                 Backend backend = Backend::automatic)
      : AdamW({torch::optim::OptimizerParamGroup(std::move(params))}, defaults, backend) {}

  /// One step with the gradients that are there; a parameter whose gradient is undefined is left
  /// alone.
  /// @return the closure's loss, or an undefined tensor
  Tensor step(LossClosure closure = nullptr) override {
    Tensor loss;
    if (closure) {
      const at::AutoGradMode with_grad(true);
      loss = closure();
    }
    step_all(detail::StepMode::run);
    return loss;
  }

  /// To be called before every replay of a CUDA graph that has captured step(), on the stream of
  /// the replay: hands it the options and the number of this step, which the capture does not
  /// count. A step over the same gradients has to come before the capture. See docs/cuda.md.
  void prepare_replay() { step_all(detail::StepMode::prepare); }

  /// Moments, masters and options, by position. Needs alkn/optim/archive.hpp in the program, which
  /// is apart because LibTorch's archives double the time to compile.
  void save(torch::serialize::OutputArchive& archive) const override {
    detail::need_archive_table().save(archive, *this);
  }
  /// Loads a saved state; throws, changing nothing, unless number and shapes match.
  void load(torch::serialize::InputArchive& archive) override {
    detail::need_archive_table().load(archive, *this);
  }

 protected:
  void step_all(detail::StepMode mode,
                detail::GradientChecks gradients = detail::GradientChecks::wanted) {
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

  /// After a step that failed before it had written anything: the state that it made.
  void forget_new_state() {
    for (void* param : made_) state_.erase(param);
    made_.clear();
  }

  static const AdamWOptions& group_options(const torch::optim::OptimizerParamGroup& group) {
    return static_cast<const AdamWOptions&>(group.options());
  }

  /// A slot with all that a plain AdamW step needs, after check_groups(). Creates the moments of a
  /// parameter with a gradient.
  /// @param position of the parameter in the groups, one after the other
  /// @param compact whether the moments are, whatever the options say
  detail::StepSlot plain_slot(std::size_t position, const Tensor& param,
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

  /// Runs the step and, unless it was skipped or captured, counts it.
  kernel::StepResult take_step(std::vector<detail::StepSlot>& slots, const kernel::StepArgs& args,
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

  /// The last step was skipped by a device that reports late: it does not count for the parameters
  /// with a true flag, in the order of the groups.
  void take_back(const std::vector<char>& stepped) {
    std::size_t i = 0;
    for (auto& group : param_groups_) {
      for (Tensor& param : group.params()) {
        if (stepped[i++] == 0) continue;
        auto& state = static_cast<AdamWParamState&>(*state_.at(param.unsafeGetTensorImpl()));
        state.step(state.step() - 1);
      }
    }
  }

  /// Throws for group options out of range, and for a parameter, gradient or state that does not
  /// fit any more. Looks up the states.
  void check_groups(detail::GradientChecks gradients = detail::GradientChecks::wanted) {
    if (!is_checked()) check_list();
    states_.clear();
    made_.clear();
    for (std::size_t g = 0; g < param_groups_.size(); ++g) {
      const auto* options = dynamic_cast<const AdamWOptions*>(&param_groups_[g].options());
      TORCH_CHECK_VALUE(
          options, "alkn::AdamW: expected alkn::AdamWOptions, got options of another class (group ",
          g, ")");
      options->validate(fmt::format("group {}", g));
      for (std::size_t k = 0; k < param_groups_[g].params().size(); ++k)
        states_.push_back(check_tensors(g, k, gradients));
    }
  }

  detail::Masters masters_;
  detail::StepRunner runner_;
  Backend backend_ = Backend::automatic;

 private:
  friend struct detail::AdamWArchive;

  /// The state of a parameter, created where there is none.
  AdamWParamState& state_of(std::size_t position, const Tensor& param, at::ScalarType type) {
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

  /// Bytes of the moments of all parameters.
  [[nodiscard]] std::size_t moment_bytes() const {
    std::size_t bytes = 0;
    for (const auto& group : param_groups_) {
      for (const Tensor& param : group.params()) {
        bytes +=
            2 * static_cast<std::size_t>(param.numel()) *
            c10::elementSize(detail::moment_dtype(param, group_options(group).compact_state()));
      }
    }
    return bytes;
  }

  /// Whether check_list() has seen these parameters, where they are.
  [[nodiscard]] bool is_checked() const {
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
  static const void* data_of(const Tensor& param) {
    return param.layout() == at::kStrided && !param.is_meta() ? param.const_data_ptr() : nullptr;
  }

  /// Throws for an empty list, a tensor that cannot be stepped, one that comes twice, overlapping
  /// storage.
  void check_list() {
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

  static std::string place(std::size_t group, std::size_t position) {
    return fmt::format("group {}, position {}", group, position);
  }

  /// Returns the state of the parameter, or null.
  AdamWParamState* check_tensors(std::size_t group, std::size_t position,
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

  Backend resolve_backend_of_all() const {
    detail::CommonBackend common(backend_, "AdamW");
    for (const auto& group : param_groups_) {
      for (const Tensor& param : group.params()) common.add(param, "");
    }
    return common.get();
  }

  std::vector<detail::StepSlot> slots_;
  std::vector<AdamWParamState*> states_;  ///< of the running step; null: none yet
  std::vector<void*> made_;               ///< the keys of those that the running step has made
  struct Checked {
    Tensor param;
    const void* data;  ///< set_data puts another there
  };
  std::vector<Checked> checked_;  ///< the parameters that check_list() has seen
  detail::StateArrays arrays_;
};

}  // namespace alkn
