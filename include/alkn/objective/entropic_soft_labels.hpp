// Entropic soft labels: the NLL of every token, weighted by how well the model knew it before the
// task.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <alkn/objective/objective.hpp>
#include <alkn/option.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace alkn {

/// Weight of a token whose probability was p0 before the task: w = min(sigmoid(s (p0 - c)) -
/// sigmoid(-s c), 1). Exactly 0 at p0 = 0: a token that the model no longer knows is not unlearned
/// again.
/// @param p0 in [0, 1]  @param steepness s  @param center c
inline double soft_label_weight(double p0, double steepness, double center) {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  return std::min(sigmoid(steepness * (p0 - center)) - sigmoid(steepness * (0.0 - center)), 1.0);
}

/// loss = - sum over valid tokens of w(p0) log p / number of valid tokens; spec section 2.
/// Source: Wuerkaixi et al., ICML 2025. Nothing of the size of the logits is built beside their
/// gradient.
struct EntropicSoftLabels {
  static constexpr const char* kName = "entropic_soft_labels";
  static constexpr bool kRemembers = true;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// s, in (0, infinity): how sharply the weight rises with p0 (paper: 10, its code: 1.5).
    ALKN_OPTION(Self, double, steepness, 1.5, Range::positive());
    /// c, any number: where it rises.
    ALKN_OPTION(Self, double, center, 0.8, Range::finite());
    ALKN_OPTIONS_END();
  };

  /// p0 of every valid token, by sample. @returns B CPU tensors [valid tokens], float or double
  static std::vector<Tensor> remember(const Tensor& logits, const Tensor& labels) {
    const at::NoGradGuard no_grad;
    return detail::counted_values(token_log_probability(logits, labels).exp(), labels);
  }

  /// @param memory p0 as remembered, in the order of the batch  @returns a scalar
  template <class Opt>
  static Tensor loss(const Opt& options, const std::vector<Tensor>& memory, const Tensor& logits,
                     const Tensor& labels) {
    const Tensor log_p = token_log_probability(logits, labels);
    const Tensor number = labels.is_cpu() ? valid_tokens(labels) : Tensor();
    detail::check_memory("EntropicSoftLabels", memory, labels, [&](std::int64_t b) {
      return number.defined() ? number.const_data_ptr<std::int64_t>()[b] : std::int64_t{-1};
    });
    std::vector<Tensor> weights;
    weights.reserve(memory.size());
    for (const Tensor& p0 : memory) {
      weights.push_back(weigh(p0, options.steepness(), options.center()));
    }
    const Tensor w = detail::spread_over_counted(weights, labels, log_p.scalar_type());
    // without weight a token counts for nothing, also where its log-probability is -infinity
    const Tensor weighted = log_p.mul(w).masked_fill(w.eq(0), 0);
    return detail::mean_over_counted(weighted, labels).neg();
  }

 private:
  static Tensor weigh(const Tensor& p0, double steepness, double center) {
    const Tensor weight = p0.to(at::kCPU, at::kDouble, /*non_blocking=*/false, /*copy=*/true);
    double* value = weight.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < weight.numel(); ++i) {
      value[i] = soft_label_weight(value[i], steepness, center);
    }
    return weight;
  }
};

}  // namespace alkn
