// A model as Hugging Face's `save_pretrained` writes it: a folder with model.safetensors, or with
// shards and the index that says which tensor lies in which. No LibTorch in here; load_model.hpp
// and save_model.hpp have the layer for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "alkn/io/input_file.hpp"
#include "alkn/io/json.hpp"
#include "alkn/io/safetensors.hpp"

namespace alkn::io {

namespace detail {

inline constexpr const char* kSingleFile = "model.safetensors";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";

[[noreturn]] inline void folder_error(const std::filesystem::path& path,
                                      const std::string& expected, const std::string& got) {
  throw std::runtime_error("alkn::io::ModelFolder: expected " + expected + ", got " + got + " (" +
                           path.string() + ")");
}

/// "a", "b", "c"; after the hundredth, how many more there are.
inline std::string name_list(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 100;
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    text += (i == 0 ? "\"" : ", \"") + printable(names[i]) + "\"";
  }
  return names.size() <= kShown ? text
                                : text + " and " + std::to_string(names.size() - kShown) + " more";
}

}  // namespace detail

/// The tensors of a model's folder, opened: headers are read and checked at once, data on request.
class ModelFolder {
 public:
  /// One safetensors file of the folder.
  struct Shard {
    std::string file;  ///< its name in the folder
    SafetensorsFile contents;
  };

  /// Where a tensor lies.
  struct Location {
    const Shard* shard = nullptr;
    const ArrayInfo* array = nullptr;
  };

  /// `path`: the folder, or one safetensors file that is the whole model. Where a folder has
  /// model.safetensors and an index, the former is the model, as in transformers.
  /// Throws std::runtime_error: no such folder, no weights in it, shards that are missing (all by
  /// name), an index that names tensors no shard has (all by name), a name in two shards, and
  /// whatever SafetensorsFile finds.
  explicit ModelFolder(std::filesystem::path path) : path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (fs::is_regular_file(path_, error) && path_.extension() == ".json") {
      detail::folder_error(path_, "a folder",
                           path_.stem().extension() == ".index"
                               ? "an index of shards: give the folder"
                               : "a JSON file: give the folder");
    }
    if (fs::is_regular_file(path_, error)) {
      const std::string file = path_.filename().string();
      path_ = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
      open({file});
      return;
    }
    if (!fs::is_directory(path_, error)) detail::folder_error(path_, "a folder", "none");
    if (fs::exists(path_ / detail::kSingleFile, error)) {
      open({detail::kSingleFile});
    } else if (fs::exists(path_ / detail::kIndexFile, error)) {
      open_index();
    } else {
      const bool pickled = fs::exists(path_ / "pytorch_model.bin", error) ||
                           fs::exists(path_ / "pytorch_model.bin.index.json", error);
      detail::folder_error(
          path_, "model.safetensors or model.safetensors.index.json",
          pickled ? "pytorch_model.bin alone: transformers' save_pretrained writes safetensors"
                  : "neither");
    }
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::vector<Shard>& shards() const { return shards_; }

  /// The index as it was read, where the model is in shards.
  [[nodiscard]] const std::optional<nlohmann::ordered_json>& index() const { return index_; }

  /// The tensor of that name, or nothing.
  [[nodiscard]] std::optional<Location> find(std::string_view name) const {
    const auto found = places_.find(name);
    if (found == places_.end()) return std::nullopt;
    const Shard& shard = shards_[found->second.first];
    return Location{&shard, &shard.contents.arrays()[found->second.second]};
  }

  /// All names, sorted.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, place] : places_) names.push_back(name);
    return names;
  }

  /// Bytes of all tensors.
  [[nodiscard]] std::int64_t num_bytes() const {
    std::int64_t bytes = 0;
    for (const Shard& shard : shards_) {
      for (const ArrayInfo& array : shard.contents.arrays()) bytes += array.num_bytes();
    }
    return bytes;
  }

 private:
  void open_index() {
    const std::filesystem::path path = path_ / detail::kIndexFile;
    std::map<std::string, std::string> weight_map;
    try {
      index_ = parse_json<nlohmann::ordered_json>(read_text(path));
      weight_map = index_->at("weight_map").get<std::map<std::string, std::string>>();
    } catch (const Unexpected& error) {
      detail::folder_error(path, error.expected, error.got);
    } catch (const nlohmann::json::exception&) {
      detail::folder_error(path, "an index in JSON with a weight_map from names to files",
                           "another text");
    }
    std::set<std::string> files;
    for (const auto& [name, file] : weight_map) files.insert(file);
    std::vector<std::string> missing;
    for (const std::string& file : files) {
      if (file.empty() || std::filesystem::path(file).filename() != file || file == "..") {
        detail::folder_error(path, "names of files in the folder itself",
                             "\"" + printable(file) + "\"");
      }
      std::error_code error;
      if (!std::filesystem::exists(path_ / file, error)) missing.push_back(file);
    }
    if (!missing.empty()) {
      detail::folder_error(path, "every shard that the index names",
                           "no " + detail::name_list(missing));
    }
    open({files.begin(), files.end()});
    std::vector<std::string> absent;
    for (const auto& [name, file] : weight_map) {
      const auto place = find(name);
      if (!place || place->shard->file != file) absent.push_back(name);
    }
    if (!absent.empty()) {
      detail::folder_error(path, "tensors that lie in the shards named for them",
                           "an index that names " + detail::name_list(absent));
    }
  }

  void open(const std::vector<std::string>& files) {
    for (const std::string& file : files) shards_.push_back({file, SafetensorsFile(path_ / file)});
    for (std::size_t s = 0; s < shards_.size(); ++s) {
      const std::vector<ArrayInfo>& arrays = shards_[s].contents.arrays();
      for (std::size_t a = 0; a < arrays.size(); ++a) {
        if (!places_.emplace(arrays[a].name, std::pair(s, a)).second) {
          detail::folder_error(path_, "every name in one shard",
                               "\"" + printable(arrays[a].name) + "\" in two of them");
        }
      }
    }
  }

  std::filesystem::path path_;
  std::vector<Shard> shards_;
  std::optional<nlohmann::ordered_json> index_;
  std::map<std::string, std::pair<std::size_t, std::size_t>, std::less<>> places_;
};

}  // namespace alkn::io
