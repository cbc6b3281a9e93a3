// The hash of names and texts.
#pragma once

#include <cstdint>
#include <string_view>

namespace alkn::io::detail {

/// 64-bit FNV-1a. @param hash of what came before
inline std::uint64_t hash_bytes(std::string_view bytes, std::uint64_t hash = 0xCBF29CE484222325U) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

}  // namespace alkn::io::detail
