// Porter's stemmer as NLTK has it in its default mode, which departs from Porter's paper in a dozen
// rules; the ROUGE scores of the field are computed with it.
//
// Source: M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980; the departures
// are those of nltk.stem.PorterStemmer, NLTK_EXTENSIONS, each marked below.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace alkn::eval {
namespace detail {

/// What the rules ask about a stem: its run of consonants and vowels.
struct StemShape {
  int measure = 0;  ///< Porter's m: how often a vowel is followed by a consonant
  bool has_vowel = false;
  bool ends_in_consonant = false;
  bool ends_in_cvc = false;  ///< the paper's *o
};

/// Everything but a, e, i, o, u is a consonant (digits too), except a y after a consonant.
inline StemShape stem_shape(std::string_view stem) {
  StemShape shape;
  std::array<bool, 3> consonant{};  // of the last three characters, the newest first
  for (std::size_t i = 0; i < stem.size(); ++i) {
    const bool is_consonant =
        stem[i] == 'y' ? i == 0 || !consonant[0]
                       : std::string_view("aeiou").find(stem[i]) == std::string_view::npos;
    if (i > 0 && is_consonant && !consonant[0]) ++shape.measure;
    shape.has_vowel = shape.has_vowel || !is_consonant;
    consonant = {is_consonant, consonant[0], consonant[1]};
  }
  shape.ends_in_consonant = !stem.empty() && consonant[0];
  if (stem.size() >= 3) {
    shape.ends_in_cvc = consonant[2] && !consonant[1] && consonant[0] &&
                        std::string_view("wxy").find(stem.back()) == std::string_view::npos;
  } else if (stem.size() == 2) {
    shape.ends_in_cvc = !consonant[1] && consonant[0];  // NLTK's addition
  }
  return shape;
}

inline int measure(std::string_view stem) { return stem_shape(stem).measure; }

inline bool ends_in_double_consonant(std::string_view word) {
  return word.size() >= 2 && word[word.size() - 1] == word[word.size() - 2] &&
         stem_shape(word).ends_in_consonant;
}

inline void replace_end(std::string& word, std::string_view suffix, std::string_view replacement) {
  word.replace(word.size() - suffix.size(), suffix.size(), replacement);
}

struct SuffixRule {
  std::string_view suffix;
  std::string_view replacement;
};

/// The first rule whose suffix fits decides; it is carried out if the stem before it has a measure
/// above `least`.
inline void apply_rules(std::string& word, std::span<const SuffixRule> rules, int least) {
  for (const SuffixRule& rule : rules) {
    if (!word.ends_with(rule.suffix)) continue;
    if (measure(std::string_view(word).substr(0, word.size() - rule.suffix.size())) > least) {
      replace_end(word, rule.suffix, rule.replacement);
    }
    return;
  }
}

/// Plurals.
inline void porter_step_1a(std::string& word) {
  if (word.ends_with("ies")) {
    replace_end(word, "ies", word.size() == 4 ? "ie" : "i");  // NLTK: dies -> die, but flies -> fli
  } else if (word.ends_with("sses")) {
    replace_end(word, "sses", "ss");
  } else if (word.ends_with("s") && !word.ends_with("ss")) {
    word.pop_back();
  }
}

/// What a stem gets back after -ed or -ing has gone.
inline void restore_end(std::string& word) {
  const StemShape shape = stem_shape(word);
  const bool needs_e = word.ends_with("at") || word.ends_with("bl") || word.ends_with("iz");
  if (!needs_e && ends_in_double_consonant(word)) {
    if (std::string_view("lsz").find(word.back()) == std::string_view::npos) word.pop_back();
  } else if (needs_e || (shape.measure == 1 && shape.ends_in_cvc)) {
    word += 'e';
  }
}

/// Past tenses and -ing.
inline void porter_step_1b(std::string& word) {
  if (word.ends_with("ied")) {
    replace_end(word, "ied", word.size() == 4 ? "ie" : "i");  // NLTK: died -> die, but spied -> spi
    return;
  }
  if (word.ends_with("eed")) {
    if (measure(std::string_view(word).substr(0, word.size() - 3)) > 0) word.pop_back();
    return;
  }
  for (const std::string_view suffix : {std::string_view("ed"), std::string_view("ing")}) {
    if (word.ends_with(suffix) &&
        stem_shape(std::string_view(word).substr(0, word.size() - suffix.size())).has_vowel) {
      replace_end(word, suffix, "");
      restore_end(word);
      return;
    }
  }
}

/// -y. NLTK: only after a consonant that is not the whole stem (happi, spi, but enjoy).
inline void porter_step_1c(std::string& word) {
  if (word.size() > 2 && word.back() == 'y' &&
      stem_shape(std::string_view(word).substr(0, word.size() - 1)).ends_in_consonant) {
    word.back() = 'i';
  }
}

/// Double suffixes. NLTK: -bli for the paper's -abli, -alli before all others, -fulli and -logi.
inline void porter_step_2(std::string& word) {
  static constexpr SuffixRule kRules[] = {
      {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
      {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
      {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
      {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
      {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
      {"fulli", "ful"}};
  if (word.ends_with("logi")) {  // the l counts with the stem, so that geo- and theo- fit
    if (measure(std::string_view(word).substr(0, word.size() - 3)) > 0) word.pop_back();
    return;
  }
  if (word.ends_with("alli") && measure(std::string_view(word).substr(0, word.size() - 4)) > 0) {
    replace_end(word, "alli", "al");  // and once more: -ationalli
  }
  apply_rules(word, kRules, 0);
}

inline void porter_step_3(std::string& word) {
  static constexpr SuffixRule kRules[] = {{"icate", "ic"}, {"ative", ""},  {"alize", "al"},
                                          {"iciti", "ic"}, {"ical", "ic"}, {"ful", ""},
                                          {"ness", ""}};
  apply_rules(word, kRules, 0);
}

/// Single suffixes behind long stems.
inline void porter_step_4(std::string& word) {
  static constexpr SuffixRule kRules[] = {
      {"al", ""},   {"ance", ""}, {"ence", ""},  {"er", ""},   {"ic", ""},  {"able", ""},
      {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""}, {"ent", ""}, {"ou", ""},
      {"ism", ""},  {"ate", ""},  {"iti", ""},   {"ous", ""},  {"ive", ""}, {"ize", ""}};
  if (word.ends_with("ion")) {
    if (!word.ends_with("sion") && !word.ends_with("tion")) return;
    static constexpr SuffixRule kIon[] = {{"ion", ""}};
    apply_rules(word, kIon, 1);
    return;
  }
  apply_rules(word, kRules, 1);
}

/// A last -e, and -ll.
inline void porter_step_5(std::string& word) {
  if (word.ends_with("e")) {
    const StemShape shape = stem_shape(std::string_view(word).substr(0, word.size() - 1));
    if (shape.measure > 1 || (shape.measure == 1 && !shape.ends_in_cvc)) word.pop_back();
  }
  if (word.ends_with("ll") && measure(std::string_view(word).substr(0, word.size() - 1)) > 1) {
    word.pop_back();
  }
}

}  // namespace detail

/// The stem of a word, letter for letter that of nltk.stem.PorterStemmer().
/// @param word in lower case; characters other than a, e, i, o, u and y count as consonants
inline std::string porter_stem(std::string_view word) {
  // NLTK's table of irregular forms.
  static constexpr std::pair<std::string_view, std::string_view> kIrregular[] = {
      {"sky", "sky"},        {"skies", "sky"},        {"dying", "die"},
      {"lying", "lie"},      {"tying", "tie"},        {"news", "news"},
      {"innings", "inning"}, {"inning", "inning"},    {"outings", "outing"},
      {"outing", "outing"},  {"cannings", "canning"}, {"canning", "canning"},
      {"howe", "howe"},      {"proceed", "proceed"},  {"exceed", "exceed"},
      {"succeed", "succeed"}};
  for (const auto& [form, stem] : kIrregular) {
    if (word == form) return std::string(stem);
  }
  std::string result(word);
  if (word.size() <= 2) return result;
  detail::porter_step_1a(result);
  detail::porter_step_1b(result);
  detail::porter_step_1c(result);
  detail::porter_step_2(result);
  detail::porter_step_3(result);
  detail::porter_step_4(result);
  detail::porter_step_5(result);
  return result;
}

}  // namespace alkn::eval
