// Text from files: what an error may show of it, byte-order marks, and what readers throw.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace alkn::io {

/// What was expected of a file, and what came instead. Readers catch it, and say it under their
/// own name with the place.
struct Unexpected : std::runtime_error {
  Unexpected(const std::string& what_was_expected, const std::string& what_came)
      : std::runtime_error("alkn::io: expected " + what_was_expected + ", got " + what_came),
        expected(what_was_expected),
        got(what_came) {}

  std::string expected, got;
};

/// Any bytes as one line of ASCII: what is not printable becomes \xNN, and after `limit` bytes of
/// the input the text is cut by "...". For error texts: a file's bytes must neither end them nor
/// reach a terminal.
inline std::string printable(std::string_view bytes, std::size_t limit = 80) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string text;
  for (const char c : bytes.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= ' ' && byte <= '~') {
      text += c;
    } else {
      text += "\\x";
      text += kDigits[byte / 16U];
      text += kDigits[byte % 16U];
    }
  }
  return bytes.size() > limit ? text + "..." : text;
}

/// `text` without a byte-order mark of UTF-8.
/// @throws Unexpected for the mark of UTF-16 or UTF-32: the text is in neither
inline std::string without_byte_order_mark(std::string text) {
  for (const std::string_view mark : {std::string_view("\xFF\xFE"), std::string_view("\xFE\xFF"),
                                      std::string_view("\0\0\xFE\xFF", 4)}) {
    if (std::string_view(text).substr(0, mark.size()) == mark) {
      throw Unexpected("a text in UTF-8", "the byte-order mark of UTF-16 or UTF-32");
    }
  }
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  if (std::string_view(text).substr(0, kMark.size()) == kMark) text.erase(0, kMark.size());
  return text;
}

}  // namespace alkn::io
