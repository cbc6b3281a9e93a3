// Membership inference: can one tell from the model whether a sequence was in its training data?
// One score a sequence, the area under the ROC curve between forget and held-out sequences, and
// PrivLeak.
//
// Source: Yeom et al. (2018) for the loss; Carlini et al. (2021) for zlib; Shi et al., "Detecting
// pretraining data from large language models" (2024) for Min-K%; Zhang et al. (2024) for Min-K%++;
// Shi et al., "MUSE" (2024) for PrivLeak.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {

/// The attacks, each with the score it goes by.
enum class Attack {
  loss,             ///< `loss_score`: low for members
  zlib,             ///< `zlib_score`: low for members
  min_k,            ///< `min_k_score`: high for members
  min_k_plus_plus,  ///< `min_k_plus_plus_score`: high for members
};

/// Share of the tokens, the least likely ones, that Min-K% and Min-K%++ look at.
inline constexpr double kMinKShare = 0.4;

/// The model's mean and variance of the log-probability of the next token, at every place of a
/// sequence.
struct TokenMoments {
  Eigen::ArrayXd mean;      ///< mu = sum_v p_v log p_v, [T]
  Eigen::ArrayXd variance;  ///< sum_v p_v (log p_v - mu)^2, [T]
};

namespace detail {

/// Mean of the max(1, floor(share T)) lowest values.
inline double mean_of_lowest(std::string_view function, const Values& values, double share) {
  if (!(share > 0 && share <= 1)) fail(function, "a share in (0, 1]", number_text(share), "share");
  std::vector<double> sorted(values.begin(), values.end());
  const auto size = static_cast<double>(sorted.size());
  const auto number = std::max<std::ptrdiff_t>(1, static_cast<std::ptrdiff_t>(share * size));
  std::partial_sort(sorted.begin(), sorted.begin() + number, sorted.end());
  double sum = 0;
  for (std::ptrdiff_t i = 0; i < number; ++i) sum += sorted[static_cast<std::size_t>(i)];
  return sum / static_cast<double>(number);
}

inline void require_log_probabilities(std::string_view function, const Values& values) {
  require_range(function, "log_probabilities", values, std::numeric_limits<double>::lowest(), 0);
}

}  // namespace detail

/// Mean negative log-likelihood per token.
/// @param log_probabilities [T] of a sequence's tokens, at most 0
/// @throws std::invalid_argument if there are none or one is positive or not finite
inline double loss_score(const Values& log_probabilities) {
  detail::require_log_probabilities("loss_score", log_probabilities);
  return -log_probabilities.mean();
}

/// Loss over the length of the compressed text: what is surprising for its complexity.
/// @param loss `loss_score` of the sequence  @param compressed_bytes `compressed_size` of its
/// answer
/// @throws std::invalid_argument if the loss is negative or not finite, or the size not positive
inline double zlib_score(double loss, int64_t compressed_bytes) {
  if (!(loss >= 0 && std::isfinite(loss))) {
    detail::fail("zlib_score", "a finite loss of at least 0", detail::number_text(loss), "loss");
  }
  if (compressed_bytes <= 0) {
    detail::fail("zlib_score", "a positive number of bytes", std::to_string(compressed_bytes),
                 "compressed_bytes");
  }
  return loss / static_cast<double>(compressed_bytes);
}

/// Min-K%: mean of the max(1, floor(share T)) lowest log-probabilities.
/// @param log_probabilities [T] of a sequence's tokens, at most 0  @param share in (0, 1]
/// @throws std::invalid_argument if there are none, one is positive or not finite, or for the share
inline double min_k_score(const Values& log_probabilities, double share = kMinKShare) {
  detail::require_log_probabilities("min_k_score", log_probabilities);
  return detail::mean_of_lowest("min_k_score", log_probabilities, share);
}

/// Moments of log p under p, for `min_k_plus_plus_score`. A token with log p = -inf adds nothing.
/// @param log_probabilities [T, V] of every token at every place, at most 0
/// @throws std::invalid_argument if it is empty, or one is NaN or positive
inline TokenMoments token_moments(const ValueTable& log_probabilities) {
  detail::require_not_empty("token_moments", "log_probabilities", log_probabilities.size());
  TokenMoments moments{Eigen::ArrayXd::Zero(log_probabilities.rows()),
                       Eigen::ArrayXd::Zero(log_probabilities.rows())};
  for (Eigen::Index t = 0; t < log_probabilities.rows(); ++t) {
    for (Eigen::Index v = 0; v < log_probabilities.cols(); ++v) {
      const double value = log_probabilities(t, v);
      if (!(value <= 0)) {
        detail::fail("token_moments", "log-probabilities of at most 0", detail::number_text(value),
                     detail::element_text("log_probabilities", t, v));
      }
      if (std::isfinite(value)) moments.mean[t] += std::exp(value) * value;
    }
    for (Eigen::Index v = 0; v < log_probabilities.cols(); ++v) {
      const double value = log_probabilities(t, v);
      if (!std::isfinite(value)) continue;
      const double deviation = value - moments.mean[t];
      moments.variance[t] += std::exp(value) * deviation * deviation;
    }
  }
  return moments;
}

/// Min-K%++: Min-K% of (log p - mean) / sqrt(variance), the variance taken for at least 1e-6.
/// @param log_probabilities [T] of a sequence's tokens, at most 0
/// @param moments [T] each, of the distributions that those tokens were predicted from
/// @throws std::invalid_argument for values as in `min_k_score`, for sizes that differ, for moments
/// that
///         are not finite and for a negative variance
inline double min_k_plus_plus_score(const Values& log_probabilities, const TokenMoments& moments,
                                    double share = kMinKShare) {
  constexpr const char* kName = "min_k_plus_plus_score";
  detail::require_log_probabilities(kName, log_probabilities);
  detail::require_size(kName, "moments.mean", log_probabilities.size(), moments.mean.size());
  detail::require_size(kName, "moments.variance", log_probabilities.size(),
                       moments.variance.size());
  detail::require_values(kName, "moments.mean", moments.mean);
  detail::require_range(kName, "moments.variance", moments.variance, 0,
                        std::numeric_limits<double>::max());
  const Eigen::ArrayXd normalized =
      (log_probabilities - moments.mean) / moments.variance.max(1e-6).sqrt();
  return detail::mean_of_lowest(kName, normalized, share);
}

/// Area under the ROC curve: the probability that a positive score is above a negative one, ties
/// counting one half.
/// @param positive, negative any sizes; infinities are in order
/// @throws std::invalid_argument if one is empty or holds a NaN
inline double auc(const Values& positive, const Values& negative) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  detail::require_range("auc", "positive", positive, -kInfinity, kInfinity);
  detail::require_range("auc", "negative", negative, -kInfinity, kInfinity);
  std::vector<double> sorted(negative.begin(), negative.end());
  std::sort(sorted.begin(), sorted.end());
  int64_t half_wins = 0;  // twice the wins plus once the ties: an integer
  for (const double score : positive) {
    const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), score);
    half_wins += (first - sorted.begin()) + (last - sorted.begin());
  }
  return static_cast<double>(half_wins) / 2 / static_cast<double>(positive.size()) /
         static_cast<double>(negative.size());
}

/// AUC of forget against held-out sequences, the score turned so that it tends to 1 when the forget
/// text is far likelier.
/// @param forget, held_out scores of that attack, one a sequence
/// @throws std::invalid_argument if one is empty or holds a NaN
inline double membership_auc(Attack attack, const Values& forget, const Values& held_out) {
  const bool low_for_members = attack == Attack::loss || attack == Attack::zlib;
  return low_for_members ? auc(held_out, forget) : auc(forget, held_out);
}

/// PrivLeak = 100 ((1 - A) - (1 - A_gold)) / (1 - A_gold): 0 where the attack does as well as
/// against a model that never saw the forget set, negative where the forget set still shows,
/// positive where it was pushed too far away.
/// @param auc, gold_auc `membership_auc` of the unlearned and of the gold model, in [0, 1]
/// @throws std::invalid_argument if one lies outside [0, 1], or gold_auc is 1
inline double privacy_leakage(double auc, double gold_auc) {
  detail::require_range("privacy_leakage", "auc", Eigen::Array<double, 1, 1>(auc), 0, 1);
  detail::require_range("privacy_leakage", "gold_auc", Eigen::Array<double, 1, 1>(gold_auc), 0, 1);
  if (gold_auc == 1) detail::fail("privacy_leakage", "a gold_auc below 1", "1");
  return 100 * (gold_auc - auc) / (1 - gold_auc);
}

}  // namespace alkn::eval
