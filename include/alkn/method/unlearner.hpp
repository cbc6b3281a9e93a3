// The template of all methods: a torch::optim::Optimizer that owns the task protocol.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>
#include <alkn/method/options.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/base_options.hpp>
#include <alkn/parameters.hpp>
#include <alkn/task/core.hpp>
#include <alkn/task/task.hpp>

#include <concepts>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <unordered_map>
#include <utility>
#include <vector>

namespace torch::optim {
class LBFGS;
}

namespace alkn {

/// What an objective must have; see objective/objective.hpp.
template <class T>
concept ObjectivePolicy = requires {
  { T::kRemembers } -> std::convertible_to<bool>;
  typename T::template Options<int>;
};

/// What a mask must have; see method/masks.hpp.
template <class T>
concept MaskPolicy = requires {
  { T::kKind } -> std::convertible_to<kernel::MaskKind>;
  typename T::template Options<int>;
};

/// What an ending must have; see method/endings.hpp.
template <class T>
concept EndingPolicy = requires {
  { T::kNegates } -> std::convertible_to<bool>;
  typename T::template Options<int>;
};

/// A first-order optimizer whose step needs no closure.
template <class T>
concept BaseOptimizer =
    std::derived_from<T, torch::optim::Optimizer> && !std::derived_from<T, torch::optim::LBFGS>;

/// Parameters, by name, that take options of their own: AdamWOverrides over alkn::AdamW, else the
/// base's options.
template <class GroupOptions>
struct ParameterGroup {
  std::vector<std::string> names;  ///< as in the model; each in one group at most
  GroupOptions options;            ///< of these parameters
};

namespace detail {

/// A foreign base's masters and step; alkn::AdamW has its own.
struct ForeignState {
  Masters masters;
  StepRunner runner;
  /// A base of the same options over these groups, for the state that its constructor makes.
  std::function<OptimizerState(const std::vector<torch::optim::OptimizerParamGroup>&)> fresh;
  /// Throws for options of another class, or out of range.
  std::function<void(const torch::optim::OptimizerOptions&, const std::string& where)> check;
  std::function<void(torch::optim::OptimizerOptions& to, const torch::optim::OptimizerOptions&)>
      assign;
};

/// The way of checkpoints and tests into an Unlearner.
struct CoreAccess {
  template <class Method>
  static const std::shared_ptr<UnlearnerCore>& core(const Method& unlearner) {
    unlearner.core_->settle();
    return unlearner.core_;
  }
};

/// One readable message for each policy that is none, before anything else of the template is
/// looked at.
template <class Objective, class Mask, class Ending, class Base>
struct CheckedPolicies {
  static_assert(ObjectivePolicy<Objective>,
                "alkn: the first template argument must be an objective, for example "
                "alkn::TokenNLL: a struct with "
                "kRemembers, Options, remember and loss");
  static_assert(
      MaskPolicy<Mask>,
      "alkn: the second template argument must be a mask: alkn::NoMask, alkn::LocalizedMask or "
      "alkn::GivenMask");
  static_assert(EndingPolicy<Ending>,
                "alkn: the third template argument must be an ending: alkn::Keep or alkn::Negate");
  static_assert(BaseOptimizer<Base>,
                "alkn: Base must be a torch::optim::Optimizer whose step needs no closure, which "
                "LBFGS is not");
  using BaseType = Base;
};

template <class Base>
inline constexpr bool kIsFused = std::derived_from<Base, AdamW>;

template <class Base, class GroupOptions, class BaseOptions>
std::unique_ptr<torch::optim::OptimizerOptions> group_options(const GroupOptions& own,
                                                              const BaseOptions& defaults) {
  if constexpr (std::same_as<GroupOptions, AdamWOverrides>) {
    static_assert(kIsFused<Base>,
                  "alkn: AdamWOverrides are for groups of alkn::AdamW; another Base takes its own "
                  "options, complete in themselves");
    if constexpr (kIsFused<Base>) return std::make_unique<AdamWOptions>(own.merged(defaults));
  } else {
    constexpr bool kFits = std::same_as<GroupOptions, BaseOptions> &&
                           std::derived_from<GroupOptions, torch::optim::OptimizerOptions>;
    static_assert(kFits, "alkn: a parameter group's options must be the base optimizer's options");
    if constexpr (kFits) return std::make_unique<GroupOptions>(own);
  }
}

/// Splits `params` into the named groups and, first, the rest under the defaults.
template <class Base, class GroupOptions, class BaseOptions>
std::vector<torch::optim::OptimizerParamGroup> make_groups(
    std::string_view owner, const std::vector<NamedParameter>& params,
    const std::vector<ParameterGroup<GroupOptions>>& groups, const BaseOptions& defaults) {
  std::unordered_map<std::string, Tensor> rest;
  for (const NamedParameter& p : params) rest.emplace(p.name, p.tensor);
  std::vector<torch::optim::OptimizerParamGroup> named;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<Tensor> tensors;
    for (const std::string& name : groups[g].names) {
      const auto found = rest.find(name);
      TORCH_CHECK_VALUE(found != rest.end(), "alkn::", owner,
                        ": expected the name of a parameter that is in no other group, got \"",
                        name, "\" (named group ", g, ")");
      tensors.push_back(found->second);
      rest.erase(found);
    }
    named.emplace_back(std::move(tensors), group_options<Base>(groups[g].options, defaults));
  }
  std::vector<torch::optim::OptimizerParamGroup> all;
  std::vector<Tensor> others;
  for (const NamedParameter& p : params) {
    if (rest.contains(p.name)) others.push_back(p.tensor);
  }
  if (!others.empty()) all.emplace_back(std::move(others));
  for (auto& group : named) all.push_back(std::move(group));
  return all;
}

}  // namespace detail

/// An unlearning method over the base optimizer `Base`: four orthogonal policies.
/// @tparam Objective the loss on a forget batch and what it remembers before the task
/// @tparam Mask which entries the gradient may move
/// @tparam Ending what becomes of the fine-tuned weights
/// @tparam Base the optimizer that takes the step
///
/// It *is* a torch::optim::Optimizer: schedulers, parameter groups, zero_grad and closures work on
/// it. Learning rate, betas and weight decay live in the base's options. Outside a task `step` is
/// the base's; inside, gradients are clipped, scored and masked first. bfloat16 and half parameters
/// are stepped through fp32 masters. An Unlearner neither copies nor moves: schedulers and tasks
/// refer to it.
template <class Objective, class Mask, class Ending, class Base = AdamW>
class Unlearner : public detail::CheckedPolicies<Objective, Mask, Ending, Base>::BaseType,
                  private detail::BaseAdapter {
 public:
  /// All options of the method, with its defaults.
  using Options = MethodOptions<Objective, Mask, Ending>;
  using ObjectiveType = Objective;
  using BaseType = Base;
  /// What begin_task returns.
  using TaskType = Task<Unlearner>;
  using LossClosure = torch::optim::Optimizer::LossClosure;
  static constexpr kernel::MaskKind kMaskKind = Mask::kKind;
  static constexpr bool kNegates = Ending::kNegates;
  static constexpr bool kFused = detail::kIsFused<Base>;

  /// @param named a model's named_parameters(); a tensor under several names is handled once
  /// @throws c10::ValueError for an option out of range, an empty list, a duplicate name,
  /// overlapping storage, a
  ///   sparse, complex or integer parameter, a non-leaf
  template <NamedParameters Named, class BaseOptions>
  requires std::constructible_from<Base, std::vector<torch::optim::OptimizerParamGroup>,
                                   BaseOptions>
  Unlearner(const Named& named, const Options& options, const BaseOptions& base)
      : Unlearner(named, std::vector<ParameterGroup<BaseOptions>>{}, options, base) {}

  /// Over alkn::AdamW, whose options have defaults.
  template <NamedParameters Named>
  requires kFused explicit Unlearner(const Named& named, const Options& options = Options())
      : Unlearner(named, options, AdamWOptions()) {}

  /// With groups of names; parameters that no group names follow the defaults.
  template <NamedParameters Named, class GroupOptions, class BaseOptions>
  requires std::constructible_from<Base, std::vector<torch::optim::OptimizerParamGroup>,
                                   BaseOptions>
  Unlearner(const Named& named, const std::vector<ParameterGroup<GroupOptions>>& groups,
            const Options& options, const BaseOptions& base)
      : Unlearner(checked(named, options), groups, options, base, 0) {}

  Unlearner(const Unlearner&) = delete;
  Unlearner& operator=(const Unlearner&) = delete;

  /// Opens a task: one deletion request. One at a time.
  /// @throws c10::Error while another runs; c10::ValueError for zero steps or parameters that
  /// changed
  [[nodiscard]] TaskType begin_task(const TaskOptions& task) {
    return TaskType(core_, core_->begin_task(task), options_);
  }

  /// In a task: clip, score, mask, and the base's step; outside: the base's step.
  /// @returns the closure's loss, or an undefined tensor
  /// @throws before anything is written: more steps than announced, no retain gradient although the
  /// mask needs one,
  ///   a parameter or gradient that changed shape, dtype or device. A gradient that is not finite
  ///   skips the step.
  Tensor step(LossClosure closure = nullptr) override {
    Tensor loss;
    if (closure) {
      const at::AutoGradMode with_grad(true);
      loss = closure();
    }
    if (core_->in_task()) {
      core_->task_step(detail::StepMode::run);
    } else {
      core_->plain_step();
    }
    return loss;
  }

  /// To be called before every replay of a CUDA graph that has captured step(), on the stream of
  /// the replay: does what a step does on the host, with this step's options, thresholds and
  /// counts. In a task it waits for the result of the last replay. See docs/cuda.md.
  void prepare_replay() requires kFused {
    if (core_->in_task()) {
      core_->task_step(detail::StepMode::prepare);
    } else {
      Base::prepare_replay();
    }
  }

  /// Adds a group before the first task. `options`: the base's, or AdamWOverrides over alkn::AdamW.
  template <NamedParameters Named, class GroupOptions>
  void add_named_parameters(const Named& named, const GroupOptions& options) {
    auto params = detail::collect_parameters(method_name(), named);
    const auto& defaults = static_cast<const torch::optim::Optimizer&>(*this).defaults();
    std::unique_ptr<torch::optim::OptimizerOptions> own;
    if constexpr (std::same_as<GroupOptions, AdamWOverrides>) {
      own = detail::group_options<Base>(options, static_cast<const AdamWOptions&>(defaults));
    } else {
      own = detail::group_options<Base>(options, options);
    }
    const torch::optim::OptimizerOptions& given = *own;
    TORCH_CHECK_VALUE(
        typeid(given) == typeid(defaults), "alkn::", method_name(),
        ": expected the base optimizer's options, got those of another (add_named_parameters)");
    if constexpr (kFused) {
      const auto& adamw = static_cast<const AdamWOptions&>(*own);
      adamw.validate("add_named_parameters");
      if constexpr (Mask::kKind != kernel::MaskKind::none)
        detail::check_masked_eps(method_name(), adamw.eps(), "add_named_parameters");
    } else {
      foreign_.check(*own, "add_named_parameters");
    }
    core_->add_parameters(params, std::move(own));
  }

  /// The base's state and options, for torch::save; under a low-precision model keyed by the fp32
  /// masters, which are not in it. save_checkpoint writes everything.
  void save(torch::serialize::OutputArchive& archive) const override {
    core_->settle();
    if constexpr (kFused) {
      Base::save(archive);
    } else {
      auto& self = const_cast<Unlearner&>(*this);  // param_groups are as before on return
      const detail::SwapMasters swap(&self, self.foreign_.masters, {});
      Base::save(archive);
    }
  }
  /// What `save` wrote, by position.
  void load(torch::serialize::InputArchive& archive) override {
    if constexpr (kFused) {
      Base::load(archive);
    } else {
      const detail::SwapMasters swap(this, foreign_.masters, {});
      Base::load(archive);
    }
  }

  /// What the last step of the running task did; throws outside a task. On CUDA it waits for the
  /// device.
  [[nodiscard]] const StepReport& last_step() const {
    TORCH_CHECK(core_->in_task(), "alkn::", method_name(),
                ": expected last_step() during a task, got none running");
    core_->settle();
    return core_->task_->last;
  }

  /// What the last step did to each tensor, in the order of the groups; throws outside a task.
  /// Cost: reads the masks.
  [[nodiscard]] std::vector<TensorReport> last_tensors() const {
    TORCH_CHECK(core_->in_task(), "alkn::", method_name(),
                ": expected last_tensors() during a task, got none running");
    return core_->tensor_reports();
  }

  /// The options as they were given.
  [[nodiscard]] const Options& method_options() const noexcept { return options_; }
  /// The number of tasks that ended.
  [[nodiscard]] std::int64_t num_tasks() const noexcept { return core_->num_tasks_; }
  /// The name of the method: ALKN, TaskVector, GradientAscent, NPO, or Unlearner.
  [[nodiscard]] static const char* method_name();

 private:
  friend struct detail::CoreAccess;

  template <class GroupOptions, class BaseOptions>
  Unlearner(std::vector<NamedParameter> params,
            const std::vector<ParameterGroup<GroupOptions>>& groups, const Options& options,
            const BaseOptions& base, int)
      : Base(detail::make_groups<Base>(method_name(), params, groups, base), base),
        options_(options) {
    if constexpr (kFused) {
      this->backend_ = options.backend();
      check_options();
    } else {
      foreign_.fresh = [base](const std::vector<torch::optim::OptimizerParamGroup>& now) {
        Base fresh(now, base);
        detail::OptimizerState state;
        state.swap(fresh.state());
        return state;
      };
      foreign_.check = [](const torch::optim::OptimizerOptions& own, const std::string& where) {
        const auto* known = dynamic_cast<const BaseOptions*>(&own);
        TORCH_CHECK_VALUE(known, "alkn::", method_name(),
                          ": expected the base optimizer's options, got those of another (", where,
                          ")");
        detail::check_base_options(method_name(), *known, where);
        if constexpr (Mask::kKind != kernel::MaskKind::none && requires { known->eps(); })
          detail::check_masked_eps(method_name(), known->eps(), where);
      };
      foreign_.assign = [](torch::optim::OptimizerOptions& to,
                           const torch::optim::OptimizerOptions& from) {
        static_cast<BaseOptions&>(to) = static_cast<const BaseOptions&>(from);
      };
      check_options();
    }
    core_ = std::make_shared<detail::UnlearnerCore>(static_cast<detail::BaseAdapter&>(*this),
                                                    settings(), params);
  }

  template <NamedParameters Named>
  static std::vector<NamedParameter> checked(const Named& named, const Options& options) {
    options.validate(method_name());
    return detail::collect_parameters(method_name(), named);
  }

  [[nodiscard]] detail::MethodSettings settings() const {
    detail::MethodSettings s{.owner = method_name(),
                             .max_norm = options_.max_norm(),
                             .lr_decay = options_.lr_decay(),
                             .retain_term = options_.retain_term(),
                             .retain_weight = options_.retain_weight(),
                             .rollback = options_.rollback(),
                             .start_on_host = options_.start_on_host(),
                             .backend = options_.backend(),
                             .mask = Mask::kKind,
                             .localized = {},
                             .given = {},
                             .negates = Ending::kNegates,
                             .remembers = Objective::kRemembers};
    if constexpr (Mask::kKind == kernel::MaskKind::localized) s.localized = options_.localized();
    if constexpr (Mask::kKind == kernel::MaskKind::given) s.given = options_.masks();
    if constexpr (Mask::kKind != kernel::MaskKind::none) s.masked = options_.masked();
    if constexpr (Ending::kNegates) {
      s.negation = options_.negation();
      s.negation_decay = options_.negation_decay();
    }
    return s;
  }

  // detail::BaseAdapter
  torch::optim::Optimizer& optimizer() override { return *this; }
  bool fused() const override { return kFused; }
  detail::Masters& masters() override {
    if constexpr (kFused)
      return this->masters_;
    else
      return foreign_.masters;
  }
  detail::StepRunner& runner() override {
    if constexpr (kFused)
      return this->runner_;
    else
      return foreign_.runner;
  }
  detail::StepSlot plain_slot([[maybe_unused]] std::size_t position,
                              [[maybe_unused]] const Tensor& param,
                              [[maybe_unused]] std::size_t group,
                              [[maybe_unused]] bool compact) override {
    if constexpr (kFused)
      return Base::plain_slot(position, param, Base::group_options(this->param_groups_[group]),
                              compact);
    else
      return {};
  }
  bool compact([[maybe_unused]] std::size_t group) const override {
    if constexpr (kFused)
      return Base::group_options(this->param_groups_[group]).compact_state();
    else
      return false;
  }
  kernel::StepResult fused_step([[maybe_unused]] std::vector<detail::StepSlot>& slots,
                                [[maybe_unused]] const kernel::StepArgs& args,
                                [[maybe_unused]] Backend backend,
                                [[maybe_unused]] detail::StepMode mode) override {
    if constexpr (kFused)
      return Base::take_step(slots, args, backend, mode);
    else
      return {};
  }
  void forget_new_state() override {
    if constexpr (kFused) Base::forget_new_state();
  }
  void take_back([[maybe_unused]] const std::vector<char>& stepped) override {
    if constexpr (kFused) Base::take_back(stepped);
  }
  void base_step() override { Base::step(nullptr); }
  void check_options() override {
    if constexpr (kFused) {
      Base::check_groups();
      if constexpr (Mask::kKind != kernel::MaskKind::none) {
        for (std::size_t g = 0; g < this->param_groups_.size(); ++g)
          detail::check_masked_eps(method_name(), Base::group_options(this->param_groups_[g]).eps(),
                                   fmt::format("group {}", g));
      }
    } else {
      for (std::size_t g = 0; g < this->param_groups_.size(); ++g)
        foreign_.check(this->param_groups_[g].options(), fmt::format("group {}", g));
    }
  }
  void assign_options(torch::optim::OptimizerOptions& to,
                      const torch::optim::OptimizerOptions& from) override {
    if constexpr (kFused)
      static_cast<AdamWOptions&>(to) = static_cast<const AdamWOptions&>(from);
    else
      foreign_.assign(to, from);
  }
  detail::OptimizerState fresh_state() override {
    if constexpr (kFused)
      return {};
    else
      return foreign_.fresh(this->param_groups_);
  }

  struct Nothing {};
  [[no_unique_address]] std::conditional_t<kFused, Nothing, detail::ForeignState> foreign_;
  Options options_;
  std::shared_ptr<detail::UnlearnerCore> core_;
};

template <class Objective, class Mask, class Ending, class Base>
const char* Unlearner<Objective, Mask, Ending, Base>::method_name() {
  if constexpr (requires { method_title(Options{}); })
    return method_title(Options{});
  else
    return "Unlearner";
}

}  // namespace alkn
