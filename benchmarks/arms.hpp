// The optimizers of the table of step costs, each over the parameters of one Model.
#pragma once

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <malloc.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <alkn/alkn.hpp>
#include <memory>
#include <optional>

#include "model.hpp"
#include "plain_operations.hpp"

namespace alkn_bench {

inline constexpr double kRate = 1e-5;
inline constexpr std::int64_t kManySteps = 1000000;
inline constexpr const char* kFused = "at::_fused_adamw_";

/// at::_fused_adamw_ over all tensors at once.
class FusedAdamW {
 public:
  explicit FusedAdamW(const Model& model) {
    for (const at::Tensor& p : model.parameters()) {
      parameters_.push_back(p.detach());
      gradients_.push_back(p.grad());
      exp_avg_.push_back(at::zeros_like(p.detach()));
      exp_avg_sq_.push_back(at::zeros_like(p.detach()));
      steps_.push_back(at::zeros({}));
    }
  }
  void step() {
    const at::NoGradGuard no_grad;
    for (at::Tensor& step : steps_) step.add_(1);
    at::_fused_adamw_(parameters_, gradients_, exp_avg_, exp_avg_sq_, {}, steps_, kRate, 0.9, 0.999,
                      0.01, 1e-8, false, false);
  }

 private:
  std::vector<at::Tensor> parameters_, gradients_, exp_avg_, exp_avg_sq_, steps_;
};

/// A method inside a running task: its first, or a later one.
template <class Method>
class InTask {
 public:
  template <class BaseOptions>
  InTask(const Model& model, const typename Method::Options& options, const BaseOptions& base,
         bool later)
      : model_(model), unlearner_(std::make_unique<Method>(named(model), options, base)) {
    begin();
    if (!later) return;
    unlearner_->step();
    static_cast<void>(task_->end());
    begin();
  }
  void step() { unlearner_->step(); }
  /// Begins the task anew, as if it had taken no step.
  void begin_again() {
    task_->abandon();
    begin();
  }

 private:
  static std::vector<alkn::NamedParameter> named(const Model& model) {
    std::vector<alkn::NamedParameter> list;
    for (const at::Tensor& p : model.parameters()) {
      list.push_back({fmt::format("p{}", list.size()), p});
    }
    return list;
  }
  void begin() {
    task_.emplace(unlearner_->begin_task({.steps = kManySteps}));
    if (!task_->wants_retain_gradient()) return;
    at::Tensor loss = at::zeros({});
    const std::vector<at::Tensor> retain = model_.retain_gradients();
    for (std::size_t i = 0; i < retain.size(); ++i) {
      loss = loss + at::sum(model_.parameters()[i] * retain[i]);
    }
    task_->accumulate_retain_gradient(loss);
  }

  const Model& model_;
  std::unique_ptr<Method> unlearner_;
  std::optional<typename Method::TaskType> task_;
};

enum class Kind {
  peer,  ///< takes part in every comparison
  main,  ///< on every shape, with any number of threads
  more,  ///< with all threads
  slow,  ///< with all threads, on shapes of at most 16 Mi elements
};
/// A row of the table, made on demand: an arm holds state of the size of the model and more.
struct ArmMaker {
  std::string name;
  Kind kind = Kind::more;
  std::function<Arm(Model&)> make;
};

/// Memory of this process that is in use, in bytes: what was freed is given back first.
inline double resident_bytes() {
  ::malloc_trim(0);
  std::ifstream statm("/proc/self/statm");
  double total = 0, resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

namespace detail {

template <class Optimizer>
Arm arm_of(const std::string& name, std::shared_ptr<Optimizer> optimizer, double bytes,
           double floor, int every) {
  Arm arm;
  arm.name = name;
  arm.step = [optimizer] { optimizer->step(); };
  arm.bytes = bytes, arm.floor_bytes = floor, arm.every = every;
  return arm;
}

/// A method of alkn in a task. Slow ones take part in every so many rounds of a quick run.
template <class Method, class BaseOptions>
ArmMaker method(const std::string& name, Kind kind, const typename Method::Options& options,
                const BaseOptions& base, bool later, double bytes, double floor, int every = 1) {
  return {name, kind, [=](Model& model) {
            auto task = std::make_shared<InTask<Method>>(model, options, base, later);
            Arm arm = arm_of(name, task, bytes, floor, every);
            arm.writes_gradients = !Method::kFused;  // another base is given g' in their place
            return arm;
          }};
}

inline ArmMaker plain(bool later, int every) {
  const std::string name = later ? "plain operations, later task" : "plain operations, first task";
  return {name, Kind::slow, [=](Model& model) {
            const at::NoGradGuard no_grad;
            std::vector<at::Tensor> retain = model.retain_gradients(), used;
            for (const at::Tensor& r : retain) {
              if (later) used.push_back(r > 0);
            }
            auto steps = std::make_shared<PlainOperations>(model.parameters(), retain, used);
            Arm arm = arm_of(name, steps, later ? 316 : 620, later ? 48.1 : 48.3, every);
            arm.writes_gradients = true;  // clipped in place
            return arm;
          }};
}

}  // namespace detail

/// All arms. Bytes are those of the passes (docs/architecture.md); of LibTorch's and the plain
/// sequences those of their operations, each reading its inputs and writing its output.
/// @param slow in how many rounds the slow ones take part once
inline std::vector<ArmMaker> all_arms(int slow) {
  using namespace alkn;
  const AdamWOptions fast(kRate);
  const auto sgd = torch::optim::SGDOptions(kRate).momentum(0.9);
  const auto adamw = torch::optim::AdamWOptions(kRate);
  const ALKNOptions options;
  ALKNOptions seldom;
  seldom.threshold_every(kManySteps);
  std::vector<ArmMaker> arms;
  arms.push_back({"ceiling", Kind::peer, [](Model& model) { return model.ceiling(); }});
  arms.push_back(
      {"ceiling of reading", Kind::peer, [](Model& model) { return model.read_ceiling(); }});
  arms.push_back({kFused, Kind::peer, [](Model& model) {
                    return detail::arm_of(kFused, std::make_shared<FusedAdamW>(model), 28, 28, 1);
                  }});
  arms.push_back({"alkn::AdamW", Kind::main, [fast](Model& model) {
                    auto optimizer = std::make_shared<AdamW>(model.parameters(), fast);
                    return detail::arm_of("alkn::AdamW", optimizer, 28, 28, 1);
                  }});
  arms.push_back(
      detail::method<ALKN<>>("ALKN, later task", Kind::main, options, fast, true, 48.25, 48.1));
  arms.push_back(
      detail::method<ALKN<>>("ALKN, first task", Kind::main, options, fast, false, 48.3, 48.3));
  arms.push_back(detail::method<ALKN<>>("ALKN, first task, threshold not due", Kind::main, seldom,
                                        fast, false, 44.1, 44.1));
  ALKNOptions compact;
  compact.compact_state(true);
  arms.push_back(detail::method<ALKN<>>("ALKN, later task, compact state", Kind::more, compact,
                                        fast, true, 36.25, 36.1));
  arms.push_back(detail::method<ALKN<>>("ALKN, first task, compact state", Kind::more, compact,
                                        fast, false, 36.3, 36.3));
  arms.push_back(
      detail::method<GradientAscent<>>("gradient ascent", Kind::more, {}, fast, false, 32, 32));
  arms.push_back(detail::method<NPO<>>("NPO", Kind::more, {}, fast, false, 32, 32));
  arms.push_back(detail::method<TaskVector<>>("task vector", Kind::more, {}, fast, false, 32, 32));
  arms.push_back({"torch SGD, momentum", Kind::more, [=](Model& model) {
                    auto optimizer = std::make_shared<torch::optim::SGD>(model.parameters(), sgd);
                    return detail::arm_of("torch SGD, momentum", optimizer, 32, 20, 1);
                  }});
  arms.push_back({"torch AdamW", Kind::more, [=](Model& model) {
                    auto optimizer =
                        std::make_shared<torch::optim::AdamW>(model.parameters(), adamw);
                    return detail::arm_of("torch AdamW", optimizer, 84, 28, slow);
                  }});
  arms.push_back(detail::method<ALKN<torch::optim::SGD>>("ALKN over torch SGD", Kind::more, options,
                                                         sgd, false, 56.3, 40.3));
  arms.push_back(detail::method<ALKN<torch::optim::AdamW>>(
      "ALKN over torch AdamW", Kind::more, options, adamw, false, 108.3, 48.3, slow));
  arms.push_back(detail::method<ALKN<>>("ALKN, first task, Backend::aten", Kind::slow,
                                        ALKNOptions().backend(Backend::aten), fast, false, 385,
                                        48.3, slow));
  arms.push_back(detail::plain(false, slow));
  arms.push_back(detail::plain(true, slow));
  return arms;
}

/// The first task of `steps` steps over and over, cold brackets and misses included.
inline Arm first_tasks(Model& model, int steps) {
  auto task = std::make_shared<InTask<alkn::ALKN<>>>(model, alkn::ALKNOptions(),
                                                     alkn::AdamWOptions(kRate), false);
  const std::string name = fmt::format("ALKN, mean of first tasks of {} steps", steps);
  Arm arm = detail::arm_of(name, task, 48.3, 48.3, 1);
  auto count = std::make_shared<int>(0);
  arm.prepare = [=] {
    if (*count % steps == 0) task->begin_again();
    ++*count;
  };
  arm.by_mean = true;
  return arm;
}

}  // namespace alkn_bench
