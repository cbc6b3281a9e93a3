// The options of alkn::AdamW, what a group of it may set for itself, and its state.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/optim/optimizer.h>
#include <alkn/option.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

namespace alkn {

using at::Tensor;

/// Options of alkn::AdamW, with LibTorch's names and defaults. One is its own: `decay_vectors`.
struct AdamWOptions : torch::optim::OptimizerCloneableOptions<AdamWOptions> {
  AdamWOptions(double lr = 1e-3) : lr_(lr) {}  // NOLINT(google-explicit-constructor): as LibTorch's
  using betas_t = std::tuple<double, double>;
  /// Learning rate, [0, inf).
  TORCH_ARG(double, lr) = 1e-3;
  /// Decay of the two moments, each in [0, 1).
  TORCH_ARG(betas_t, betas) = {0.9, 0.999};
  /// Added to the denominator, [0, inf); in a method with a mask at least 1.2e-38, the smallest
  /// normal fp32 number.
  TORCH_ARG(double, eps) = 1e-8;
  /// Decoupled weight decay, [0, inf): theta *= 1 - lr weight_decay.
  TORCH_ARG(double, weight_decay) = 1e-2;
  /// Whether tensors of fewer than two dimensions (biases, normalisation weights) decay too, as
  /// they do in LibTorch.
  TORCH_ARG(bool, decay_vectors) = false;
  /// Whether the moments, and in a method with localisation the score, are kept as bfloat16,
  /// rounded stochastically by a counter of parameter, element and step: 4 (6) bytes a parameter
  /// less. Double parameters keep theirs in double.
  TORCH_ARG(bool, compact_state) = false;

 public:
  [[nodiscard]] double get_lr() const override { return lr(); }
  void set_lr(double new_lr) override { lr(new_lr); }

  /// Throws c10::ValueError for a value out of range. @param where for example "group 2", or empty
  void validate(std::string_view where = {}) const {
    detail::check_range("AdamW", "lr", lr_, Range::non_negative(), where);
    detail::check_range("AdamW", "betas[0]", std::get<0>(betas_), Range::closed_open(0, 1), where);
    detail::check_range("AdamW", "betas[1]", std::get<1>(betas_), Range::closed_open(0, 1), where);
    detail::check_range("AdamW", "eps", eps_, Range::non_negative(), where);
    detail::check_range("AdamW", "weight_decay", weight_decay_, Range::non_negative(), where);
  }
};

/// What a group of alkn::AdamW sets for itself, with the meanings and ranges of AdamWOptions;
/// everything unset follows the defaults.
struct AdamWOverrides {
  using betas_t = AdamWOptions::betas_t;
  TORCH_ARG(std::optional<double>, lr);
  TORCH_ARG(std::optional<betas_t>, betas);
  TORCH_ARG(std::optional<double>, eps);
  TORCH_ARG(std::optional<double>, weight_decay);
  TORCH_ARG(std::optional<bool>, decay_vectors);
  TORCH_ARG(std::optional<bool>, compact_state);

 public:
  /// The complete options of the group.
  [[nodiscard]] AdamWOptions merged(AdamWOptions options) const {
    if (lr_) options.lr(*lr_);
    if (betas_) options.betas(*betas_);
    if (eps_) options.eps(*eps_);
    if (weight_decay_) options.weight_decay(*weight_decay_);
    if (decay_vectors_) options.decay_vectors(*decay_vectors_);
    if (compact_state_) options.compact_state(*compact_state_);
    return options;
  }
};

/// State of one parameter. exp_avg, exp_avg_sq: [shape] fp32 (double for double), or bfloat16 where
/// the state is compact.
struct AdamWParamState : torch::optim::OptimizerCloneableParamState<AdamWParamState> {
  TORCH_ARG(std::int64_t, step) = 0;
  TORCH_ARG(Tensor, exp_avg);
  TORCH_ARG(Tensor, exp_avg_sq);
};

}  // namespace alkn
