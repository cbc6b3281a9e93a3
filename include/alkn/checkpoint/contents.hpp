// What a process reads of a checkpoint's files: what is its own, wherever it is.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <alkn/checkpoint/base_archive.hpp>
#include <alkn/checkpoint/saved_file.hpp>
#include <alkn/checkpoint/shard_files.hpp>
#include <alkn/task/core.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace alkn::detail {

/// How the names of a parameter's arrays begin.
inline constexpr std::array<std::string_view, 8> kParameterArrays{
    "parameter/", "master/", "given/", "used/", "start/", "retain/", "score/", "mask/"};
inline constexpr std::array<const char*, 4> kMemoryArrays{"memory/ids", "memory/tokens",
                                                          "memory/sizes", "memory/values"};

/// What a process takes over of a checkpoint. Its home is the file of the process of its rank, or,
/// where fewer have written, of its rank modulo their number: header, generator and buffers are
/// from there. The arrays of a parameter whose state is here are from the file that has them.
struct CheckpointContents {
  nlohmann::json header;
  std::map<std::string, Tensor> arrays;
  std::vector<BaseSource> bases;  ///< home first
  /// Another number of processes has written it: a sample goes to process id modulo size. Else
  /// samples are where they were.
  bool redistributed = false;
  std::uint64_t hash = 0;  ///< of all files: the same on all processes, see SavedFiles
};

/// Reads the contents for one process.
class ContentsReader {
 public:
  ContentsReader(const SavedFiles& files, const UnlearnerCore& core)
      : files_(files), core_(core), missing_(core.parameters().size()) {
    for (std::size_t i = 0; i < missing_.size(); ++i) {
      missing_[i] = core.shards().owns(i) ? 1 : 0;
      numbers_.emplace(core.parameters()[i].name, i);
    }
  }

  /// @throws as SavedFiles::open
  [[nodiscard]] CheckpointContents read() {
    const Shards& shards = core_.shards();
    const std::size_t home = static_cast<std::size_t>(shards.rank()) % files_.size();
    contents_.redistributed = files_.size() != static_cast<std::size_t>(shards.size());
    memories_.resize(files_.size());
    take(home, true);
    const bool all_memories =
        contents_.redistributed && core_.settings().remembers && contents_.header.contains("task");
    for (std::size_t k = 0; k < files_.size(); ++k) {
      if (k != home && (all_memories || std::ranges::count(missing_, 1) > 0)) take(k, false);
    }
    if (all_memories) join_memories();
    return std::move(contents_);
  }

 private:
  void take(std::size_t k, bool home) {
    const auto file = files_.open(k);
    BaseSource source{file, std::vector<char>(missing_.size())};
    for (std::size_t i = 0; i < missing_.size(); ++i) {
      if (missing_[i] == 0 || !file->has("parameter/" + core_.parameters()[i].name)) continue;
      source.takes[i] = 1;
      missing_[i] = 0;
    }
    if (home) {
      contents_.header = file->header();
      contents_.hash = files_.hash(*file);
    }
    for (const io::ArrayInfo& array : file->arrays()) {
      const auto number = parameter_of(array.name);
      const bool memory = array.name.starts_with("memory/");
      const bool own = number == numbers_.end() ? home : source.takes[number->second] != 0;
      if (own || (memory && contents_.redistributed))
        (memory ? memories_[k] : contents_.arrays).emplace(array.name, file->read(array.name));
    }
    if (home) contents_.arrays.insert(memories_[k].begin(), memories_[k].end());
    if (home || std::ranges::count(source.takes, 1) > 0)
      contents_.bases.push_back(std::move(source));
  }

  [[nodiscard]] std::unordered_map<std::string, std::size_t>::const_iterator parameter_of(
      std::string_view array) const {
    for (const std::string_view kind : kParameterArrays) {
      if (array.starts_with(kind)) return numbers_.find(std::string(array.substr(kind.size())));
    }
    return numbers_.end();
  }

  /// The samples of all files, in their order; of one that several have, the first counts.
  void join_memories() {
    for (const char* name : kMemoryArrays) {
      std::vector<Tensor> parts;
      for (const auto& memory : memories_) {
        const auto part = memory.find(name);
        if (part != memory.end()) parts.push_back(part->second);
      }
      contents_.arrays.erase(name);
      const auto unlike = [&](const Tensor& part) {
        return part.dim() != 1 || part.scalar_type() != parts[0].scalar_type();
      };
      const auto other = std::ranges::find_if(parts, unlike);
      if (!parts.empty())  // what is unlike is refused by its shape or type
        contents_.arrays.emplace(name, other == parts.end() ? at::cat(parts) : *other);
    }
  }

  const SavedFiles& files_;
  const UnlearnerCore& core_;
  std::vector<char> missing_;  ///< the parameters whose state is here and whose file is not found
  std::unordered_map<std::string, std::size_t> numbers_;  ///< of the parameters, by name
  std::vector<std::map<std::string, Tensor>> memories_;   ///< of each file that was opened
  CheckpointContents contents_;
};

}  // namespace alkn::detail
