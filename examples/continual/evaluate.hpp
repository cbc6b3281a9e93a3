// How well a model still knows something.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <alkn/objective/losses.hpp>

#include <cstdint>
#include <limits>

#include "continual/batch.hpp"
#include "continual/model.hpp"

namespace continual {

/// Mean over the samples of exp(- mean NLL of the answer's tokens), without those that have no
/// token that counts; NaN where there are no others.
inline double answer_probability(Model& model, const Samples& samples) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  std::int64_t counted = 0;
  for (const Batch& batch : batches_by_length(samples, model.evaluation_batch())) {
    const at::Tensor nll = alkn::sequence_nll(model.logits(batch), batch.labels);
    const at::Tensor count = alkn::valid_tokens(batch.labels);
    const at::Tensor has_any = count.gt(0);
    sum += nll.div(count.clamp_min(1)).neg().exp().mul(has_any).sum(at::kDouble).item<double>();
    counted += has_any.sum().item<std::int64_t>();
  }
  return counted == 0 ? std::numeric_limits<double>::quiet_NaN()
                      : sum / static_cast<double>(counted);
}

/// Mean NLL over all tokens that count.
inline double mean_loss(Model& model, const Samples& samples) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  std::int64_t count = 0;
  for (const Batch& batch : batches_by_length(samples, model.evaluation_batch())) {
    sum += alkn::sequence_nll(model.logits(batch), batch.labels).sum(at::kDouble).item<double>();
    count += alkn::valid_tokens(batch.labels).sum().item<std::int64_t>();
  }
  return count == 0 ? 0.0 : sum / static_cast<double>(count);
}

/// The probabilities that a run reports after each task.
struct Probabilities {
  double forgotten = 0;  ///< what this request asked to forget
  double earlier = 0;    ///< what all earlier requests asked; NaN for the first
  double rephrased = 0;  ///< this request in other words; NaN where the data has none
  double shown = 0, unseen = 0;
  double general = std::numeric_limits<double>::quiet_NaN();  ///< NaN where it is not measured
};

inline Probabilities evaluate(Model& model, const EncodedData& data, std::size_t task) {
  Samples earlier;
  for (std::size_t t = 0; t < task; ++t) {
    const Samples& forget = data.requests[t].forget;
    earlier.insert(earlier.end(), forget.begin(), forget.end());
  }
  const EncodedRequest& request = data.requests[task];
  return {answer_probability(model, request.forget),    answer_probability(model, earlier),
          answer_probability(model, request.rephrased), answer_probability(model, data.shown),
          answer_probability(model, data.unseen),       answer_probability(model, data.general)};
}

/// What tells strengths apart: this request, and what is kept.
inline Probabilities evaluate_strength(Model& model, const EncodedData& data,
                                       const EncodedRequest& request) {
  constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
  return {answer_probability(model, request.forget),
          kNotMeasured,
          kNotMeasured,
          answer_probability(model, data.shown),
          answer_probability(model, data.unseen),
          answer_probability(model, data.general)};
}

/// The same over all requests at once.
inline Probabilities evaluate_all(Model& model, const EncodedData& data) {
  Samples forget, rephrased;
  for (const EncodedRequest& request : data.requests) {
    forget.insert(forget.end(), request.forget.begin(), request.forget.end());
    rephrased.insert(rephrased.end(), request.rephrased.begin(), request.rephrased.end());
  }
  return {answer_probability(model, forget),      std::numeric_limits<double>::quiet_NaN(),
          answer_probability(model, rephrased),   answer_probability(model, data.shown),
          answer_probability(model, data.unseen), answer_probability(model, data.general)};
}

}  // namespace continual
