// UTF-8 and the classes of characters that tokenizers ask for, by utf8proc.
#pragma once

#include <utf8proc.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tokenizers/tokenizer.hpp"

namespace tokenizers {

/// The character at the start of `text`, which is not empty, and the number of its bytes; a size of
/// 0 where there is no valid one.
struct Character {
  std::int32_t code = 0;
  std::size_t size = 0;
};
inline Character first_character(std::string_view text) {
  Character character;
  const auto size = utf8proc_iterate(reinterpret_cast<const std::uint8_t*>(text.data()),
                                     static_cast<utf8proc_ssize_t>(text.size()), &character.code);
  character.size = size > 0 ? static_cast<std::size_t>(size) : 0;
  return character;
}

inline bool is_continuation_byte(char byte) { return (static_cast<unsigned char>(byte) >> 6) == 2; }

/// The character at the end of `text`, which is valid UTF-8 and not empty.
inline Character last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && is_continuation_byte(text[begin])) {
    --begin;
  }
  return first_character(text.substr(begin));
}

/// Throws std::runtime_error with the offset of the first byte that is not UTF-8.
inline void require_utf8(std::string_view text, const std::string& where) {
  for (std::size_t at = 0; at < text.size();) {
    const Character character = first_character(text.substr(at));
    if (character.size == 0) {
      constexpr const char* kDigits = "0123456789abcdef";
      const auto byte = static_cast<unsigned char>(text[at]);
      fail("UTF-8",
           std::string("the byte 0x") + kDigits[byte / 16] + kDigits[byte % 16] + " at offset " +
               std::to_string(at),
           where);
    }
    at += character.size;
  }
}

/// `bytes`, with U+FFFD for each longest piece that begins a character and does not end it, and for
/// each byte that begins none (the Unicode standard's "maximal subpart").
inline std::string lossy_utf8(std::string_view bytes) {
  const auto allowed = [&](std::size_t begin, std::size_t end) {
    const auto first = static_cast<unsigned char>(bytes[begin]);
    const auto next = static_cast<unsigned char>(bytes[end]);
    if (end > begin + 1) {
      return is_continuation_byte(bytes[end]);
    }
    const unsigned low = first == 0xe0 ? 0xa0U : first == 0xf0 ? 0x90U : 0x80U;
    const unsigned high = first == 0xed ? 0x9fU : first == 0xf4 ? 0x8fU : 0xbfU;
    return next >= low && next <= high;
  };
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    if (const Character character = first_character(bytes.substr(at)); character.size != 0) {
      text.append(bytes, at, character.size);
      at += character.size;
      continue;
    }
    const auto first = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = first >= 0xf0 && first <= 0xf4  ? 4
                               : first >= 0xe0 && first < 0xf0 ? 3
                               : first >= 0xc2 && first < 0xe0 ? 2
                                                               : 1;
    std::size_t end = at + 1;
    while (end < bytes.size() && end - at < length && allowed(at, end)) {
      ++end;
    }
    text += "\xef\xbf\xbd";
    at = end;
  }
  return text;
}

/// Unicode's White_Space, in all versions since 6.3.
inline bool is_white_space(std::int32_t code) {
  return (code >= 0x9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

/// Decimal digits, letters that are numbers, and other numbers.
inline bool is_numeric(std::int32_t code) {
  const auto category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

/// Unicode's \w: letters, marks, decimal digits, connectors, circled letters, joiners.
inline bool is_word(std::int32_t code) {
  switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
             (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189) ||
             code == 0x200c || code == 0x200d;
  }
}

/// Unicode's canonical composition (NFC) of valid UTF-8.
inline std::string nfc(std::string_view text) {
  std::uint8_t* raw = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const std::uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<std::uint8_t, decltype(&std::free)> composed(raw, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM) {
    throw std::bad_alloc();
  }
  if (size < 0) {
    throw std::runtime_error(std::string("continual: expected text that can be composed, got: ") +
                             utf8proc_errmsg(size));
  }
  return {reinterpret_cast<const char*>(composed.get()), static_cast<std::size_t>(size)};
}

}  // namespace tokenizers
