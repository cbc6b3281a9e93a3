// SimNPO: negative preference optimisation without a reference.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/log_sigmoid.h>
#include <alkn/alkn.hpp>

#include <vector>

namespace alkn {

/// loss = -(2 / beta) mean over sequences of log sigmoid(beta (NLL / number of tokens - delta)).
/// Sequences without a valid token are left out of the mean; none at all: 0 with a zero gradient.
/// Source: Fan et al. 2024.
struct SimplePreference {
  static constexpr const char* kName = "simple_preference";
  static constexpr bool kRemembers = false;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// beta, in (0, infinity).
    ALKN_OPTION(Self, double, beta, 4.5, Range::positive());
    /// delta, any number: the mean NLL from which a sequence counts as forgotten.
    ALKN_OPTION(Self, double, delta, 0, Range::finite());
    ALKN_OPTIONS_END();
  };

  static std::vector<Tensor> remember(const Tensor&, const Tensor&) { return {}; }

  template <class Opt>
  static Tensor loss(const Opt& options, const std::vector<Tensor>&, const Tensor& logits,
                     const Tensor& labels) {
    const Tensor number = valid_tokens(labels);
    const Tensor counted = number.gt(0);
    const Tensor nll = sequence_nll(logits, labels).div(number.clamp_min(1));
    const Tensor log_sigmoid = at::log_sigmoid(nll.sub(options.delta()).mul(options.beta()));
    const Tensor mean = log_sigmoid.mul(counted).sum().div(counted.sum().clamp_min(1));
    return mean.mul(-2 / options.beta());
  }
};

using SimNPOOptions = MethodOptions<SimplePreference, NoMask, Keep>;
inline const char* method_title(const SimNPOOptions&) { return "SimNPO"; }

template <class Base = AdamW>
using SimNPO = Unlearner<SimplePreference, NoMask, Keep, Base>;

}  // namespace alkn
