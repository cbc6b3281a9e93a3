// JSON whose keys keep their order, from files that may hold anything.
#pragma once

#include <alkn/io/input_file.hpp>
#include <alkn/io/json.hpp>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "continual/data.hpp"

namespace continual {

using Json = nlohmann::ordered_json;

/// NaN and infinities, which JSON does not have, become null.
inline Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// The text of a file, without a byte-order mark. Throws std::runtime_error.
inline std::string read_text(const std::filesystem::path& path) {
  try {
    return alkn::io::read_text(path);
  } catch (const alkn::io::Unexpected& error) {
    data_error(error.expected, error.got, path.string());
  }
}

/// All bytes of a file, whatever they are. Throws std::runtime_error.
inline std::string read_bytes(const std::filesystem::path& path) {
  try {
    return alkn::io::read_bytes(path);
  } catch (const alkn::io::Unexpected& error) {
    data_error(error.expected, error.got, path.string());
  }
}

/// "file, line 3"
inline std::string at_line(const std::filesystem::path& path, std::int64_t line) {
  return path.string() + ", line " + std::to_string(line);
}

/// The one JSON value of a text that begins at line `first_line` of a file.
/// Throws std::runtime_error that names file and line.
inline Json parse_json(const std::string& text, const std::filesystem::path& path,
                       std::int64_t first_line = 1) {
  try {
    return alkn::io::parse_json<Json>(text);
  } catch (const alkn::io::JsonError& error) {
    data_error(error.expected, error.got,
               at_line(path, first_line - 1 + alkn::io::line_of(text, error.byte)));
  }
}

/// A JSON file that a program of ours wrote: an object. Throws std::runtime_error.
inline Json read_object(const std::filesystem::path& path) {
  Json value = parse_json(read_text(path), path);
  if (!value.is_object()) data_error("a JSON object", alkn::io::shown(value), path.string());
  return value;
}

/// What an object has under a key, as a number, a bool, a text, or any value (Json).
/// Throws std::runtime_error where it has none, or one of another kind.
template <class T>
T field(const Json& object, const char* key, const std::string& where) {
  const auto refuse = [&](const char* kind) {
    data_error(std::string(kind) + " \"" + key + "\"", alkn::io::shown(object), where);
  };
  if (!object.is_object() || !object.contains(key)) refuse("an object with");
  const Json& value = object.at(key);
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) refuse("true or false as");
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) refuse("a text as");
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_integer()) refuse("a whole number as");
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) refuse("a number as");
  }
  return value.template get<T>();
}

}  // namespace continual
