// The template of all methods: a torch::optim::Optimizer that owns the task protocol.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>
#include <alkn/group.hpp>
#include <alkn/method/bases.hpp>
#include <alkn/method/groups.hpp>
#include <alkn/method/options.hpp>
#include <alkn/method/policies.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/parameters.hpp>
#include <alkn/task/core.hpp>
#include <alkn/task/task.hpp>
#include <alkn/text.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace alkn {

namespace detail {

/// One readable message per invalid policy, before the class is instantiated.
template <class Objective, class Mask, class Ending, class Base>
struct CheckedPolicies {
  static_assert(ObjectivePolicy<Objective>,
                "alkn: the first template argument must be an objective, for example "
                "alkn::TokenNLL: a struct with "
                "kName, kRemembers, Options, remember and loss");
  static_assert(
      MaskPolicy<Mask>,
      "alkn: the second template argument must be a mask: alkn::NoMask, alkn::LocalizedMask or "
      "alkn::GivenMask");
  static_assert(EndingPolicy<Ending>,
                "alkn: the third template argument must be an ending: alkn::Keep or alkn::Negate");
  static_assert(BaseOptimizer<Base>,
                "alkn: Base must be a torch::optim::Optimizer whose step needs no closure, which "
                "LBFGS is not");
  using BaseClass = std::conditional_t<kIsFused<Base>, FusedBase<Base>, ForeignBase<Base>>;
};

/// The way of checkpoints and tests into an Unlearner.
struct CoreAccess {
  template <class Method>
  static const std::shared_ptr<UnlearnerCore>& core(const Method& unlearner) {
    unlearner.core_->settle();
    return unlearner.core_;
  }
};

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
class Unlearner : public detail::CheckedPolicies<Objective, Mask, Ending, Base>::BaseClass {
  using BaseClass = typename detail::CheckedPolicies<Objective, Mask, Ending, Base>::BaseClass;

 public:
  /// All options of the method, with its defaults.
  using Options = MethodOptions<Objective, Mask, Ending>;
  using ObjectiveType = Objective;
  using MaskType = Mask;
  using EndingType = Ending;
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
  /// @param processes a group of processes that each make the same calls: see docs/processes.md.
  ///   Parameters take the values of process 0; collective
  template <NamedParameters Named, class BaseOptions>
  Unlearner(const Named& named, const Options& options, const BaseOptions& base,
            const Processes& processes = {})
      : Unlearner(named, std::vector<ParameterGroup<BaseOptions>>{}, options, base, processes) {}

  /// Over alkn::AdamW, whose options have defaults.
  template <NamedParameters Named>
  requires kFused explicit Unlearner(const Named& named, const Options& options = Options())
      : Unlearner(named, options, AdamWOptions()) {}

  /// With groups of names; parameters that no group names follow the defaults.
  template <NamedParameters Named, class GroupOptions, class BaseOptions>
  Unlearner(const Named& named, const std::vector<ParameterGroup<GroupOptions>>& groups,
            const Options& options, const BaseOptions& base, const Processes& processes = {})
      : Unlearner(checked(named, options, processes), groups, options, base, processes,
                  detail::Entered()) {}

  Unlearner(const Unlearner&) = delete;
  Unlearner& operator=(const Unlearner&) = delete;

  /// Opens a task: one deletion request. One at a time.
  /// @throws c10::Error while another runs; c10::ValueError for zero steps or parameters that
  /// changed
  [[nodiscard]] TaskType begin_task(const TaskOptions& task) {
    return TaskType(core_, core_->begin_task(task), options_);
  }

  /// In a task: clip, score, mask, and the base's step; outside: the base's step. Which, is asked
  /// after the closure.
  /// @returns the closure's loss, or an undefined tensor
  /// @throws before anything is written: more steps than announced, no retain gradient although the
  /// mask needs one,
  ///   a parameter or gradient that changed shape, dtype or device; what the closure throws, with a
  ///   group that of another process as well. A gradient that is not finite skips the step.
  Tensor step(LossClosure closure = nullptr) override {
    Tensor loss;
    const auto evaluate = [&] {
      if (!closure) return;
      const at::AutoGradMode with_grad(true);
      loss = closure();
    };
    core_->step(evaluate);
    return loss;
  }

  /// To be called before every replay of a CUDA graph that has captured step(), on the stream of
  /// the replay: does what a step does on the host, with this step's options, thresholds and
  /// counts. In a task it waits for the result of the last replay. See docs/cuda.md.
  void prepare_replay() requires kFused {
    core_->check_alone("prepare_replay()");
    if (core_->in_task()) {
      core_->prepare_replay();
    } else {
      Base::prepare_replay();
    }
  }

  /// Adds a group before the first task. `options`: the base's, or AdamWOverrides over alkn::AdamW.
  template <NamedParameters Named, class GroupOptions>
  void add_named_parameters(const Named& named, const GroupOptions& options) {
    core_->add_parameters([&](std::unique_ptr<torch::optim::OptimizerOptions>& own) {
      auto params = detail::collect_parameters(method_name(), named);
      const auto& defaults = static_cast<const torch::optim::Optimizer&>(*this).defaults();
      if constexpr (std::same_as<GroupOptions, AdamWOverrides>) {
        own = detail::group_options<Base>(options, static_cast<const AdamWOptions&>(defaults));
      } else {
        own = detail::group_options<Base>(options, options);
      }
      const torch::optim::OptimizerOptions& given = *own;
      TORCH_CHECK_VALUE(
          typeid(given) == typeid(defaults), "alkn::", method_name(),
          ": expected the base optimizer's options, got those of another (add_named_parameters)");
      this->check_group(*own, "add_named_parameters");
      return params;
    });
  }

  /// The base's state and options, for torch::save; under a low-precision model keyed by the fp32
  /// masters, which are not in it. save_checkpoint writes everything.
  void save(torch::serialize::OutputArchive& archive) const override {
    core_->check_archive();
    core_->settle();
    BaseClass::save(archive);
  }

  /// What the last step of the running task did; throws outside a task. On CUDA it waits for the
  /// device.
  [[nodiscard]] const StepReport& last_step() const {
    TORCH_CHECK(core_->in_task(), "alkn::", method_name(),
                ": expected last_step() during a task, got none running");
    core_->settle();
    return core_->task().last;
  }

  /// What the last step did to each tensor, in the order of the groups; throws outside a task.
  /// Cost: reads the masks.
  [[nodiscard]] std::vector<TensorReport> last_tensors() const {
    TORCH_CHECK(core_->in_task(), "alkn::", method_name(),
                ": expected last_tensors() during a task, got none running");
    return core_->tensor_reports();
  }

  /// With a group: the parameters that some process had other values of than process 0, when they
  /// were named last. The same list on all.
  [[nodiscard]] const std::vector<std::string>& differed() const noexcept {
    return core_->differed();
  }

  /// The options as they were given.
  [[nodiscard]] const Options& method_options() const noexcept { return options_; }
  /// The number of tasks that ended.
  [[nodiscard]] std::int64_t num_tasks() const noexcept { return core_->num_tasks(); }
  /// The name of the method: ALKN, TaskVector, GradientAscent, NPO, or Unlearner.
  [[nodiscard]] static const char* method_name();

 private:
  friend struct detail::CoreAccess;

  template <class GroupOptions, class BaseOptions>
  Unlearner(std::vector<NamedParameter> params,
            const std::vector<ParameterGroup<GroupOptions>>& groups, const Options& options,
            const BaseOptions& base, const Processes& processes, detail::Entered&& entered) try
      : BaseClass({method_name(), Mask::kKind != kernel::MaskKind::none, options.backend()},
                  detail::make_groups<Base>(method_name(), params, groups, base),
                  detail::base_options<Base>(base)),
        options_(options),
        core_(std::make_shared<detail::UnlearnerCore>(static_cast<detail::BaseAdapter&>(*this),
                                                      settings(), params, entered(processes),
                                                      option_lines(processes))) {
  } catch (...) {
    if (!entered.yes) detail::refuse_construction(processes, method_name());
    throw;
  }

  [[nodiscard]] std::vector<std::string> option_lines(const Processes& processes) const {
    std::vector<std::string> lines;
    if (!processes.group) return lines;
    for (const auto& [field, text] : detail::option_texts(options_))
      lines.push_back(detail::text_of({field, ": ", text}));
    return lines;
  }

  template <NamedParameters Named>
  static std::vector<NamedParameter> checked(const Named& named, const Options& options,
                                             const Processes& processes) {
    try {
      options.validate(method_name());
      return detail::collect_parameters(method_name(), named);
    } catch (...) {
      detail::refuse_construction(processes, method_name());
      throw;
    }
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
