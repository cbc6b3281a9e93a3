// JSON from files, read strictly: one value and nothing after it, every key once, no endless depth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "alkn/io/text.hpp"

namespace alkn::io {

/// Deeper values are refused: what walks over a value, as an error text does, calls itself.
inline constexpr std::size_t kMaxJsonDepth = 64;

/// What is wrong with a JSON text, and where.
struct JsonError : Unexpected {
  JsonError(const std::string& what_was_expected, const std::string& what_came, std::size_t at,
            std::string path)
      : Unexpected(what_was_expected, what_came), byte(at), key(std::move(path)) {}

  std::size_t byte;  ///< from the start of the text
  std::string key;   ///< the keys that lead there, "layers/3/name"; of any text: printable
};

namespace detail {

/// Walks over a text and tells how far the reader has come.
class CountedBytes {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountedBytes(const char* next, std::size_t& count) : next_(next), count_(&count) {}
  reference operator*() const { return *next_; }
  CountedBytes& operator++() {
    ++next_;
    ++*count_;
    return *this;
  }
  bool operator==(const CountedBytes& other) const { return next_ == other.next_; }

 private:
  const char* next_;
  std::size_t* count_;
};

/// Builds the value, and knows the key it is at.
template <class Json>
class JsonBuilder : public nlohmann::json_sax<Json> {
 public:
  using typename nlohmann::json_sax<Json>::number_integer_t;
  using typename nlohmann::json_sax<Json>::number_unsigned_t;
  using typename nlohmann::json_sax<Json>::number_float_t;
  using typename nlohmann::json_sax<Json>::string_t;
  using typename nlohmann::json_sax<Json>::binary_t;

  explicit JsonBuilder(std::string_view text) : text_(text) {}

  Json build() {
    Json::sax_parse(CountedBytes(text_.data(), count_),
                    CountedBytes(text_.data() + text_.size(), count_), this);
    // The library takes a NUL for the end of the input. JSON has none, not even inside a text.
    if (const std::size_t nul = text_.find('\0'); nul != std::string_view::npos) refuse(nul);
    return std::move(root_);
  }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in a text
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    level.key = name;
    if (!level.seen.insert(name).second) {
      throw JsonError("every key once", "\"" + printable(name) + "\" twice", count_, path());
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override {
    constexpr std::string_view kSpace = " \t\r\n";
    constexpr int kNumberOverflow = 406;  // documented in nlohmann/json's list of exceptions
    if (error.id == kNumberOverflow) {
      throw JsonError("a finite number", printable(token), position, path());
    }
    if (text_.find_first_not_of(kSpace) == std::string_view::npos) {
      throw JsonError("JSON", "nothing", text_.size(), path());
    }
    if (position > text_.size()) {  // the reader wanted one more byte
      throw JsonError("complete JSON", "the end after " + std::to_string(text_.size()) + " bytes",
                      text_.size(), path());
    }
    refuse(position == 0 ? 0 : position - 1);
  }

 private:
  /// Says what stands at a byte where JSON has something else.
  [[noreturn]] void refuse(std::size_t byte) const {
    constexpr std::string_view kMarks = ",:[]{}";
    constexpr std::string_view kBetween = " \t\r\n,:[]{}";
    std::string_view word = text_.substr(byte, 1);
    if (kMarks.find(word.front()) == std::string_view::npos) {
      // The word around that place: the parser's own token may begin earlier.
      const std::size_t before = text_.find_last_of(kBetween, byte);
      word = text_.substr(before == std::string_view::npos ? 0 : before + 1);
      word = word.substr(0, word.find_first_of(kBetween));
    }
    for (const std::string_view name : {"NaN", "nan", "Infinity", "inf", "-Infinity", "-inf"}) {
      if (word == name) throw JsonError("a finite number", std::string(name), byte, path());
    }
    constexpr std::size_t kShown = 40;
    throw JsonError("JSON",
                    "\"" + printable(word, kShown) + "\" at byte " + std::to_string(byte + 1), byte,
                    path());
  }

  struct Level {
    Json value;
    std::size_t index = 0;
    std::string key;
    std::set<std::string> seen;
  };

  bool put(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Level& level = levels_.back();
    if (level.value.is_array()) {
      level.value.push_back(std::move(value));
      ++level.index;
    } else {
      level.value.emplace(level.key, std::move(value));
    }
    return true;
  }

  bool open(Json empty) {
    if (levels_.size() == kMaxJsonDepth) {
      throw JsonError("JSON of at most " + std::to_string(kMaxJsonDepth) + " levels", "more",
                      count_, path());
    }
    levels_.push_back({std::move(empty), 0, {}, {}});
    return true;
  }

  bool close() {
    Json value = std::move(levels_.back().value);
    levels_.pop_back();
    return put(std::move(value));
  }

  [[nodiscard]] std::string path() const {
    std::string result;
    for (const Level& level : levels_) {
      const std::string part =
          level.value.is_array() ? std::to_string(level.index) : printable(level.key);
      if (!part.empty()) result += (result.empty() ? "" : "/") + part;
    }
    return result;
  }

  std::string_view text_;
  std::size_t count_ = 0;  ///< bytes that the parser has taken
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace detail

/// The one JSON value that `text` is: white space may stand around it and nothing else, no key
/// stands twice in an object, numbers are finite, and nothing is deeper than kMaxJsonDepth.
/// @throws JsonError
template <class Json = nlohmann::json>
Json parse_json(std::string_view text) {
  return detail::JsonBuilder<Json>(text).build();
}

/// The number of a byte's line, from 1.
inline std::int64_t line_of(std::string_view text, std::size_t byte) {
  std::int64_t line = 1;
  for (const char c : text.substr(0, byte)) line += c == '\n' ? 1 : 0;
  return line;
}

/// A value as an error text shows it.
template <class Json>
std::string shown(const Json& value, std::size_t limit = 80) {
  return printable(value.dump(-1, ' ', /*ensure_ascii=*/true), limit);
}

}  // namespace alkn::io
