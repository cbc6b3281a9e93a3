// The files of a checkpoint of several processes: a folder with a file of each, and an index that
// names the files that belong together, with a hash of each. They have new names at every save, and
// the index takes its name when all are on the disk: a run that is killed anywhere finds the last
// or the new checkpoint.
#pragma once

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <alkn/checkpoint/saved_file.hpp>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/hash.hpp>
#include <alkn/io/input_file.hpp>
#include <alkn/io/json.hpp>
#include <alkn/io/safetensors.hpp>
#include <alkn/task/core.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace alkn::detail {

inline constexpr const char* kIndexName = "index.json";

/// @param save tells the files of one save from those of another
inline std::string shard_name(std::size_t rank, std::size_t size, std::uint64_t save) {
  return fmt::format("shard-{}-of-{}-{:08x}.safetensors", rank, size, save);
}

/// Writes a checkpoint of all processes of a group into a folder; collective.
/// @param write (path): writes the file of this process, whole or not at all
inline void save_shards(const std::filesystem::path& folder, UnlearnerCore& core,
                        const std::function<void(const std::filesystem::path&)>& write) {
  const Call call = Call::save_checkpoint;
  const auto rank = static_cast<std::size_t>(core.shards().rank());
  const auto size = static_cast<std::size_t>(core.shards().size());
  double number = 0;
  const auto make_folder = [&] {
    std::filesystem::create_directories(folder);
    std::random_device random;
    number = random();  // 32 bits, which a double holds
  };
  const auto save = static_cast<std::uint64_t>(core.agree(call, make_folder, number)[0]);
  const std::filesystem::path own = folder / shard_name(rank, size, save);
  try {
    const auto write_own = [&] {
      write(own);
      const io::SafetensorsFile written(own);
      written.verify();  // what is read again is what was to be written
      number = static_cast<double>(file_hash(written));
    };
    const std::vector<double> hashes = core.agree(call, write_own, number);
    const auto write_index = [&] {
      if (rank != 0) return;
      nlohmann::json index{{"alkn.checkpoint", "shards"}, {"processes", size}, {"save", save}};
      for (const double hash : hashes) index["hashes"].push_back(static_cast<std::uint64_t>(hash));
      io::write_file(folder / kIndexName, index.dump());
    };
    core.agree(call, write_index, number);
  } catch (...) {
    std::error_code ignored;  // without the index nobody knows of it
    if (core.works()) std::filesystem::remove(own, ignored);
    throw;
  }
  if (rank != 0) return;
  std::error_code ignored;  // what earlier saves have left costs room and nothing else
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::string end = fmt::format("-{:08x}.safetensors", save);
    if (name.starts_with("shard-") && name.ends_with(".safetensors") && !name.ends_with(end))
      std::filesystem::remove(entry.path(), ignored);
  }
}

/// The files of a checkpoint, in the order of the processes that wrote them: those that the index
/// of a folder names, or the one that there is.
class SavedFiles {
 public:
  /// @throws c10::Error for a folder without an index of ours
  explicit SavedFiles(const std::filesystem::path& path) {
    if (!std::filesystem::is_directory(path)) {
      paths_.push_back(path);
      return;
    }
    index_ = path / kIndexName;
    const nlohmann::json index = read_index();
    const std::size_t size = index["hashes"].size();
    paths_.reserve(size);
    hashes_.reserve(size);
    for (std::size_t i = 0; i < size; ++i) {
      paths_.push_back(path / shard_name(i, size, index["save"].get<std::uint64_t>()));
      hashes_.push_back(index["hashes"][i].get<std::uint64_t>());
    }
  }

  [[nodiscard]] std::size_t size() const noexcept { return paths_.size(); }

  /// @throws as SavedFile; c10::Error for another file than the one that the index was written for
  [[nodiscard]] std::shared_ptr<const SavedFile> open(std::size_t i) const {
    auto file = std::make_shared<const SavedFile>(paths_[i]);
    TORCH_CHECK(hashes_.empty() || file->hash() == hashes_[i],
                "alkn::load_checkpoint: expected the file that belongs to ", index_.string(),
                ", got another (", paths_[i].string(), ")");
    return file;
  }

  /// Tells this checkpoint from others. @param any one of its files
  [[nodiscard]] std::uint64_t hash(const SavedFile& any) const {
    if (hashes_.empty()) return any.hash();
    std::uint64_t all = io::detail::hash_bytes("");
    for (const std::uint64_t one : hashes_) all = io::detail::hash_bytes(std::to_string(one), all);
    return all >> 11;
  }

 private:
  [[nodiscard]] nlohmann::json read_index() const {
    const auto refuse = [&](const std::string& expected, const std::string& got) {
      TORCH_CHECK(false, "alkn::load_checkpoint: expected ", expected, ", got ", got, " (",
                  index_.string(), ")");
    };
    nlohmann::json index;
    try {
      index = io::parse_json(io::read_text(index_));
    } catch (const io::Unexpected& error) {
      refuse(error.expected, error.got);
    }
    const auto whole = [](const nlohmann::json& value) { return value.is_number_unsigned(); };
    const auto of = [&](const char* key) {
      return index.is_object() ? index.value(key, nlohmann::json()) : nlohmann::json();
    };
    const nlohmann::json hashes = of("hashes");
    if (of("alkn.checkpoint") != "shards" || !whole(of("save")) || !hashes.is_array() ||
        hashes.empty() || of("processes") != hashes.size() ||
        !std::all_of(hashes.begin(), hashes.end(), whole))
      refuse("the index of a checkpoint of several processes", "another file");
    return index;
  }

  std::filesystem::path index_;
  std::vector<std::filesystem::path> paths_;
  std::vector<std::uint64_t> hashes_;
};

}  // namespace alkn::detail
