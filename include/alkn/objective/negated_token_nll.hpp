// Gradient ascent: the token NLL with a minus sign.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/objective/token_nll.hpp>

#include <vector>

namespace alkn {

/// loss = mean over valid tokens of log p (Jang et al. 2023). Remembers nothing and has no option.
struct NegatedTokenNLL {
  static constexpr const char* kName = "negated_token_nll";
  static constexpr bool kRemembers = false;

  template <class Self>
  using Options = TokenNLL::Options<Self>;

  static std::vector<Tensor> remember(const Tensor&, const Tensor&) { return {}; }

  template <class Opt>
  static Tensor loss(const Opt&, const std::vector<Tensor>&, const Tensor& logits,
                     const Tensor& labels) {
    return mean_nll(logits, labels).neg();
  }
};

}  // namespace alkn
