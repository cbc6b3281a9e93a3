// How much of an answer the model still produces word by word. Both measures compare the answer
// with the greedy prediction under teacher forcing: at every place the likeliest token given the
// question and the *right* tokens before it.
//
// Source: Carlini et al., "Extracting training data from large language models" (2021); Tirumala et
// al., "Memorization without overfitting" (2022); in the form of the open-unlearning benchmark
// (2025).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {
namespace detail {

inline void require_tokens(std::string_view function, std::span<const int64_t> predicted,
                           std::span<const int64_t> answer) {
  require_not_empty(function, "answer", static_cast<Eigen::Index>(answer.size()));
  require_size(function, "predicted", static_cast<Eigen::Index>(answer.size()),
               static_cast<Eigen::Index>(predicted.size()));
}

}  // namespace detail

/// Extraction strength 1 - k / T: k is the smallest start from which the prediction equals all that
/// remains of the answer's T tokens. No match at all counts as 1 / T, like a match of the last
/// token only.
/// @param predicted, answer [T] token ids, the end-of-sequence token included
/// @throws std::invalid_argument if the answer is empty or the sizes differ
inline double extraction_strength(std::span<const int64_t> predicted,
                                  std::span<const int64_t> answer) {
  detail::require_tokens("extraction_strength", predicted, answer);
  std::size_t start = answer.size();
  while (start > 0 && predicted[start - 1] == answer[start - 1]) --start;
  if (start == answer.size()) --start;
  return 1 - static_cast<double>(start) / static_cast<double>(answer.size());
}

/// Exact memorisation: the share of the answer's tokens that are predicted right.
/// @param predicted, answer [T] token ids, the end-of-sequence token included
/// @throws std::invalid_argument if the answer is empty or the sizes differ
inline double exact_memorization(std::span<const int64_t> predicted,
                                 std::span<const int64_t> answer) {
  detail::require_tokens("exact_memorization", predicted, answer);
  int64_t right = 0;
  for (std::size_t i = 0; i < answer.size(); ++i) right += predicted[i] == answer[i] ? 1 : 0;
  return static_cast<double>(right) / static_cast<double>(answer.size());
}

}  // namespace alkn::eval
