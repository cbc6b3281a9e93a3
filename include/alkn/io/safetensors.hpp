// The safetensors format: named arrays in one file. No LibTorch in here; tensors.hpp has the layer
// for it.
//
//   8 bytes   size of the header, unsigned little-endian
//   header    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//             "__metadata__": {"key": "text"}}, padded with spaces to a multiple of 8
//   data      the arrays, little-endian, row-major, without gaps; offsets count from its start
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "alkn/io/atomic_file.hpp"

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
inline constexpr const char* kChecksumKey = "alkn.checksum";

[[noreturn]] inline void file_error(const std::filesystem::path& path, const std::string& expected,
                                    const std::string& got) {
  throw std::runtime_error("alkn::io::SafetensorsFile: expected " + expected + ", got " + got +
                           " (" + path.string() + ")");
}

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

/// A 64-bit checksum of arrays: finds every change of a single word, which the format itself does
/// not. Each step is a bijection of the state, so one changed word can never cancel out.
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

  [[nodiscard]] std::string text() const { return std::to_string(state_); }

 private:
  void mix(const unsigned char* bytes, std::size_t num_bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes, num_bytes);
    state_ = (state_ ^ word) * 0x9E3779B97F4A7C15U;
    state_ ^= state_ >> 32U;
  }

  std::uint64_t state_ = 0xCBF29CE484222325U;
};

/// Where each array lies: wide elements first, then by name, so that every array is aligned.
inline std::vector<const ArrayView*> file_order(const std::vector<ArrayView>& arrays) {
  std::vector<const ArrayView*> order;
  std::set<std::string_view> names{kMetadataKey};
  for (const ArrayView& array : arrays) {
    const std::int64_t expected = array_bytes(array.dtype, array.shape);
    if (expected < 0 || expected != array.num_bytes ||
        (array.data == nullptr && array.num_bytes > 0)) {
      throw std::invalid_argument("alkn::io::save_safetensors: expected " +
                                  std::to_string(expected) + " bytes, got " +
                                  std::to_string(array.num_bytes) + " (\"" + array.name + "\")");
    }
    if (!names.insert(array.name).second) {
      throw std::invalid_argument(
          "alkn::io::save_safetensors: expected distinct names other than __metadata__, got \"" +
          array.name + "\" again");
    }
    order.push_back(&array);
  }
  std::sort(order.begin(), order.end(), [](const ArrayView* a, const ArrayView* b) {
    const auto width_a = dtype_name(a->dtype).size;
    const auto width_b = dtype_name(b->dtype).size;
    return width_a != width_b ? width_a > width_b : a->name < b->name;
  });
  return order;
}

inline std::string header_text(const std::vector<const ArrayView*>& order,
                               const Metadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header[kMetadataKey] = metadata;
  std::int64_t offset = 0;
  for (const ArrayView* array : order) {
    header[array->name] = {{"dtype", dtype_name(array->dtype).name},
                           {"shape", array->shape},
                           {"data_offsets", {offset, offset + array->num_bytes}}};
    offset += array->num_bytes;
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

/// Writes `arrays` and `metadata` to `path`, whole or not at all (see AtomicFile).
///
/// A checksum of the data is added to the metadata (key "alkn.checksum"), which
/// SafetensorsFile::verify compares; other readers ignore it.
/// Throws std::invalid_argument for duplicate names, a byte count that does not fit shape and
/// dtype, text that is not UTF-8; std::runtime_error if the file cannot be written.
/// Cost: reads the data twice.
inline void save_safetensors(const std::filesystem::path& path,
                             const std::vector<ArrayView>& arrays, Metadata metadata = {}) {
  const auto order = detail::file_order(arrays);
  detail::Checksum checksum;
  for (const ArrayView* array : order) {
    checksum.add(array->data, array->num_bytes);
  }
  metadata[detail::kChecksumKey] = checksum.text();
  const std::string header = detail::header_text(order, metadata);
  if (header.size() > static_cast<std::size_t>(detail::kMaxHeaderBytes)) {
    throw std::invalid_argument("alkn::io::save_safetensors: expected a header of at most " +
                                std::to_string(detail::kMaxHeaderBytes) + " bytes, got " +
                                std::to_string(header.size()));
  }
  AtomicFile file(path);
  const std::uint64_t header_bytes = header.size();
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(header);
  for (const ArrayView* array : order) {
    file.write(array->data, static_cast<std::size_t>(array->num_bytes));
  }
  file.commit();
}

/// An opened safetensors file: the header is read and checked at once, the data on request.
///
/// Every array lies inside the file, none overlaps another and there are no gaps, as the format
/// demands; dtypes other than DType's (those of less than a byte) are refused. Reading throws
/// std::runtime_error.
class SafetensorsFile {
 public:
  /// Throws std::runtime_error that says what is wrong with a missing, truncated or corrupted file.
  explicit SafetensorsFile(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code no_size;
    if (std::filesystem::is_directory(path_, no_size)) {
      detail::file_error(path_, "a file",
                         "a folder: give a file in it, or open it as alkn::io::ModelFolder");
    }
    if (path_.extension() == ".json") {
      detail::file_error(path_, "a safetensors file",
                         path_.stem().extension() == ".index"
                             ? "an index of shards: give the folder to alkn::io::ModelFolder"
                             : "a JSON file");
    }
    stream_.open(path_, std::ios::binary);
    const std::uintmax_t file_bytes = std::filesystem::file_size(path_, no_size);
    if (!stream_ || no_size) {
      detail::file_error(path_, "a readable file", "none");
    }
    std::uint64_t header_bytes = 0;
    if (file_bytes < sizeof(header_bytes)) {
      detail::file_error(path_, "at least 8 bytes", std::to_string(file_bytes));
    }
    read_at(0, &header_bytes, sizeof(header_bytes));
    if (header_bytes > static_cast<std::uint64_t>(detail::kMaxHeaderBytes) ||
        header_bytes > file_bytes - sizeof(header_bytes)) {
      detail::file_error(path_, "a header inside the file",
                         std::to_string(header_bytes) + " bytes");
    }
    std::string header(static_cast<std::size_t>(header_bytes), ' ');
    read_at(sizeof(header_bytes), header.data(), header.size());
    data_begin_ = static_cast<std::int64_t>(sizeof(header_bytes) + header_bytes);
    parse(header);
    check_layout(static_cast<std::int64_t>(file_bytes) - data_begin_);
  }

  /// All arrays in the order of their data.
  [[nodiscard]] const std::vector<ArrayInfo>& arrays() const { return arrays_; }

  [[nodiscard]] const Metadata& metadata() const { return metadata_; }

  /// The array of that name, or null.
  [[nodiscard]] const ArrayInfo* find(std::string_view name) const {
    const auto found = std::find_if(arrays_.begin(), arrays_.end(),
                                    [&](const ArrayInfo& array) { return array.name == name; });
    return found == arrays_.end() ? nullptr : &*found;
  }

  /// Copies an array to `destination`, which has room for array.num_bytes() bytes.
  void read(const ArrayInfo& array, void* destination) const {
    read_at(data_begin_ + array.begin, destination, static_cast<std::size_t>(array.num_bytes()));
  }

  /// Reads all data and compares it to the checksum in the metadata.
  /// Returns whether there was one. Throws std::runtime_error if the data differs.
  bool verify() const {
    const auto stored = metadata_.find(detail::kChecksumKey);
    if (stored == metadata_.end()) {
      return false;
    }
    constexpr std::int64_t kPiece = std::int64_t{1} << 20;  // a multiple of the checksum's word
    std::vector<char> piece(static_cast<std::size_t>(kPiece));
    detail::Checksum checksum;
    for (const ArrayInfo& array : arrays_) {
      for (std::int64_t at = array.begin; at < array.end; at += kPiece) {
        const std::int64_t num_bytes = std::min(kPiece, array.end - at);
        read_at(data_begin_ + at, piece.data(), static_cast<std::size_t>(num_bytes));
        checksum.add(piece.data(), num_bytes);
      }
    }
    if (checksum.text() != stored->second) {
      detail::file_error(path_, "data with checksum " + stored->second, checksum.text());
    }
    return true;
  }

 private:
  using Json = nlohmann::json;

  void read_at(std::int64_t offset, void* destination, std::size_t num_bytes) const {
    stream_.clear();
    stream_.seekg(offset);
    stream_.read(static_cast<char*>(destination), static_cast<std::streamsize>(num_bytes));
    if (!stream_ && num_bytes > 0) {
      detail::file_error(path_,
                         std::to_string(num_bytes) + " readable bytes at " + std::to_string(offset),
                         std::to_string(stream_.gcount()));
    }
  }

  void parse(const std::string& text) {
    std::set<std::string> keys;
    const auto refuse_duplicates = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth == 1 && event == Json::parse_event_t::key &&
          !keys.insert(value.get<std::string>()).second) {
        detail::file_error(path_, "distinct names", "\"" + value.get<std::string>() + "\" twice");
      }
      return true;
    };
    Json header;
    try {
      header = Json::parse(text, refuse_duplicates);
    } catch (const Json::exception&) {
      detail::file_error(path_, "a header in JSON", "\"" + printable(text) + "\"");
    }
    if (!header.is_object() || text.front() != '{') {
      detail::file_error(path_, "a header that is a JSON object", "\"" + printable(text) + "\"");
    }
    for (const auto& [name, entry] : header.items()) {
      if (name == detail::kMetadataKey) {
        parse_metadata(entry);
      } else {
        parse_array(name, entry);
      }
    }
  }

  void parse_metadata(const Json& entry) {
    try {
      metadata_ = entry.get<Metadata>();
    } catch (const Json::exception&) {
      detail::file_error(path_, "__metadata__ with strings alone", entry.dump());
    }
  }

  void parse_array(const std::string& name, const Json& entry) {
    const auto unsigned_list = [](const Json& list) {
      return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& number) {
               return number.is_number_unsigned() &&
                      number.get<std::uint64_t>() <=
                          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
             });
    };
    if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() ||
        !unsigned_list(entry.value("shape", Json())) ||
        !unsigned_list(entry.value("data_offsets", Json())) || entry["data_offsets"].size() != 2) {
      detail::file_error(path_, "dtype, shape and two data_offsets of \"" + name + "\"",
                         entry.dump());
    }
    const auto dtype = entry["dtype"].get<std::string>();
    const auto known = std::find_if(detail::kDTypes.begin(), detail::kDTypes.end(),
                                    [&](const auto& candidate) { return dtype == candidate.name; });
    if (known == detail::kDTypes.end()) {
      std::string names;
      for (const detail::DTypeName& candidate : detail::kDTypes) {
        names += std::string(" ") + candidate.name;
      }
      detail::file_error(path_, "a dtype among" + names, dtype + " of \"" + name + "\"");
    }
    ArrayInfo array{name, known->dtype, entry["shape"].get<std::vector<std::int64_t>>(),
                    entry["data_offsets"][0].get<std::int64_t>(),
                    entry["data_offsets"][1].get<std::int64_t>()};
    const std::int64_t expected = detail::array_bytes(array.dtype, array.shape);
    if (array.begin > array.end || expected != array.num_bytes()) {
      detail::file_error(path_, "data_offsets of \"" + name + "\" that fit its shape",
                         entry.dump());
    }
    arrays_.push_back(std::move(array));
  }

  void check_layout(std::int64_t data_bytes) {
    std::sort(arrays_.begin(), arrays_.end(), [](const ArrayInfo& a, const ArrayInfo& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::int64_t end = 0;
    for (const ArrayInfo& array : arrays_) {
      if (array.begin != end) {
        detail::file_error(path_, "\"" + array.name + "\" to begin at byte " + std::to_string(end),
                           std::to_string(array.begin));
      }
      end = array.end;
    }
    if (end != data_bytes) {
      detail::file_error(path_, std::to_string(end) + " bytes of data", std::to_string(data_bytes));
    }
  }

  /// The first characters of what might be anything.
  static std::string printable(const std::string& text) {
    constexpr std::size_t kShown = 40;
    std::string shown = text.substr(0, kShown);
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    return shown;
  }

  std::filesystem::path path_;
  mutable std::ifstream stream_;
  std::int64_t data_begin_ = 0;
  std::vector<ArrayInfo> arrays_;
  Metadata metadata_;
};

}  // namespace alkn::io
