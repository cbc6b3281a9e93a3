// A regular expression of a tokenizer.json, by PCRE2.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "tokenizers/json_field.hpp"
#include "tokenizers/utf8.hpp"

namespace tokenizers {

/// The pattern in PCRE2's dialect. The files' is Oniguruma's: what the two read differently is
/// translated (\s, which PCRE2 takes to have U+180E, scripts, \u) or refused.
class PatternTranslator {
 public:
  PatternTranslator(std::string_view pattern, const JsonField& field)
      : pattern_(pattern), field_(field) {}

  [[nodiscard]] std::string translated() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        translate_escape();
      } else if (in_class_) {
        translate_in_class();
      } else {
        translate_outside();
      }
    }
    return std::move(out_);
  }

 private:
  static constexpr const char* kWhiteSpace =
      R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

  [[noreturn]] void refuse(std::string_view what) const {
    field_.fail("a pattern without " + std::string(what), field_.described());
  }
  [[nodiscard]] bool follows(std::string_view text) const {
    return pattern_.substr(at_, text.size()) == text;
  }
  void copy(std::size_t size) {
    out_ += pattern_.substr(at_, size);
    at_ += size;
  }

  void translate_escape() {
    if (at_ + 1 == pattern_.size()) {
      refuse("a \\ at its end");
    }
    const char escaped = pattern_[at_ + 1];
    if (escaped == 's' || escaped == 'S') {
      if (escaped == 'S' && in_class_) {
        refuse("\\S in brackets");
      }
      out_ += in_class_ ? std::string(kWhiteSpace)
                        : std::string(escaped == 's' ? "[" : "[^") + kWhiteSpace + "]";
      at_ += 2;
    } else if (escaped == 'p' || escaped == 'P') {
      translate_property();
    } else if (escaped == 'u') {
      out_ +=
          "\\x{" + std::string(pattern_.substr(at_ + 2 < pattern_.size() ? at_ + 2 : at_, 4)) + "}";
      at_ = at_ + 6 < pattern_.size() ? at_ + 6 : pattern_.size();
    } else if (std::string_view("rntdD").find(escaped) != std::string_view::npos ||
               (escaped > ' ' && escaped < 0x7f &&
                std::isalnum(static_cast<unsigned char>(escaped)) == 0)) {
      copy(2);
    } else {
      refuse(std::string("\\") + escaped);
    }
  }

  /// \p{Han} is a script to Oniguruma, and to PCRE2 also what other scripts share with it.
  void translate_property() {
    const auto end = pattern_.find('}', at_);
    if (pattern_.substr(at_ + 2, 1) != "{" || end == std::string_view::npos) {
      refuse("\\p outside of \\p{...}");
    }
    copy(3);
    if (follows("^")) {
      copy(1);
    }
    constexpr std::size_t kLongestCategory = 2;  // L, Lu
    if (end - at_ > kLongestCategory && !follows("Any}")) {
      out_ += "sc:";
    }
    copy(end + 1 - at_);
  }

  void translate_in_class() {
    if (follows("[") || follows("&&")) {
      refuse("sets within brackets");
    }
    in_class_ = !follows("]");
    copy(1);
  }

  void translate_outside() {
    if (follows("(?")) {
      static constexpr std::array<std::string_view, 7> kGroups{"(?:",  "(?i:", "(?=", "(?!",
                                                               "(?<=", "(?<!", "(?>"};
      for (const std::string_view group : kGroups) {
        if (follows(group)) {
          return copy(group.size());
        }
      }
      refuse("other groups than (?: (?i: (?= (?! (?<= (?<! (?>");
    }
    if (follows("(*")) {
      refuse("(*");
    }
    if (follows("{,") || follows("}+")) {
      refuse(pattern_.substr(at_, 2));
    }
    in_class_ = follows("[");
    copy(follows("[^") ? 2 : 1);
  }

  std::string_view pattern_;
  const JsonField& field_;
  std::string out_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

/// A compiled pattern. Copies share the compiled code; threads may search with it at once.
class Pattern {
 public:
  /// `field` names the pattern in errors.
  Pattern(std::string_view pattern, const JsonField& field) {
    require_utf8(pattern, field.where());
    const std::string translated = PatternTranslator(pattern, field).translated();
    const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
        pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int code = 0;
    std::size_t offset = 0;
    code_.reset(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &offset, context.get()),
        &pcre2_code_free);
    if (!code_) {
      std::array<PCRE2_UCHAR, 200> words{};
      pcre2_get_error_message(code, words.data(), words.size());
      field.fail("a regular expression",
                 field.described() + ": " + reinterpret_cast<const char*>(words.data()));
    }
    std::uint32_t matches_empty = 0;
    pcre2_pattern_info(code_.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty != 0) {
      field.fail("a pattern that matches at least one character", field.described());
    }
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where there is none, it matches without
  }

  /// Calls visit(begin, end, matched) for all pieces of `text` in their order: matches, and what
  /// is between them. `text` is valid UTF-8.
  template <class Visitor>
  void split(std::string_view text, Visitor&& visit) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), &pcre2_match_data_free);
    std::size_t done = 0;
    while (done < text.size() && search(text, done, data.get())) {
      const std::size_t* ends = pcre2_get_ovector_pointer(data.get());
      if (ends[0] > done) {
        visit(done, ends[0], false);
      }
      visit(ends[0], ends[1], true);
      done = ends[1];
    }
    if (done < text.size()) {
      visit(done, text.size(), false);
    }
  }

 private:
  bool search(std::string_view text, std::size_t start, pcre2_match_data* data) const {
    const auto match = [&](std::uint32_t options) {
      return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                         PCRE2_NO_UTF_CHECK | options, data, nullptr);
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = match(PCRE2_NO_JIT);
    }
    if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
      std::array<PCRE2_UCHAR, 200> words{};
      pcre2_get_error_message(result, words.data(), words.size());
      fail("a text that the tokenizer's pattern can be matched with",
           reinterpret_cast<const char*>(words.data()), "offset " + std::to_string(start));
    }
    return result >= 0;
  }

  std::shared_ptr<pcre2_code> code_;
};

}  // namespace tokenizers
