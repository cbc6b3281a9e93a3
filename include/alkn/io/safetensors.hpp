// The safetensors format: named arrays in one file. No LibTorch in here; tensors.hpp has the layer
// for it.
//
//   8 bytes   size of the header, unsigned little-endian
//   header    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//             "__metadata__": {"key": "text"}}, padded with spaces to a multiple of 8
//   data      the arrays, little-endian, row-major, without gaps; offsets count from its start
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "alkn/io/atomic_file.hpp"
#include "alkn/io/input_file.hpp"
#include "alkn/io/json.hpp"
#include "alkn/io/safetensors_format.hpp"

namespace alkn::io {

/// Writes `arrays` and `metadata` to `path`, whole or not at all (see AtomicFile).
///
/// Checksums of header and data are added to the metadata (keys "alkn.checksum" and
/// "alkn.checksum.copy"), which SafetensorsFile compares; other readers ignore them.
/// Throws std::invalid_argument for duplicate names, a byte count that does not fit shape and
/// dtype, text that is not UTF-8; std::runtime_error if the file cannot be written.
/// Cost: reads the data twice.
inline void save_safetensors(const std::filesystem::path& path,
                             const std::vector<ArrayView>& arrays, Metadata metadata = {}) {
  const auto order = detail::file_order(arrays);
  detail::Checksum checksum;
  for (const ArrayView& array : order) {
    checksum.add(array.data, array.num_bytes);
  }
  const std::string text = detail::checksum_start(detail::header_checksum(order, metadata)) +
                           detail::hex(checksum.value());
  metadata[detail::kChecksumKey] = text;
  metadata[detail::kChecksumCopyKey] = text;
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
  for (const ArrayView& array : order) {
    file.write(array.data, static_cast<std::size_t>(array.num_bytes));
  }
  file.commit();
}

namespace detail {

[[noreturn]] inline void file_error(const std::filesystem::path& path, const std::string& expected,
                                    const std::string& got) {
  throw std::runtime_error("alkn::io::SafetensorsFile: expected " + expected + ", got " + got +
                           " (" + path.string() + ")");
}

}  // namespace detail

/// An opened safetensors file: the header is read and checked at once, the data on request.
///
/// Every array lies inside the file, none overlaps another and there are no gaps, as the format
/// demands; dtypes other than DType's (those of less than a byte) are refused. Names, shapes, types
/// and metadata of files that alkn wrote are compared with their checksum. It stays the file that
/// was opened, also when another one takes its name. Reading throws std::runtime_error, and is
/// thread-safe.
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
    try {
      file_.emplace(path_);
    } catch (const Unexpected& error) {
      detail::file_error(path_, error.expected, error.got);
    }
    const auto file_bytes = static_cast<std::uint64_t>(file_->size());
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
    check_header();
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
    const bool both = metadata_.contains(detail::kChecksumCopyKey);
    const std::string got =
        both ? header_ + detail::hex(checksum.value()) : std::to_string(checksum.value());
    if (got != stored->second) {
      detail::file_error(path_, "data with checksum " + printable(stored->second), got);
    }
    return true;
  }

 private:
  using Json = nlohmann::json;

  void read_at(std::int64_t offset, void* destination, std::size_t num_bytes) const {
    try {
      file_->read(offset, destination, num_bytes);
    } catch (const Unexpected& error) {
      detail::file_error(path_, error.expected, error.got);
    }
  }

  void parse(const std::string& text) {
    Json header;
    try {
      header = parse_json(text);
    } catch (const JsonError& error) {
      detail::file_error(path_, error.expected + " in the header", error.got);
    }
    if (!header.is_object() || text.front() != '{') {
      detail::file_error(path_, "a header that is a JSON object",
                         "\"" + printable(text, 40) + "\"");
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
      detail::file_error(path_, "__metadata__ with strings alone", shown(entry));
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
      detail::file_error(path_, "dtype, shape and two data_offsets of \"" + printable(name) + "\"",
                         shown(entry));
    }
    const auto dtype = entry["dtype"].get<std::string>();
    const auto known = std::find_if(detail::kDTypes.begin(), detail::kDTypes.end(),
                                    [&](const auto& candidate) { return dtype == candidate.name; });
    if (known == detail::kDTypes.end()) {
      std::string names;
      for (const detail::DTypeName& candidate : detail::kDTypes) {
        names += std::string(" ") + candidate.name;
      }
      detail::file_error(path_, "a dtype among" + names,
                         printable(dtype) + " of \"" + printable(name) + "\"");
    }
    ArrayInfo array{name, known->dtype, entry["shape"].get<std::vector<std::int64_t>>(),
                    entry["data_offsets"][0].get<std::int64_t>(),
                    entry["data_offsets"][1].get<std::int64_t>()};
    const std::int64_t expected = detail::array_bytes(array.dtype, array.shape);
    if (array.begin > array.end || expected != array.num_bytes()) {
      detail::file_error(path_, "data_offsets of \"" + printable(name) + "\" that fit its shape",
                         shown(entry));
    }
    arrays_.push_back(std::move(array));
  }

  void check_layout(std::int64_t data_bytes) {
    std::sort(arrays_.begin(), arrays_.end(), [](const ArrayInfo& a, const ArrayInfo& b) {
      const auto place = [](const ArrayInfo& array) {  // empty ones as they were written
        return std::tuple(array.begin, array.end, -detail::dtype_name(array.dtype).size);
      };
      return place(a) != place(b) ? place(a) < place(b) : a.name < b.name;
    });
    std::int64_t end = 0;
    for (const ArrayInfo& array : arrays_) {
      if (array.begin != end) {
        detail::file_error(
            path_, "\"" + printable(array.name) + "\" to begin at byte " + std::to_string(end),
            std::to_string(array.begin));
      }
      end = array.end;
    }
    if (end != data_bytes) {
      detail::file_error(path_, std::to_string(end) + " bytes of data", std::to_string(data_bytes));
    }
  }

  /// Files of others, and those of version 0.1.0, have no checksum of the header.
  void check_header() {
    const auto first = metadata_.find(detail::kChecksumKey);
    const auto second = metadata_.find(detail::kChecksumCopyKey);
    header_ = detail::checksum_start(detail::header_checksum(arrays_, metadata_));
    const bool old = second == metadata_.end() &&
                     (first == metadata_.end() || first->second.find(' ') == std::string::npos);
    if (old) return;
    if (first == metadata_.end() || second == metadata_.end() || first->second != second->second ||
        first->second.compare(0, header_.size(), header_) != 0) {
      const auto text = [&](const auto& found) {
        return found == metadata_.end() ? "none" : printable(found->second);
      };
      detail::file_error(path_,
                         "twice the checksum that begins with " + header_ + "for this header",
                         text(first) + " and " + text(second));
    }
  }

  std::filesystem::path path_;
  std::optional<InputFile> file_;
  std::int64_t data_begin_ = 0;
  std::string header_;  ///< begin of its checksums, if it is undamaged
  std::vector<ArrayInfo> arrays_;
  Metadata metadata_;
};

}  // namespace alkn::io
