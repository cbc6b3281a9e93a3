// Token NLL: fine-tuning on the forget set, the loss of task vectors.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/objective/losses.hpp>
#include <alkn/option.hpp>

#include <vector>

namespace alkn {

/// loss = mean over valid tokens of -log p. Remembers nothing and has no option.
struct TokenNLL {
  static constexpr const char* kName = "token_nll";
  static constexpr bool kRemembers = false;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    ALKN_OPTIONS_END();
  };

  static std::vector<Tensor> remember(const Tensor&, const Tensor&) { return {}; }

  template <class Opt>
  static Tensor loss(const Opt&, const std::vector<Tensor>&, const Tensor& logits,
                     const Tensor& labels) {
    return mean_nll(logits, labels);
  }
};

}  // namespace alkn
