// Numbers of a command line that are what was typed: CLI11 wraps what is negative, cuts what is too
// large, and its ranges let NaN through.
#pragma once

#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <system_error>

namespace cli {

/// A finite number of at least 0.
inline CLI::Validator finite() {
  return {[](const std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool whole = !text.empty() && *end == '\0';
            return whole && std::isfinite(value) && value >= 0
                       ? std::string()
                       : "expected a finite number of at least 0, got " + text;
          },
          "NONNEGATIVE"};
}

/// A whole number of 64 bits: for every unsigned option.
inline CLI::Validator whole_number() {
  return {[](const std::string& text) {
            std::uint64_t value = 0;
            const char* end = text.data() + text.size();
            const auto [last, error] = std::from_chars(text.data(), end, value);
            return error == std::errc() && last == end
                       ? std::string()
                       : "expected a whole number from 0 to 2^64 - 1, got " + text;
          },
          ""};
}

}  // namespace cli
