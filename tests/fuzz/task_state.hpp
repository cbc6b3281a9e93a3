// All that a method holds, as bytes that can be compared.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>
#include <torch/optim/sgd.h>
#include <alkn/alkn.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "method/tiny.hpp"

namespace fuzz {

using at::Tensor;

/// Appends values to a text.
class Writer {
 public:
  explicit Writer(std::string& to) : to_(to) {}

  template <class T>
  requires std::is_arithmetic_v<T> Writer& operator<<(T value) {
    to_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& operator<<(const std::string& text) {
    *this << text.size();
    to_.append(text);
    return *this;
  }
  Writer& operator<<(const Tensor& t) {
    *this << t.defined();
    if (!t.defined()) return *this;
    *this << static_cast<int>(t.scalar_type()) << t.dim();
    if (t.layout() != at::kStrided) return *this << reinterpret_cast<std::uintptr_t>(key_of(t));
    for (const std::int64_t size : t.sizes()) *this << size;
    Tensor plain = t.detach().contiguous();
    if (plain.element_size() == 2)  // a master has a NaN of it, not which one
      plain = plain.masked_fill(plain.isnan(), std::numeric_limits<double>::quiet_NaN());
    if (plain.numel() > 0)
      to_.append(static_cast<const char*>(plain.const_data_ptr()), plain.nbytes());
    return *this;
  }
  Writer& operator<<(const torch::optim::OptimizerOptions& options) {
    *this << options.get_lr();
    if (const auto* adamw = dynamic_cast<const alkn::AdamWOptions*>(&options)) {
      *this << std::get<0>(adamw->betas()) << std::get<1>(adamw->betas()) << adamw->eps()
            << adamw->weight_decay() << adamw->decay_vectors() << adamw->compact_state();
    } else if (const auto* sgd = dynamic_cast<const torch::optim::SGDOptions*>(&options)) {
      *this << sgd->momentum() << sgd->dampening() << sgd->weight_decay() << sgd->nesterov();
    }
    return *this;
  }

  static const void* key_of(const Tensor& t) { return t.unsafeGetTensorImpl(); }

 private:
  std::string& to_;
};

/// A method and its model at one moment.
struct State {
  std::string weights;    ///< of the parameters as they are
  std::string optimizer;  ///< masters, the base's state and options
  std::string history;    ///< of the tasks that have ended
  std::string gradients;
  std::string task;  ///< of the running one

  /// All but the gradients, which belong to nobody's state.
  [[nodiscard]] bool same_run(const State& other) const {
    return weights == other.weights && optimizer == other.optimizer && history == other.history &&
           task == other.task;
  }
  bool operator==(const State& other) const = default;
};

/// What the next step would take for the master of a parameter; undefined: it has none.
inline Tensor master_of(alkn::detail::UnlearnerCore& core, const Tensor& param) {
  if (!alkn::detail::is_low_precision(param)) return {};
  const Tensor held = core.base().masters().find(param), now = param.detach().to(at::kFloat);
  if (!held.defined() || held.sizes() != param.sizes()) return now;
  const auto bits = [&](const Tensor& t) { return t.to(param.scalar_type()).view(at::kShort); };
  return at::where(bits(held).eq(bits(now)), held, now);
}

/// The base's state of every parameter, in their order.
inline void write_base_state(Writer& to, alkn::detail::UnlearnerCore& core,
                             const alkn::detail::OptimizerState& states) {
  to << states.size();
  for (const auto& p : core.parameters()) {
    auto found = states.find(p.param.unsafeGetTensorImpl());
    if (found == states.end()) {
      const Tensor master = core.base().masters().find(p.param);
      if (master.defined()) found = states.find(master.unsafeGetTensorImpl());
    }
    to << (found != states.end());
    if (found == states.end()) continue;
    if (const auto* adamw = dynamic_cast<const alkn::AdamWParamState*>(found->second.get()))
      to << adamw->step() << adamw->exp_avg() << adamw->exp_avg_sq();
    else if (const auto* sgd =
                 dynamic_cast<const torch::optim::SGDParamState*>(found->second.get()))
      to << sgd->momentum_buffer();
  }
}

inline void write_task(Writer& to, alkn::detail::UnlearnerCore& core) {
  to << core.in_task();
  if (!core.in_task()) return;
  const alkn::detail::TaskState& task = core.task();
  to << task.announced << task.done << task.skipped << task.training << task.prepared << task.broken
     << task.swapped << task.judging << task.shown << task.num_retain_batches << task.unmask_ratio;
  to << task.last.task << task.last.step << task.last.grad_norm << task.last.clip_scale
     << task.last.unmask_ratio << task.last.fraction_trained << task.last.skipped;
  const auto& entries = task.memory.entries();
  const std::map<std::int64_t, alkn::detail::SampleMemory::Entry> sorted(entries.begin(),
                                                                         entries.end());
  for (const auto& [id, entry] : sorted) to << id << entry.num_tokens << entry.values;
  for (const auto& p : core.parameters()) {
    to << p.start << p.retain << p.score << p.mask << p.eta.value_or(-7) << p.slow << p.num_trained;
  }
  for (const auto& options : task.options_before) to << *options;
  write_base_state(to, core, task.state_before);
}

template <class Method>
State state_of(Method& method) {
  auto& core = tiny::core_of(method);
  State state;
  Writer weights(state.weights), optimizer(state.optimizer), history(state.history),
      gradients(state.gradients), task(state.task);
  history << core.num_tasks();
  for (const auto& p : core.parameters()) {
    weights << p.name << p.param;
    optimizer << master_of(core, p.param);
    history << p.used << p.threshold.value_or(-7) << p.given;
    gradients << p.param.grad();
  }
  for (const auto& group : method.param_groups())
    optimizer << group.params().size() << group.options();
  write_base_state(optimizer, core, method.state());
  write_task(task, core);
  return state;
}

}  // namespace fuzz
