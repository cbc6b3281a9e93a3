// The safetensors format: what a file says of its arrays, and the checksums that ours have beside.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "alkn/io/atomic_file.hpp"
#include "alkn/io/text.hpp"

namespace alkn::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// Element type of a stored array.
enum class DType : std::uint8_t {
  f64,
  f32,
  bf16,
  f16,
  i64,
  i32,
  u8,
  boolean,
  u64,
  c64,
  u32,
  i16,
  u16,
  i8,
  f8_e4m3,
  f8_e5m2,
  f8_e8m0
};

/// Text that belongs to a file, key by key.
using Metadata = std::map<std::string, std::string>;

/// What the header says of one array.
struct ArrayInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  ///< bytes, from the start of the data

  [[nodiscard]] std::int64_t num_bytes() const { return end - begin; }
};

/// An array in memory, to be written: contiguous, row-major, not owned.
struct ArrayView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
  std::int64_t num_bytes = 0;  ///< must be the product of `shape` times the element's size
};

namespace detail {

struct DTypeName {
  DType dtype;
  const char* name;
  std::int64_t size;
};

inline constexpr std::array<DTypeName, 17> kDTypes{{{DType::f64, "F64", 8},
                                                    {DType::f32, "F32", 4},
                                                    {DType::bf16, "BF16", 2},
                                                    {DType::f16, "F16", 2},
                                                    {DType::i64, "I64", 8},
                                                    {DType::i32, "I32", 4},
                                                    {DType::u8, "U8", 1},
                                                    {DType::boolean, "BOOL", 1},
                                                    {DType::u64, "U64", 8},
                                                    {DType::c64, "C64", 8},
                                                    {DType::u32, "U32", 4},
                                                    {DType::i16, "I16", 2},
                                                    {DType::u16, "U16", 2},
                                                    {DType::i8, "I8", 1},
                                                    {DType::f8_e4m3, "F8_E4M3", 1},
                                                    {DType::f8_e5m2, "F8_E5M2", 1},
                                                    {DType::f8_e8m0, "F8_E8M0", 1}}};

/// Python's reader refuses larger headers; and a corrupted size must not allocate terabytes.
inline constexpr std::int64_t kMaxHeaderBytes = 100'000'000;
inline constexpr const char* kMetadataKey = "__metadata__";

/// The checksums stand under two keys, so that no single change can switch them off: of what one
/// of them is missing, or not equal to the other, is damaged.
inline constexpr const char* kChecksumKey = "alkn.checksum";
inline constexpr const char* kChecksumCopyKey = "alkn.checksum.copy";

inline const DTypeName& dtype_name(DType dtype) {
  return *std::find_if(kDTypes.begin(), kDTypes.end(),
                       [&](const DTypeName& entry) { return entry.dtype == dtype; });
}

/// Bytes of an array, or -1 where a dimension is negative or the product overflows.
inline std::int64_t array_bytes(DType dtype, const std::vector<std::int64_t>& shape) {
  std::int64_t bytes = dtype_name(dtype).size;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && bytes > std::numeric_limits<std::int64_t>::max() / extent)) {
      return -1;
    }
    bytes *= extent;
  }
  return bytes;
}

/// A 64-bit checksum: finds every change of a single word, which the format itself does not. Each
/// step is a bijection of the state, so one changed word can never cancel out.
class Checksum {
 public:
  void add(const void* data, std::int64_t num_bytes) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    std::int64_t i = 0;
    for (; i + 8 <= num_bytes; i += 8) {
      mix(bytes + i, 8);
    }
    if (i < num_bytes) {
      mix(bytes + i, static_cast<std::size_t>(num_bytes - i));
    }
  }
  void add(std::int64_t number) { add(&number, sizeof(number)); }
  void add(std::string_view text) {
    add(static_cast<std::int64_t>(text.size()));
    add(text.data(), static_cast<std::int64_t>(text.size()));
  }

  [[nodiscard]] std::uint64_t value() const { return state_; }

 private:
  void mix(const unsigned char* bytes, std::size_t num_bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes, num_bytes);
    state_ = (state_ ^ word) * 0x9E3779B97F4A7C15U;
    state_ ^= state_ >> 32U;
  }

  std::uint64_t state_ = 0xCBF29CE484222325U;
};

/// Of what the header says: metadata but for the checksums, and of each array, in the order of the
/// data, name, dtype and shape, from which its place follows.
template <class Arrays>
std::uint64_t header_checksum(const Arrays& arrays, const Metadata& metadata) {
  Checksum checksum;
  for (const auto& [key, text] : metadata) {
    if (key == kChecksumKey || key == kChecksumCopyKey) continue;
    checksum.add(key);
    checksum.add(text);
  }
  for (const auto& array : arrays) {
    checksum.add(array.name);
    checksum.add(dtype_name(array.dtype).name);
    checksum.add(static_cast<std::int64_t>(array.shape.size()));
    for (const std::int64_t extent : array.shape) checksum.add(extent);
  }
  return checksum.value();
}

/// What is written: "2 <of the header> <of the data>", in 16 hexadecimal digits each. Files of
/// version 0.1.0 have the data's alone, as a decimal number.
inline std::string checksum_start(std::uint64_t header) { return "2 " + hex(header) + " "; }

/// Where each array lies: wide elements first, then by name, so that every array is aligned.
inline std::vector<ArrayView> file_order(const std::vector<ArrayView>& arrays) {
  std::vector<ArrayView> order;
  std::set<std::string_view> names{kMetadataKey};
  for (const ArrayView& array : arrays) {
    const std::int64_t expected = array_bytes(array.dtype, array.shape);
    if (expected < 0 || expected != array.num_bytes ||
        (array.data == nullptr && array.num_bytes > 0)) {
      throw std::invalid_argument(
          "alkn::io::save_safetensors: expected " + std::to_string(expected) + " bytes, got " +
          std::to_string(array.num_bytes) + " (\"" + printable(array.name) + "\")");
    }
    if (!names.insert(array.name).second) {
      throw std::invalid_argument(
          "alkn::io::save_safetensors: expected distinct names other than __metadata__, got \"" +
          printable(array.name) + "\" again");
    }
    order.push_back(array);
  }
  std::sort(order.begin(), order.end(), [](const ArrayView& a, const ArrayView& b) {
    const auto width_a = dtype_name(a.dtype).size;
    const auto width_b = dtype_name(b.dtype).size;
    return width_a != width_b ? width_a > width_b : a.name < b.name;
  });
  return order;
}

inline std::string header_text(const std::vector<ArrayView>& order, const Metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header[kMetadataKey] = metadata;
  std::int64_t offset = 0;
  for (const ArrayView& array : order) {
    header[array.name] = {{"dtype", dtype_name(array.dtype).name},
                          {"shape", array.shape},
                          {"data_offsets", {offset, offset + array.num_bytes}}};
    offset += array.num_bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw std::invalid_argument(
        "alkn::io::save_safetensors: expected names and metadata in UTF-8, got other bytes");
  }
  constexpr std::size_t kAlignment = 8;
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  return text;
}

}  // namespace detail

/// "F32", "BF16", ...: the format's own name.
inline const char* to_string(DType dtype) { return detail::dtype_name(dtype).name; }

}  // namespace alkn::io
