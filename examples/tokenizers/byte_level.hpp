// GPT-2's way to write any bytes as visible characters, in which vocabularies are spelled.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizers/utf8.hpp"

namespace tokenizers::byte_level {

/// Bytes that are visible in Latin-1 stand for themselves.
constexpr bool is_visible(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/// The others are U+0100, U+0101 and so on, in their order.
constexpr std::array<std::uint16_t, 256> make_characters() {
  std::array<std::uint16_t, 256> characters{};
  std::uint16_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    characters[byte] = is_visible(byte) ? static_cast<std::uint16_t>(byte) : next++;
  }
  return characters;
}
inline constexpr auto kCharacters = make_characters();
inline constexpr std::int32_t kLastCharacter = 323;

/// One byte, as the UTF-8 of its character.
inline std::string spell(unsigned char byte) {
  const unsigned code = kCharacters[byte];
  if (code < 0x80) {
    return {static_cast<char>(code)};
  }
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

inline std::string spell(std::string_view bytes) {
  std::string spelled;
  for (const char byte : bytes) {
    spelled += spell(static_cast<unsigned char>(byte));
  }
  return spelled;
}

/// The bytes that `spelled` stands for, none where it has a character that stands for no byte.
inline std::optional<std::string> bytes_of(std::string_view spelled) {
  static const auto kBytes = [] {
    std::array<std::int16_t, kLastCharacter + 1> bytes{};
    bytes.fill(-1);
    for (unsigned byte = 0; byte < 256; ++byte) {
      bytes[kCharacters[byte]] = static_cast<std::int16_t>(byte);
    }
    return bytes;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < spelled.size();) {
    const Character character = first_character(spelled.substr(at));
    if (character.size == 0 || character.code > kLastCharacter ||
        kBytes[static_cast<std::size_t>(character.code)] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(kBytes[static_cast<std::size_t>(character.code)]);
    at += character.size;
  }
  return bytes;
}

}  // namespace tokenizers::byte_level
