// A tiny language model and the loops around it: what the tests of methods and tasks share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <alkn/alkn.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace tiny {

using at::Tensor;

inline constexpr std::int64_t kVocabulary = 11, kWidth = 6;

/// Numbers that look random, the same on every machine.
inline Tensor wave(at::IntArrayRef shape, double phase, double amplitude = 1,
                   at::ScalarType type = at::kFloat) {
  const Tensor flat = at::arange(c10::multiply_integers(shape), at::kDouble);
  return flat.square()
      .mul(0.37)
      .add(flat.mul(1.7))
      .add(phase)
      .sin()
      .mul(amplitude)
      .reshape(shape)
      .to(type)
      .clone();  // never a view
}

/// embed, weight, bias (6 entries: too few for a threshold), head.
struct Model {
  explicit Model(at::ScalarType type = at::kFloat) {
    add("embed", {kVocabulary, kWidth}, 0.1, type);
    add("weight", {kWidth, kWidth}, 0.7, type);
    add("bias", {kWidth}, 1.3, type);
    add("head", {kVocabulary, kWidth}, 2.9, type);
  }

  void add(const std::string& name, at::IntArrayRef shape, double phase, at::ScalarType type) {
    params.push_back({name, wave(shape, phase, 0.9, type).set_requires_grad(true)});
  }
  Tensor& operator[](std::string_view name) {
    return std::find_if(params.begin(), params.end(), [&](const auto& p) { return p.name == name; })
        ->tensor;
  }
  /// tokens [B, T] -> logits [B, T, V]
  [[nodiscard]] Tensor forward(const Tensor& tokens) const {
    const Tensor words = params[0].tensor.index_select(0, tokens.reshape({-1}));
    const Tensor hidden = words.matmul(params[1].tensor.t()).add(params[2].tensor).tanh();
    return hidden.matmul(params[3].tensor.t())
        .reshape({tokens.size(0), tokens.size(1), kVocabulary});
  }
  [[nodiscard]] std::vector<Tensor> copies() const {
    std::vector<Tensor> all;
    for (const auto& p : params) all.push_back(p.tensor.detach().clone());
    return all;
  }

  std::vector<alkn::NamedParameter> params;
};

/// Three sequences of five tokens; the first label counts nowhere, the last one is padding in the
/// first sequence.
struct Batch {
  explicit Batch(std::int64_t number) {
    const Tensor row = at::arange(5, at::kLong), sample = at::arange(3, at::kLong).unsqueeze(1);
    tokens = row.mul(3).add(sample.mul(5)).add(number * 4).add(row.mul(row)).remainder(kVocabulary);
    labels = tokens.clone();
    labels[0][4].fill_(-100);
    ids = at::arange(3, at::kLong).add(number * 10);
  }
  Tensor ids, tokens, labels;
};

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

inline bool same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Tensor& x, const Tensor& y) { return same_bits(x, y); });
}

/// The largest difference of two tensors.
inline double distance(const Tensor& a, const Tensor& b) {
  return a.numel() == 0 ? 0
                        : a.detach()
                              .to(at::kDouble)
                              .sub(b.detach().to(at::kDouble))
                              .abs()
                              .max()
                              .item<double>();
}

/// The text of what `call` throws.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

/// Throws away what a call returns, for error_of.
template <class T>
void ignore(T&&) {}

template <class Method>
auto& core_of(Method& unlearner) {
  return *alkn::detail::CoreAccess::core(unlearner);
}

/// All that a method holds over alkn::AdamW, to see that nothing has changed.
template <class Method>
std::vector<Tensor> everything(Method& unlearner) {
  auto& core = core_of(unlearner);
  std::vector<Tensor> all;
  std::vector<double> numbers{static_cast<double>(core.num_tasks())};
  for (const auto& p : core.parameters()) {
    for (const Tensor& t : {p.param, p.used, p.start, p.retain, p.score, p.mask}) {
      all.push_back(t.defined() ? t.detach().clone() : t);
    }
    numbers.insert(numbers.end(), {p.threshold.value_or(-7), p.eta.value_or(-7), p.slow ? 1.0 : 0.0,
                                   static_cast<double>(p.num_trained)});
    const auto found = unlearner.state().find(p.param.unsafeGetTensorImpl());
    if (found == unlearner.state().end()) continue;
    if (const auto* state = dynamic_cast<const alkn::AdamWParamState*>(found->second.get())) {
      all.push_back(state->exp_avg().clone());
      all.push_back(state->exp_avg_sq().clone());
      numbers.push_back(static_cast<double>(state->step()));
    }
  }
  for (const auto& group : unlearner.param_groups()) numbers.push_back(group.options().get_lr());
  if (core.in_task()) {
    const auto& task = core.task();
    numbers.insert(numbers.end(),
                   {static_cast<double>(task.done), static_cast<double>(task.skipped),
                    static_cast<double>(task.num_retain_batches), task.unmask_ratio,
                    static_cast<double>(task.memory.entries().size())});
  }
  all.push_back(at::tensor(numbers));
  return all;
}

inline constexpr std::int64_t kForget = 0, kRetain = 7;

/// What comes before the first step.
template <class Task>
void prepare(Task& task, const Model& model, std::int64_t request = kForget) {
  const Batch forget(request), retain(kRetain);
  if (task.wants_memory()) task.remember(forget.ids, model.forward(forget.tokens), forget.labels);
  if (task.wants_retain_gradient()) {
    for (std::int64_t i = 0; i < 2; ++i) {
      const Batch batch(kRetain + i);
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), batch.labels));
    }
  }
}

/// The loss of one step, with the retain term if one is asked for.
template <class Task>
Tensor loss_of(Task& task, const Model& model, std::int64_t request = kForget) {
  const Batch forget(request), retain(kRetain);
  Tensor reference;
  if (task.wants_reference_logits()) {
    const at::NoGradGuard no_grad;
    const auto start = task.start_weights();
    reference = model.forward(retain.tokens);
  }
  Tensor loss = task.loss(forget.ids, model.forward(forget.tokens), forget.labels);
  if (task.wants_retain_loss()) {
    loss = loss + task.retain_loss(model.forward(retain.tokens), retain.labels, reference);
  }
  return loss;
}

template <class Method, class Task>
double step(Method& unlearner, Task& task, const Model& model, std::int64_t request = kForget) {
  unlearner.zero_grad();
  const Tensor loss = loss_of(task, model, request);
  loss.backward();
  unlearner.step();
  return loss.template item<double>();
}

/// A whole task.
template <class Method>
alkn::TaskReport unlearn(Method& unlearner, const Model& model, std::int64_t steps,
                         std::int64_t request = kForget) {
  auto task = unlearner.begin_task({.steps = steps});
  prepare(task, model, request);
  for (std::int64_t i = 0; i < steps; ++i) step(unlearner, task, model, request);
  return task.end();
}

/// A task of ALKN that `finish(task, model)` ends after four steps, and one more.
/// @returns the report, the weights after both, and what of the first one's mask the second trained
template <class Finish>
auto ended_by(at::ScalarType type, alkn::Backend backend, Finish&& finish) {
  Model model(type);
  alkn::ALKN<> method(
      model.params,
      alkn::ALKNOptions().backend(type == at::kDouble ? alkn::Backend::aten : backend),
      alkn::AdamWOptions(0.05));
  auto task = method.begin_task({.steps = 4});
  prepare(task, model);
  for (int i = 0; i < 4; ++i) step(method, task, model);
  const alkn::TaskReport report = finish(task, model);
  const auto after = unlearn(method, model, 2, 1);  // the history is the same as well
  return std::tuple(report, model.copies(), after.overlap);
}

/// A gradient for every parameter, without a model.
inline void set_gradients(const std::vector<alkn::NamedParameter>& params, double phase) {
  for (std::size_t i = 0; i < params.size(); ++i) {
    const Tensor& p = params[i].tensor;
    Tensor(p).mutable_grad() =
        wave(p.sizes(), phase + static_cast<double>(i), 0.2, p.scalar_type());
  }
}

/// A loss that every parameter is in.
inline Tensor sum_of_squares(const std::vector<alkn::NamedParameter>& params) {
  Tensor loss;
  for (const auto& p : params) {
    const Tensor term = p.tensor.square().sum();
    loss = loss.defined() ? loss.add(term) : term;
  }
  return loss;
}

inline const char* name_of(alkn::Backend backend) {
  return backend == alkn::Backend::aten  ? "aten"
         : backend == alkn::Backend::cpu ? "cpu"
                                         : "automatic";
}

inline constexpr alkn::Backend kBackends[] = {alkn::Backend::aten, alkn::Backend::cpu};

}  // namespace tiny
