// A method on a tiny model, the handle of its task, and what has to hold after every call: it has
// worked, or has thrown an error of ours and changed nothing.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/sgd.h>
#include <alkn/alkn.hpp>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "method/tiny.hpp"
#include "task_batches.hpp"
#include "task_state.hpp"

namespace fuzz {

/// Ends the program, for libFuzzer to keep the input.
[[noreturn]] inline void violated(const std::string& what, const std::string& why) {
  std::fprintf(stderr, "fuzz_task: %s: %s\n", what.c_str(), why.c_str());
  std::abort();
}

/// What a judge or a closure of the user throws.
struct TheirError : std::runtime_error {
  TheirError() : std::runtime_error("an error of the user's") {}
};

template <class Method>
class Fixture {
 public:
  using Task = typename Method::TaskType;
  using Make = std::unique_ptr<Method> (*)(const std::vector<alkn::NamedParameter>&);

 protected:
  Fixture(Bytes& bytes, at::ScalarType type, Make make)
      : bytes_(bytes), make_(make), model_(type), aside_(model_.params.size()) {
    method_ = make_(model_.params);
  }

  State now() { return state_of(*method_); }
  alkn::detail::UnlearnerCore& core() { return tiny::core_of(*method_); }
  bool broken() { return core().in_task() && core().task().broken; }

  /// @param before what there has to be after an error
  /// @param excused whether there may be something else, asked after it
  /// @returns whether the call has worked
  template <class Call>
  bool attempt(const char* what, Call&& call, const State& before,
               const std::function<bool()>& excused = nullptr) {
    std::string error;
    try {
      call();
      return true;
    } catch (const TheirError&) {
      error = "alkn::, passed on";
    } catch (const c10::Error& e) {
      error = e.what_without_backtrace();
    } catch (const std::exception& e) {
      error = e.what();
    }
    if (error.rfind("alkn::", 0) != 0) violated(what, "an error of somebody else: " + error);
    if (excused && excused()) return false;
    if (const State after = now(); !(after == before))
      violated(what, difference(before, after) + ", after: " + error);
    return false;
  }
  template <class Call>
  bool attempt(const char* what, Call&& call) {
    return attempt(what, call, now());
  }
  /// What has to work. After a forged checkpoint nothing has to, beside being no crash.
  template <class Call>
  bool must(const char* what, Call&& call) {
    const bool worked = attempt(what, call);
    if (!worked && !forged_) violated(what, "has to work and does not");
    return worked;
  }

  static std::string difference(const State& a, const State& b) {
    std::string text = "changed";
    if (a.weights != b.weights) text += " weights";
    if (a.optimizer != b.optimizer) text += " optimizer";
    if (a.history != b.history) text += " history";
    if (a.gradients != b.gradients) text += " gradients";
    if (a.task != b.task) text += " task";
    return text;
  }

  // --- the model and the options -------------------------------------------------------------

  [[nodiscard]] bool is_whole() const {
    for (const Tensor& t : aside_) {
      if (t.defined()) return false;
    }
    return true;
  }
  /// The model's logits, or, where it cannot be run, others.
  [[nodiscard]] Tensor forward(const Tensor& tokens) const {
    if (is_whole()) return model_.forward(tokens);
    return tiny::wave({3, 5, tiny::kVocabulary}, 1).set_requires_grad(true);
  }
  Sample sample() {
    return draw_sample(bytes_, [this](const Tensor& tokens) { return forward(tokens); });
  }
  /// Whether a task on these weights gives numbers.
  [[nodiscard]] bool is_usual() const {
    for (const auto& p : model_.params) {
      if (!p.tensor.detach().abs().lt(1e3).all().template item<bool>()) return false;
    }
    return true;
  }
  void put_back() {
    for (std::size_t i = 0; i < aside_.size(); ++i) {
      if (!aside_[i].defined()) continue;
      model_.params[i].tensor.set_data(aside_[i]);
      aside_[i] = Tensor();
    }
  }
  /// Puts other memory under a parameter: of another shape or type, or of other strides.
  void set_data() {
    const auto i = bytes_.pick(model_.params.size());
    Tensor& param = model_.params[i].tensor;
    const Tensor values = param.detach();
    const auto other = [&](const Tensor& data) {
      if (aside_[i].defined()) return put_back();  // not a float that takes the double's place
      aside_[i] = values;
      param.set_data(data);
    };
    switch (bytes_.pick(6)) {
      case 0:
        return other(at::zeros({3, 3}, values.options()));
      case 1:
        return other(at::zeros({0}, values.options()));
      case 2:
        return other(at::zeros(values.sizes(),
                               values.scalar_type() == at::kDouble ? at::kFloat : at::kDouble));
      case 3:
        return param.set_data(values.clone());
      case 4:
        return param.set_data(values.t().contiguous().t());
      default:
        return put_back();
    }
  }
  void write_weights() {
    if (!is_whole() || (core().in_task() && (core().task().scope() || core().task().judging)))
      return;
    const at::NoGradGuard no_grad;
    model_.params[bytes_.pick(model_.params.size())].tensor.add_(0.01);
    written_ = true;
  }
  void clear_gradients() {
    for (auto& p : model_.params) p.tensor.mutable_grad() = Tensor();
  }
  void freeze() {
    Tensor& param = model_.params[bytes_.pick(model_.params.size())].tensor;
    param.set_requires_grad(!param.requires_grad());
  }
  void set_options() {
    auto& group = method_->param_groups()[bytes_.pick(method_->param_groups().size())];
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    constexpr double kRates[] = {0.05, 0, 1e-3, -1, 1e300, kNaN};
    constexpr double kEps[] = {1e-8, 1e-40, 0, kNaN};
    const double rate = bytes_.one_of(kRates);
    auto* adamw = dynamic_cast<alkn::AdamWOptions*>(&group.options());
    switch (bytes_.pick(6)) {
      case 0:
        return group.set_options(std::make_unique<torch::optim::SGDOptions>(rate));
      case 1:
        return group.set_options(std::make_unique<alkn::AdamWOptions>(rate));
      case 2:
        if (adamw != nullptr) adamw->eps(bytes_.one_of(kEps));
        return;
      case 3:
        if (adamw != nullptr) adamw->compact_state(!adamw->compact_state());
        return;
      default:
        return group.options().set_lr(rate);
    }
  }
  void mend_options() {
    for (auto& group : method_->param_groups()) {
      if constexpr (Method::kFused)
        group.set_options(std::make_unique<alkn::AdamWOptions>(0.01));
      else
        group.set_options(std::make_unique<torch::optim::SGDOptions>(0.01));
    }
    unfreeze();
  }
  void unfreeze() {
    for (auto& p : model_.params) p.tensor.set_requires_grad(true);
  }

  // --- the handle ----------------------------------------------------------------------------

  /// The handle of a task that has ended is kept, for calls that come too late.
  void retire() {
    if (!task_) return;
    stale_.reset();
    stale_.emplace(std::move(*task_));
    task_.reset();
  }
  /// A task has begun. @param before how everything was then; none: unknown
  void take(Task&& made, std::optional<State> before, bool written) {
    retire();
    task_.emplace(std::move(made));
    begun_ = std::move(before);
    written_ = written;
  }
  /// After a task that was undone. @param held whether the weights of its start were
  void check_restored(const char* what, bool held) {
    if (core().in_task()) violated(what, "the task runs on");
    if (!begun_ || (!held && (written_ || !is_whole()))) return;
    State after = now();
    after.gradients = begun_->gradients;
    if (!(after == *begun_)) violated(what, "not as at begin_task, " + difference(*begun_, after));
  }
  /// Another unlearner over the same parameters; the old one goes while its task has a handle.
  void rebuild() {
    put_back();
    start_.reset(), shown_.reset();
    method_.reset();
    if (task_ && tiny::error_of([&] { tiny::ignore(task_->warnings()); }) !=
                     "alkn::Task: expected the unlearner to outlive its task, got one that is gone "
                     "or moved from")
      violated("a task without its unlearner", "another error");
    retire();
    model_.params.resize(kOwn), aside_.resize(kOwn);
    unfreeze(), clear_gradients();
    method_ = make_(model_.params);
  }

  static constexpr std::size_t kOwn = 4;  ///< the model's parameters; others are added

  Bytes& bytes_;
  Make make_;
  tiny::Model model_;
  std::vector<Tensor> aside_;  ///< what belongs under a parameter that has other memory
  std::unique_ptr<Method> method_;
  std::optional<Task> task_, stale_;
  std::unique_ptr<alkn::StartWeights> start_;
  std::unique_ptr<alkn::WeightsAt> shown_;
  std::optional<State> begun_;  ///< before the running task
  bool written_ = false;        ///< somebody else has written weights since
  bool forged_ = false;         ///< a checkpoint with other contents was loaded
};

}  // namespace fuzz
