// Text to words, as the part "pre_tokenizer" of a tokenizer.json says.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/json_field.hpp"
#include "tokenizers/pattern.hpp"
#include "tokenizers/utf8.hpp"

namespace tokenizers {

/// Split, Digits and ByteLevel, alone or in a Sequence that ends with ByteLevel.
class PreTokenizer {
 public:
  explicit PreTokenizer(const JsonField& field) {
    add(field);
    if (!byte_level_) {
      field.fail("ByteLevel at the end", field["type"].described());
    }
  }

  /// The words of `text`, which is valid UTF-8, in their order and as bytes. A text that `follows`
  /// another one gets no space before it.
  [[nodiscard]] std::vector<std::string> words(std::string_view text, bool follows) const {
    std::vector<std::string> words;
    if (!text.empty()) {
      words.emplace_back(text);
    }
    for (const Step& step : steps_) {
      std::vector<std::string> parts;
      for (std::size_t i = 0; i < words.size(); ++i) {
        step(words[i], follows && i == 0, parts);
      }
      words = std::move(parts);
    }
    return words;
  }

 private:
  /// Appends the parts of a word; `follows`: the word follows a text of somebody else's.
  using Step =
      std::function<void(const std::string& word, bool follows, std::vector<std::string>& parts)>;
  static constexpr const char* kGpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

  void add(const JsonField& field) {
    const std::string& type = field["type"].text();
    if (byte_level_) {
      field["type"].fail("nothing behind ByteLevel", "\"" + type + "\"");
    }
    if (type == "Sequence") {
      const JsonField list = field["pretokenizers"];
      for (std::size_t i = 0; i < list.size(); ++i) {
        add(list[i]);
      }
    } else if (type == "Split") {
      add_split(field);
    } else if (type == "Digits") {
      add_digits(field["individual_digits"].flag());
    } else if (type == "ByteLevel") {
      add_byte_level(field);
    } else {
      field["type"].fail("a pre-tokenizer that is supported (Split, Digits, ByteLevel, Sequence)",
                         field["type"].described());
    }
  }

  void add_split(const JsonField& field) {
    const JsonField regex = field["pattern"]["Regex"];
    const Pattern pattern(regex.text(), regex);
    const std::string& behavior = field["behavior"].text();
    if (behavior != "Isolated" && behavior != "Removed") {
      field["behavior"].fail("a behavior that is supported (Isolated, Removed)",
                             field["behavior"].described());
    }
    const auto invert = field.find("invert");
    const bool removed = !(invert && invert->flag());  // what is no delimiter stays
    const bool isolated = behavior == "Isolated";
    steps_.emplace_back([=](const std::string& word, bool, std::vector<std::string>& parts) {
      pattern.split(word, [&](std::size_t begin, std::size_t end, bool matched) {
        if (isolated || matched != removed) {
          parts.push_back(word.substr(begin, end - begin));
        }
      });
    });
  }

  void add_digits(bool individual) {
    steps_.emplace_back([=](const std::string& word, bool, std::vector<std::string>& parts) {
      bool in_number = false;
      std::size_t begin = 0;
      for (std::size_t at = 0; at < word.size();) {
        const Character character = first_character(std::string_view(word).substr(at));
        const bool numeric = is_numeric(character.code);
        if (at > begin && (numeric != in_number || (numeric && individual))) {
          parts.push_back(word.substr(begin, at - begin));
          begin = at;
        }
        in_number = numeric;
        at += character.size;
      }
      parts.push_back(word.substr(begin));
    });
  }

  void add_byte_level(const JsonField& field) {
    byte_level_ = true;
    const auto use_regex = field.find("use_regex");
    std::optional<Pattern> pattern;
    if (!use_regex || use_regex->flag()) {
      pattern.emplace(kGpt2, field);
    }
    const bool add_space = field["add_prefix_space"].flag();
    steps_.emplace_back(
        [=](const std::string& word, bool follows, std::vector<std::string>& parts) {
          const std::string text = add_space && !follows && word.front() != ' ' ? " " + word : word;
          if (!pattern) {
            parts.push_back(text);
            return;
          }
          pattern->split(text, [&](std::size_t begin, std::size_t end, bool) {
            parts.push_back(text.substr(begin, end - begin));
          });
        });
  }

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace tokenizers
