// Values of a JSON file that know their place, so that every error names file and field.
#pragma once

#include <alkn/io/json.hpp>
#include <alkn/io/text.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tokenizers/tokenizer.hpp"

namespace tokenizers {

/// A value and its path, "model.merges[3]". Refers to a document that must outlive it.
class JsonField {
 public:
  JsonField(const nlohmann::json& value, std::string file, std::string path = "")
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  [[nodiscard]] const nlohmann::json& value() const { return *value_; }

  /// "tokenizer.json, model.merges[3]"
  [[nodiscard]] std::string where() const { return path_.empty() ? file_ : file_ + ", " + path_; }

  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    tokenizers::fail(expected, got, where());
  }

  /// The member `key`, none where it is absent or null.
  [[nodiscard]] std::optional<JsonField> find(const char* key) const {
    if (!value_->is_object()) {
      fail("an object", described());
    }
    const auto member = value_->find(key);
    if (member == value_->end() || member->is_null()) {
      return std::nullopt;
    }
    return JsonField(*member, file_, path_.empty() ? key : path_ + "." + key);
  }
  [[nodiscard]] JsonField operator[](const char* key) const {
    if (auto member = find(key)) {
      return *std::move(member);
    }
    fail("an object with \"" + std::string(key) + "\"", "none such");
  }

  [[nodiscard]] std::size_t size() const {
    if (!value_->is_array()) {
      fail("a list", described());
    }
    return value_->size();
  }
  [[nodiscard]] JsonField operator[](std::size_t i) const {
    return {(*value_)[i], file_, path_ + "[" + std::to_string(i) + "]"};
  }

  [[nodiscard]] const std::string& text() const {
    if (!value_->is_string()) {
      fail("a text", described());
    }
    return value_->get_ref<const std::string&>();
  }
  [[nodiscard]] bool flag() const {
    if (!value_->is_boolean()) {
      fail("true or false", described());
    }
    return value_->get<bool>();
  }
  /// A token's id: an integer from 0 to 2^31 - 1.
  [[nodiscard]] std::int64_t id() const {
    if (!value_->is_number_integer() || !(value_->get<std::int64_t>() >= 0) ||
        value_->get<std::int64_t>() > std::numeric_limits<std::int32_t>::max()) {
      fail("an id from 0 to 2147483647", described());
    }
    return value_->get<std::int64_t>();
  }

  /// The value in a few words of ASCII; never longer than a line.
  [[nodiscard]] std::string described() const {
    constexpr std::size_t kShown = 60;
    if (value_->is_string()) {
      return "\"" + alkn::io::printable(value_->get_ref<const std::string&>(), kShown) + "\"";
    }
    if (value_->is_object() || value_->is_array()) {
      return value_->is_object() ? "an object" : "a list";
    }
    return value_->dump();
  }

 private:
  const nlohmann::json* value_;
  std::string file_, path_;
};

/// The one JSON value that `bytes` are; `file` names them in errors.
inline nlohmann::json parse_json(std::string_view bytes, const std::string& file) {
  try {
    return alkn::io::parse_json(bytes);
  } catch (const alkn::io::JsonError& error) {
    fail(error.expected, error.got, error.key.empty() ? file : file + ", " + error.key);
  }
}

}  // namespace tokenizers
