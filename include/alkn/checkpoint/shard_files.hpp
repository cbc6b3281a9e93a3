// The files of a checkpoint of several processes: a folder with a file of each, and an index that
// names the files that belong together. They have new names at every save, and the index takes its
// name when all are on the disk: a run that is killed anywhere finds the last or the new
// checkpoint.
#pragma once

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/input_file.hpp>
#include <alkn/io/json.hpp>
#include <alkn/task/core.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <system_error>

namespace alkn::detail {

inline constexpr const char* kIndexName = "index.json";

/// @param save tells the files of one save from those of another
inline std::string shard_name(int rank, int size, std::uint64_t save) {
  return fmt::format("shard-{}-of-{}-{:08x}.safetensors", rank, size, save);
}

/// Writes a checkpoint of all processes of a group into a folder; collective.
/// @param write (path): writes the file of this process, whole or not at all
inline void save_shards(const std::filesystem::path& folder, UnlearnerCore& core,
                        const std::function<void(const std::filesystem::path&)>& write) {
  const Call call = Call::save_checkpoint;
  const int rank = core.shards().rank(), size = core.shards().size();
  double number = 0;
  const auto make_folder = [&] {
    std::filesystem::create_directories(folder);
    std::random_device random;
    number = random();  // 32 bits, which a double holds
  };
  const auto save = static_cast<std::uint64_t>(core.agree(call, make_folder, number)[0]);
  const std::filesystem::path own = folder / shard_name(rank, size, save);
  try {
    core.agree(
        call, [&] { write(own); }, number);
    const auto write_index = [&] {
      if (rank != 0) return;
      const nlohmann::json index{
          {"alkn.checkpoint", "shards"}, {"processes", size}, {"save", save}};
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

/// The file that this process reads: its own of a folder, or the one that there is.
inline std::filesystem::path own_file(const std::filesystem::path& path, const Shards& shards) {
  if (!std::filesystem::is_directory(path)) return path;
  const std::filesystem::path index_path = path / kIndexName;
  const auto refuse = [&](const std::string& got) {
    TORCH_CHECK(false, "alkn::load_checkpoint: expected a checkpoint of ", shards.size(),
                shards.size() == 1 ? " process" : " processes", ", got ", got, " (",
                index_path.string(), ")");
  };
  nlohmann::json index;
  try {
    index = io::parse_json(io::read_text(index_path));
  } catch (const io::JsonError& error) {
    refuse(error.got);
  }
  const auto number = [&](const char* key) {
    return index.contains(key) && index[key].is_number_unsigned() ? index[key].get<std::uint64_t>()
                                                                  : std::uint64_t{0};
  };
  if (!index.is_object() || index.value("alkn.checkpoint", nlohmann::json()) != "shards" ||
      number("processes") == 0 || !index.contains("save"))
    refuse("another file");
  const std::uint64_t size = number("processes");
  if (size != static_cast<std::uint64_t>(shards.size()) || !shards.active())
    refuse(fmt::format("one of {}", size));
  return path / shard_name(shards.rank(), shards.size(), number("save"));
}

}  // namespace alkn::detail
