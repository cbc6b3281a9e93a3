// Tokens that are looked for in a text before anything else: the special ones, and others that were
// added to a vocabulary.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/utf8.hpp"

namespace tokenizers {

struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool single_word = false;  ///< only where no word goes on before or after it
  bool lstrip = false;       ///< takes the blanks before it, too
  bool rstrip = false;       ///< and those behind it
};

/// Finds tokens in a text from left to right, of those that begin at one place the longest.
class AddedTokens {
 public:
  /// A piece of the text: a token, or text without any.
  struct Piece {
    std::string_view text;
    std::optional<std::int64_t> id;
  };

  /// Of two tokens with the same content the first counts.
  void add(AddedToken token) {
    auto& list = by_first_byte_[token.content.front()];
    const auto same = [&](const AddedToken& other) { return other.content == token.content; };
    if (std::none_of(list.begin(), list.end(), same)) {
      const auto shorter = [&](const AddedToken& other) {
        return other.content.size() < token.content.size();
      };
      list.insert(std::find_if(list.begin(), list.end(), shorter), std::move(token));
    }
  }

  [[nodiscard]] std::vector<Piece> split(std::string_view text) const {
    std::vector<Piece> pieces;
    std::size_t done = 0;
    for (std::size_t at = 0; at < text.size();) {
      const AddedToken* token = longest_at(text, at);
      if (token == nullptr) {
        ++at;
        continue;
      }
      const std::size_t end = at + token->content.size();
      if (!token->single_word || stands_alone(text, at, end)) {
        const std::size_t begin = token->lstrip ? std::max(blanks_before(text, at), done) : at;
        if (begin > done) {
          pieces.push_back({text.substr(done, begin - done), std::nullopt});
        }
        done = token->rstrip ? blanks_behind(text, end) : end;
        pieces.push_back({text.substr(begin, done - begin), token->id});
      }
      at = end;  // a blank that rstrip took may begin the next token all the same
    }
    if (done < text.size()) {
      pieces.push_back({text.substr(done), std::nullopt});
    }
    return pieces;
  }

 private:
  [[nodiscard]] const AddedToken* longest_at(std::string_view text, std::size_t at) const {
    const auto list = by_first_byte_.find(text[at]);
    if (list == by_first_byte_.end()) {
      return nullptr;
    }
    for (const AddedToken& token : list->second) {  // the longest first
      if (text.substr(at, token.content.size()) == token.content) {
        return &token;
      }
    }
    return nullptr;
  }

  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_word(last_character(text.substr(0, begin)).code)) &&
           (end == text.size() || !is_word(first_character(text.substr(end)).code));
  }

  static std::size_t blanks_before(std::string_view text, std::size_t at) {
    while (at > 0) {
      const Character character = last_character(text.substr(0, at));
      if (!is_white_space(character.code)) {
        break;
      }
      at -= character.size;
    }
    return at;
  }

  static std::size_t blanks_behind(std::string_view text, std::size_t at) {
    while (at < text.size()) {
      const Character character = first_character(text.substr(at));
      if (!is_white_space(character.code)) {
        break;
      }
      at += character.size;
    }
    return at;
  }

  std::map<char, std::vector<AddedToken>> by_first_byte_;
};

}  // namespace tokenizers
