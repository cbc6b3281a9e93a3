// One file of a checkpoint: opened, compared with its checksums, its arrays read on request.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <alkn/io/hash.hpp>
#include <alkn/io/json.hpp>
#include <alkn/io/tensors.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace alkn::detail {

/// Version 1 had no checksum over names, shapes and metadata, and the compiler's names of the
/// policies; it is read as well.
inline constexpr int kCheckpointVersion = 2;
inline constexpr const char* kCheckpointKey = "alkn.checkpoint";  // metadata: the version
inline constexpr const char* kHeaderName = "header";              // array: JSON, under the checksum

inline at::Tensor bytes_tensor(const std::string& bytes) {
  at::Tensor t = at::empty({static_cast<std::int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) std::memcpy(t.mutable_data_ptr(), bytes.data(), bytes.size());
  return t;
}

inline std::string tensor_bytes(const at::Tensor& t) {
  return {static_cast<const char*>(t.const_data_ptr()), static_cast<std::size_t>(t.numel())};
}

/// Name, type and shape of an array as a line. No stream writes it: the text must not depend on the
/// program's locale.
inline std::string manifest_line(std::string_view name, at::ScalarType type,
                                 at::IntArrayRef sizes) {
  return fmt::format("{} {} [{}]", name, c10::toString(type), fmt::join(sizes, ", "));
}

/// What arrays there are, one line each, by name: a damaged name must not go unnoticed.
inline std::vector<std::string> manifest(const std::map<std::string, at::Tensor>& arrays) {
  std::vector<std::string> lines;
  for (const auto& [name, array] : arrays) {
    if (name != kHeaderName)
      lines.push_back(manifest_line(name, array.scalar_type(), array.sizes()));
  }
  return lines;
}

/// The same of a file.
inline std::vector<std::string> manifest(const std::vector<io::ArrayInfo>& arrays) {
  std::map<std::string_view, const io::ArrayInfo*> sorted;
  for (const io::ArrayInfo& array : arrays) sorted.emplace(array.name, &array);
  std::vector<std::string> lines;
  for (const auto& [name, array] : sorted) {
    if (name != kHeaderName)
      lines.push_back(manifest_line(name, io::scalar_type_of(array->dtype), array->shape));
  }
  return lines;
}

/// What tells a file from any other: a hash of its checksums, which those of its header and of its
/// data are compared with. 53 bits, which a double holds.
inline std::uint64_t file_hash(const io::SafetensorsFile& file) {
  const auto found = file.metadata().find(io::detail::kChecksumKey);
  return io::detail::hash_bytes(found == file.metadata().end() ? "" : found->second) >> 11;
}

class SavedFile {
 public:
  /// Reads all of it once.
  /// @throws std::runtime_error; c10::Error for another version, or for no checkpoint at all
  explicit SavedFile(const std::filesystem::path& path) : path_(path), file_(path) {
    const auto version = file_.metadata().find(kCheckpointKey);
    TORCH_CHECK(version != file_.metadata().end(),
                "alkn::load_checkpoint: expected a checkpoint, got another safetensors file (",
                path.string(), ")");
    TORCH_CHECK(version->second == "1" || version->second == std::to_string(kCheckpointVersion),
                "alkn::load_checkpoint: expected a checkpoint of version 1 or ", kCheckpointVersion,
                ", got version ", io::printable(version->second), " (", path.string(), ")");
    TORCH_CHECK(
        file_.verify() && file_.find(kHeaderName) != nullptr,
        "alkn::load_checkpoint: expected a checkpoint with header and checksum, got one without (",
        path.string(), ")");
    try {
      header_ = io::parse_json(tensor_bytes(read(kHeaderName)));
    } catch (const io::JsonError& error) {
      TORCH_CHECK(false, "alkn::load_checkpoint: expected ", error.expected, " in its header, got ",
                  error.got, " (", path.string(), ")");
    }
    TORCH_CHECK(header_.is_object() &&
                    header_.value("arrays", nlohmann::json()) == manifest(file_.arrays()),
                "alkn::load_checkpoint: expected the arrays that were saved, got others (",
                path.string(), ")");
    // Version 1 has the compiler's names of types, which are compared nowhere.
    header_["version"] = version->second == "1" ? 1 : kCheckpointVersion;
  }

  [[nodiscard]] const nlohmann::json& header() const noexcept { return header_; }
  [[nodiscard]] const std::vector<io::ArrayInfo>& arrays() const noexcept { return file_.arrays(); }
  [[nodiscard]] bool has(std::string_view name) const { return file_.find(name) != nullptr; }
  [[nodiscard]] std::uint64_t hash() const { return file_hash(file_); }

  [[nodiscard]] at::Tensor read(std::string_view name) const {
    const io::ArrayInfo* array = file_.find(name);
    TORCH_CHECK(array != nullptr, "alkn::load_checkpoint: expected an array \"", name,
                "\", got none (", path_.string(), ")");
    return io::read_tensor(file_, *array);
  }

 private:
  std::filesystem::path path_;
  io::SafetensorsFile file_;
  nlohmann::json header_;
};

}  // namespace alkn::detail
