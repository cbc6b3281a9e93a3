// Length of a text compressed by zlib, for `zlib_score`. Not part of eval.hpp: it alone needs
// zlib.h and has to be linked to zlib.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace alkn::eval {

/// Bytes of the zlib stream at the default level, as Python's len(zlib.compress(text)).
/// @param text the answer, UTF-8; may be empty
/// @throws std::invalid_argument for a text beyond zlib's size, std::runtime_error if zlib fails
inline int64_t compressed_size(std::string_view text) {
  if (text.size() > std::numeric_limits<uInt>::max() / 2) {
    throw std::invalid_argument("alkn::eval::compressed_size: expected a text below 2 GiB, got " +
                                std::to_string(text.size()) + " bytes");
  }
  uLong size = compressBound(static_cast<uLong>(text.size()));
  std::vector<Bytef> compressed(size);
  const int error = compress2(compressed.data(), &size, reinterpret_cast<const Bytef*>(text.data()),
                              static_cast<uLong>(text.size()), Z_DEFAULT_COMPRESSION);
  if (error != Z_OK) {
    throw std::runtime_error("alkn::eval::compressed_size: expected zlib to compress, got error " +
                             std::to_string(error));
  }
  return static_cast<int64_t>(size);
}

}  // namespace alkn::eval
