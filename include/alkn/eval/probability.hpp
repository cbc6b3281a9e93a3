// Answer probability and truth ratio, question by question. A loss l here is the mean negative
// log-likelihood per token of an answer given its question, the end-of-sequence token included.
//
// Source: Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs" (2024), section 2.2.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {

/// p = exp(-l) of every answer: the probability normalised by length.
/// @param losses [questions]  @returns [questions]
/// @throws std::invalid_argument if there are none or one is not finite
inline Eigen::ArrayXd probability(const Values& losses) {
  detail::require_values("probability", "losses", losses);
  return losses.unaryExpr([](double loss) { return std::exp(-loss); });
}

/// p_true / (p_true + sum_j p_wrong_j): how a question with given choices is answered, as for
/// TOFU's real authors and world facts.
/// @param true_losses [questions]  @param wrong_losses [questions, wrong answers]
/// @returns [questions]
/// @throws std::invalid_argument if one is empty or not finite, or their numbers of questions
/// differ
inline Eigen::ArrayXd normalized_probability(const Values& true_losses,
                                             const ValueTable& wrong_losses) {
  constexpr const char* kName = "normalized_probability";
  detail::require_values(kName, "true_losses", true_losses);
  detail::require_size(kName, "wrong_losses", true_losses.size(), wrong_losses.rows());
  detail::require_table(kName, "wrong_losses", wrong_losses);
  Eigen::ArrayXd result(true_losses.size());
  for (Eigen::Index i = 0; i < result.size(); ++i) {
    // Divided by p_true, so that losses beyond 745, whose exp(-l) is 0, still have a ratio.
    double sum = 1;
    for (Eigen::Index j = 0; j < wrong_losses.cols(); ++j) {
      sum += std::exp(true_losses[i] - wrong_losses(i, j));
    }
    result[i] = 1 / sum;
  }
  return result;
}

/// t = exp(l_para - mean_j l_wrong_j): the wrong answers' probability (their geometric mean) over
/// that of the rephrased right one. Small where the model knows the answer.
/// @param paraphrased_losses [questions]; the answer's own where there is no rephrased one
/// @param wrong_losses [questions, wrong answers]
/// @returns [questions], in [0, inf]
/// @throws std::invalid_argument if one is empty or not finite, or their numbers of questions
/// differ
inline Eigen::ArrayXd truth_ratio(const Values& paraphrased_losses,
                                  const ValueTable& wrong_losses) {
  detail::require_values("truth_ratio", "paraphrased_losses", paraphrased_losses);
  detail::require_size("truth_ratio", "wrong_losses", paraphrased_losses.size(),
                       wrong_losses.rows());
  detail::require_table("truth_ratio", "wrong_losses", wrong_losses);
  Eigen::ArrayXd result(paraphrased_losses.size());
  for (Eigen::Index i = 0; i < result.size(); ++i) {
    // Element by element: Eigen's vector lanes and its scalar tail round differently, and equal
    // losses must give equal ratios (forget quality counts ties).
    double sum = 0;
    for (Eigen::Index j = 0; j < wrong_losses.cols(); ++j) sum += wrong_losses(i, j);
    const double mean = sum / static_cast<double>(wrong_losses.cols());
    result[i] = std::exp(paraphrased_losses[i] - mean);
  }
  return result;
}

/// min(t, 1 / t), whose mean is the truth ratio of a *forget* set: 1 where right and wrong answers
/// are equally likely.
/// @param truth_ratios [questions], in [0, inf]  @returns [questions], in [0, 1]
/// @throws std::invalid_argument if there are none or one is NaN or negative
inline Eigen::ArrayXd forget_truth_ratio(const Values& truth_ratios) {
  detail::require_range("forget_truth_ratio", "truth_ratios", truth_ratios, 0,
                        std::numeric_limits<double>::infinity());
  return truth_ratios.unaryExpr([](double t) { return std::min(t, 1 / t); });
}

/// max(0, 1 - t), whose mean is the truth ratio of every *other* set: 1 where the right answer is
/// far likelier than the wrong ones.
/// @param truth_ratios [questions], in [0, inf]  @returns [questions], in [0, 1]
/// @throws std::invalid_argument if there are none or one is NaN or negative
inline Eigen::ArrayXd retain_truth_ratio(const Values& truth_ratios) {
  detail::require_range("retain_truth_ratio", "truth_ratios", truth_ratios, 0,
                        std::numeric_limits<double>::infinity());
  return truth_ratios.unaryExpr([](double t) { return std::max(0.0, 1 - t); });
}

}  // namespace alkn::eval
