// ROUGE-L recall: how many of the reference's words, in their order, the generated text contains.
//
// Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004); tokens and stems as
// in the rouge-score package with its stemmer, which TOFU's published numbers come from.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "alkn/eval/arrays.hpp"
#include "alkn/eval/porter_stemmer.hpp"

namespace alkn::eval {
namespace detail {

/// ASCII in lower case, everything but a-z and 0-9 a space. Two characters outside ASCII have a
/// lower case inside it and count as those letters: the dotted capital I and the Kelvin sign.
inline std::string letters_and_digits(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      result += c;
    } else if (c >= 'A' && c <= 'Z') {
      result += static_cast<char>(c - 'A' + 'a');
    } else if (text.substr(i, 2) == "\xC4\xB0") {
      result += "i ";  // its lower case is an i and a combining dot, which ends the word
      i += 1;
    } else if (text.substr(i, 3) == "\xE2\x84\xAA") {
      result += 'k';
      i += 2;
    } else {
      result += ' ';
    }
  }
  return result;
}

}  // namespace detail

/// The words that ROUGE compares: lower case, a-z and 0-9 only, stemmed if longer than three
/// letters.
/// @param text UTF-8
inline std::vector<std::string> rouge_tokens(std::string_view text) {
  const std::string letters = detail::letters_and_digits(text);
  std::vector<std::string> tokens;
  for (std::size_t begin = 0; begin < letters.size();) {
    const std::size_t end = std::min(letters.find(' ', begin), letters.size());
    const std::string_view word = std::string_view(letters).substr(begin, end - begin);
    if (word.size() > 3) {
      tokens.push_back(porter_stem(word));
    } else if (!word.empty()) {
      tokens.emplace_back(word);
    }
    begin = end + 1;
  }
  return tokens;
}

/// Length of the longest common subsequence of two lists of words.
/// Cost: one comparison a pair of words, memory for one list.
inline int64_t longest_common_subsequence(const std::vector<std::string>& a,
                                          const std::vector<std::string>& b) {
  std::vector<int64_t> row(b.size() + 1, 0);  // row[j]: of what has been read of a with b[0, j)
  for (const std::string& word : a) {
    int64_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const int64_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

/// Longest common subsequence over the number of reference words, in [0, 1]; 0 for an empty
/// generated text.
/// @param reference, generated UTF-8
/// @throws std::invalid_argument if the reference has no word of a-z and 0-9
inline double rouge_l_recall(std::string_view reference, std::string_view generated) {
  const std::vector<std::string> expected = rouge_tokens(reference);
  if (expected.empty()) {
    detail::fail("rouge_l_recall", "a reference with at least one word of a-z and 0-9", "none",
                 "reference \"" + std::string(reference.substr(0, 60)) + "\"");
  }
  const int64_t common = longest_common_subsequence(expected, rouge_tokens(generated));
  return static_cast<double>(common) / static_cast<double>(expected.size());
}

}  // namespace alkn::eval
