// Negative preference optimisation: ascent that fades out as a sequence becomes unlikely.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/log_sigmoid.h>
#include <alkn/objective/objective.hpp>
#include <alkn/option.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace alkn {

/// loss = -(2 / beta) mean over sequences of log sigmoid(beta (NLL - NLL before the task)).
/// Sequences without a valid token are left out of the mean; none at all: 0 with a zero gradient.
/// Source: Zhang et al. 2024.
struct NegativePreference {
  static constexpr const char* kName = "negative_preference";
  static constexpr bool kRemembers = true;

  template <class Self>
  struct Options {
    ALKN_OPTIONS_BEGIN();
    /// beta, in (0, infinity): towards 0 the loss becomes gradient ascent.
    ALKN_OPTION(Self, double, beta, 0.1, Range::positive());
    ALKN_OPTIONS_END();
  };

  /// The NLL of every sequence. @returns B CPU tensors [1], float or double
  /// @throws c10::ValueError for one that is not finite: a token of it is impossible to the model
  static std::vector<Tensor> remember(const Tensor& logits, const Tensor& labels) {
    const at::NoGradGuard no_grad;
    std::vector<Tensor> nll = sequence_nll(logits, labels).cpu().unsqueeze(1).unbind(0);
    for (std::size_t b = 0; b < nll.size(); ++b) {
      const double value = nll[b].item<double>();
      TORCH_CHECK_VALUE(std::isfinite(value),
                        "alkn::NegativePreference: expected a finite NLL to remember, got ", value,
                        " (sequence ", b, ")");
    }
    return nll;
  }

  /// @param memory NLL of each sequence as remembered, in the order of the batch  @returns a scalar
  template <class Opt>
  static Tensor loss(const Opt& options, const std::vector<Tensor>& memory, const Tensor& logits,
                     const Tensor& labels) {
    const Tensor nll = sequence_nll(logits, labels);
    detail::check_memory("NegativePreference", memory, labels,
                         [](std::int64_t) { return std::int64_t{1}; });
    if (memory.empty()) return nll.sum();
    const Tensor before = at::cat(memory).to(nll.options());
    const Tensor counted = valid_tokens(labels).gt(0);
    const Tensor log_sigmoid = at::log_sigmoid(nll.sub(before).mul(options.beta()));
    const Tensor mean = log_sigmoid.mul(counted).sum().div(counted.sum().clamp_min(1));
    return mean.mul(-2 / options.beta());
  }
};

}  // namespace alkn
