// The two kinds of base optimizers, as a task needs them: alkn::AdamW, whose whole step is one
// kernel call, and any other, which steps by itself on gradients that were masked.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <alkn/backend.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/base_options.hpp>
#include <alkn/optim/optimizer_state.hpp>
#include <alkn/optim/swap_masters.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/task/base.hpp>
#include <alkn/text.hpp>

#include <concepts>
#include <cstddef>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn::detail {

template <class Base>
inline constexpr bool kIsFused = std::derived_from<Base, AdamW>;

/// What a base has to know of the method that it steps for.
struct BaseRules {
  const char* owner;  ///< the method, in error texts
  bool masks;         ///< some gradients are zero: eps must be normal
  Backend backend;    ///< of the method's options
};

/// alkn::AdamW, or a class derived from it.
template <class Base>
class FusedBase : public Base, protected BaseAdapter {
 protected:
  using Groups = std::vector<torch::optim::OptimizerParamGroup>;

  template <class BaseOptions>
  FusedBase(const BaseRules& rules, const Groups& groups, const BaseOptions& options)
      : Base(groups, options), rules_(rules) {
    this->backend_ = rules.backend;
    check_options();
  }

  void check_group(const torch::optim::OptimizerOptions& own, const std::string& where) const {
    const auto& options = static_cast<const AdamWOptions&>(own);
    options.validate(where);
    if (rules_.masks) check_masked_eps(rules_.owner, options.eps(), where);
  }

  // BaseAdapter
  torch::optim::Optimizer& optimizer() override { return *this; }
  bool fused() const override { return true; }
  Masters& masters() override { return this->masters_; }
  StepRunner& runner() override { return this->runner_; }
  StepSlot plain_slot(std::size_t position, const Tensor& param, std::size_t group,
                      bool compact) override {
    return Base::plain_slot(position, param, Base::group_options(this->param_groups_[group]),
                            compact);
  }
  bool compact(std::size_t group) const override {
    return Base::group_options(this->param_groups_[group]).compact_state();
  }
  kernel::StepResult fused_step(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                                Backend backend, StepMode mode) override {
    return Base::take_step(slots, args, backend, mode);
  }
  void forget_new_state() override { Base::forget_new_state(); }
  void take_back(const std::vector<char>& stepped) override { Base::take_back(stepped); }
  void base_step() override {
    if constexpr (std::same_as<Base, AdamW>)
      Base::step_all(StepMode::run, GradientChecks::done);
    else  // a step of its own
      Base::step(nullptr);
  }
  void check_options() override {
    Base::check_groups(GradientChecks::done);
    for (std::size_t g = 0; rules_.masks && g < this->param_groups_.size(); ++g)
      check_masked_eps(rules_.owner, Base::group_options(this->param_groups_[g]).eps(),
                       text_of({"group ", g}));
  }
  std::string options_text(std::size_t group) const override {
    const AdamWOptions& o = Base::group_options(this->param_groups_[group]);
    return text_of({"lr ", o.lr(), ", betas ", std::get<0>(o.betas()), " and ",
                    std::get<1>(o.betas()), ", eps ", o.eps(), ", weight_decay ", o.weight_decay(),
                    ", decay_vectors ", o.decay_vectors(), ", compact_state ", o.compact_state()});
  }
  void assign_options(torch::optim::OptimizerOptions& to,
                      const torch::optim::OptimizerOptions& from) override {
    static_cast<AdamWOptions&>(to) = static_cast<const AdamWOptions&>(from);
  }
  OptimizerState fresh_state() override { return {}; }

 private:
  BaseRules rules_;
};

/// Any other first-order optimizer. It steps on the fp32 masters of a low-precision model, which
/// the adapter keeps.
template <class Base>
class ForeignBase : public Base, protected BaseAdapter {
 public:
  /// The base's state and options, keyed by the fp32 masters of a low-precision model, which are
  /// not in it.
  void save(torch::serialize::OutputArchive& archive) const override {
    auto& self = const_cast<ForeignBase&>(*this);  // param_groups are as before on return
    self.check_options();                          // LibTorch casts them
    const SwapMasters swap(&self, self.masters_, {});
    Base::save(archive);
  }
  /// What `save` wrote, by position.
  void load(torch::serialize::InputArchive& archive) override {
    const SwapMasters swap(this, masters_, {});
    Base::load(archive);
  }

 protected:
  using Groups = std::vector<torch::optim::OptimizerParamGroup>;

  template <class BaseOptions>
  ForeignBase(const BaseRules& rules, const Groups& groups, const BaseOptions& options)
      : Base(groups, options) {
    fresh_ = [options](const Groups& now) {
      Base fresh(now, options);
      OptimizerState state;
      state.swap(fresh.state());
      return state;
    };
    check_ = [rules](const torch::optim::OptimizerOptions& own, const std::string& where) {
      const auto* known = dynamic_cast<const BaseOptions*>(&own);
      TORCH_CHECK_VALUE(known, "alkn::", rules.owner,
                        ": expected the base optimizer's options, got those of another (", where,
                        ")");
      check_base_options(rules.owner, *known, where);
      if constexpr (requires { known->eps(); }) {
        if (rules.masks) check_masked_eps(rules.owner, known->eps(), where);
      }
    };
    text_ = [](const torch::optim::OptimizerOptions& own) {
      const auto* known = dynamic_cast<const BaseOptions*>(&own);
      return known != nullptr ? base_options_text(*known) : text_of({"lr ", own.get_lr()});
    };
    assign_ = [](torch::optim::OptimizerOptions& to, const torch::optim::OptimizerOptions& from) {
      static_cast<BaseOptions&>(to) = static_cast<const BaseOptions&>(from);
    };
    check_options();
  }

  void check_group(const torch::optim::OptimizerOptions& own, const std::string& where) const {
    check_(own, where);
  }

  // BaseAdapter
  torch::optim::Optimizer& optimizer() override { return *this; }
  bool fused() const override { return false; }
  Masters& masters() override { return masters_; }
  StepRunner& runner() override { return runner_; }
  StepSlot plain_slot(std::size_t, const Tensor&, std::size_t, bool) override { return {}; }
  bool compact(std::size_t) const override { return false; }
  kernel::StepResult fused_step(std::vector<StepSlot>&, const kernel::StepArgs&, Backend,
                                StepMode) override {
    return {};
  }
  void forget_new_state() override {}
  void take_back(const std::vector<char>&) override {}
  void base_step() override { Base::step(nullptr); }
  void check_options() override {
    for (std::size_t g = 0; g < this->param_groups_.size(); ++g)
      check_(this->param_groups_[g].options(), text_of({"group ", g}));
  }
  std::string options_text(std::size_t group) const override {
    return text_(this->param_groups_[group].options());
  }
  void assign_options(torch::optim::OptimizerOptions& to,
                      const torch::optim::OptimizerOptions& from) override {
    assign_(to, from);
  }
  OptimizerState fresh_state() override { return fresh_(this->param_groups_); }

 private:
  Masters masters_;
  StepRunner runner_;
  // what is known of the class of the options in the constructor alone
  std::function<OptimizerState(const Groups&)> fresh_;
  std::function<void(const torch::optim::OptimizerOptions&, const std::string& where)> check_;
  std::function<std::string(const torch::optim::OptimizerOptions&)> text_;
  std::function<void(torch::optim::OptimizerOptions& to, const torch::optim::OptimizerOptions&)>
      assign_;
};

}  // namespace alkn::detail
