// How well a model still knows something.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <alkn/objective/losses.hpp>

#include <cstdint>
#include <limits>

#include "continual/batch.hpp"
#include "continual/model.hpp"
#include "continual/team.hpp"

namespace continual {

namespace detail {

/// Calls `add(batch, sum, count)` for all samples, on each process for its part. Returns the mean,
/// the same on all; `none` where nothing counts.
template <class Add>
double mean_over(Model& model, const Samples& samples, const Team& team, double none,
                 const Add& add) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  std::int64_t count = 0;
  team.together([&] {
    for (const Batch& batch : batches_by_length(team.own(samples), model.evaluation_batch())) {
      add(batch, sum, count);
    }
  });
  const double all = team.sum(static_cast<double>(count)), total = team.sum(sum);
  return all == 0 ? none : total / all;
}

}  // namespace detail

/// Mean over the samples of exp(- mean NLL of the answer's tokens), without those that have no
/// token that counts; NaN where there are no others. Collective.
inline double answer_probability(Model& model, const Samples& samples, const Team& team = {}) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  return detail::mean_over(
      model, samples, team, kNone, [&](const Batch& batch, double& sum, std::int64_t& counted) {
        const at::Tensor nll = alkn::sequence_nll(model.logits(batch), batch.labels);
        const at::Tensor count = alkn::valid_tokens(batch.labels);
        const at::Tensor has_any = count.gt(0);
        sum += nll.div(count.clamp_min(1)).neg().exp().mul(has_any).sum(at::kDouble).item<double>();
        counted += has_any.sum().item<std::int64_t>();
      });
}

/// Mean NLL over all tokens that count. Collective.
inline double mean_loss(Model& model, const Samples& samples, const Team& team = {}) {
  return detail::mean_over(
      model, samples, team, 0.0, [&](const Batch& batch, double& sum, std::int64_t& count) {
        const at::Tensor nll = alkn::sequence_nll(model.logits(batch), batch.labels);
        sum += nll.sum(at::kDouble).item<double>();
        count += alkn::valid_tokens(batch.labels).sum().item<std::int64_t>();
      });
}

/// The probabilities that a run reports after each task.
struct Probabilities {
  double forgotten = 0;  ///< what this request asked to forget
  double earlier = 0;    ///< what all earlier requests asked; NaN for the first
  double rephrased = 0;  ///< this request in other words; NaN where the data has none
  double shown = 0, unseen = 0;
  double general = std::numeric_limits<double>::quiet_NaN();  ///< NaN where it is not measured
};

inline Probabilities evaluate(Model& model, const EncodedData& data, std::size_t task,
                              const Team& team = {}) {
  Samples earlier;
  for (std::size_t t = 0; t < task; ++t) {
    const Samples& forget = data.requests[t].forget;
    earlier.insert(earlier.end(), forget.begin(), forget.end());
  }
  const EncodedRequest& request = data.requests[task];
  const auto known = [&](const Samples& samples) {
    return answer_probability(model, samples, team);
  };
  return {known(request.forget), known(earlier),     known(request.rephrased),
          known(data.shown),     known(data.unseen), known(data.general)};
}

/// What tells strengths apart: this request, and what is kept.
inline Probabilities evaluate_strength(Model& model, const EncodedData& data,
                                       const EncodedRequest& request, const Team& team = {}) {
  constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
  return {answer_probability(model, request.forget, team),
          kNotMeasured,
          kNotMeasured,
          answer_probability(model, data.shown, team),
          answer_probability(model, data.unseen, team),
          answer_probability(model, data.general, team)};
}

/// The same over all requests at once.
inline Probabilities evaluate_all(Model& model, const EncodedData& data, const Team& team = {}) {
  Samples forget, rephrased;
  for (const EncodedRequest& request : data.requests) {
    forget.insert(forget.end(), request.forget.begin(), request.forget.end());
    rephrased.insert(rephrased.end(), request.rephrased.begin(), request.rephrased.end());
  }
  return {
      answer_probability(model, forget, team),      std::numeric_limits<double>::quiet_NaN(),
      answer_probability(model, rephrased, team),   answer_probability(model, data.shown, team),
      answer_probability(model, data.unseen, team), answer_probability(model, data.general, team)};
}

}  // namespace continual
