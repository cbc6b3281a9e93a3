// What a run leaves behind: config.json, metrics.jsonl, summary.json, model.safetensors.
#pragma once

#include <c10/util/StringUtil.h>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/file_lock.hpp>
#include <alkn/io/tensors.hpp>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <system_error>

#include "continual/data.hpp"
#include "continual/evaluate.hpp"
#include "continual/json.hpp"
#include "continual/metrics_file.hpp"
#include "continual/model.hpp"

namespace continual {

inline Json to_json(const Probabilities& p) {
  Json json{{"forgotten", number(p.forgotten)},
            {"earlier", number(p.earlier)},
            {"rephrased", number(p.rephrased)},
            {"shown", number(p.shown)},
            {"unseen", number(p.unseen)}};
  if (std::isfinite(p.general)) json["general"] = p.general;
  return json;
}

/// The inverse. Throws std::runtime_error for an object of another kind.
inline Probabilities probabilities_from(const Json& json, const std::string& where) {
  const auto value = [&](const char* key) {
    return field<Json>(json, key, where).is_null() ? std::numeric_limits<double>::quiet_NaN()
                                                   : field<double>(json, key, where);
  };
  return {value("forgotten"),
          value("earlier"),
          value("rephrased"),
          value("shown"),
          value("unseen"),
          json.contains("general") ? value("general") : std::numeric_limits<double>::quiet_NaN()};
}

/// Keeps other processes from a path. Throws std::runtime_error with the number of one that has it.
inline void lock_path(std::optional<alkn::io::FileLock>& lock, const std::filesystem::path& path,
                      const std::string& expected) {
  try {
    lock.emplace(path);
  } catch (const alkn::io::Unexpected& error) {
    data_error(expected, error.got, path.string());
  }
}

/// Compares config.json of an earlier run, where there is one, with what is asked now.
/// Throws std::runtime_error that names the first key that differs.
inline void require_same(const std::filesystem::path& path, const Json& now,
                         const std::string& expected) {
  if (!std::filesystem::exists(path)) return;
  const Json before = read_object(path);
  Json all = before;
  all.update(now);
  for (const auto& [key, value] : all.items()) {
    const Json was = before.value(key, Json()), is = now.value(key, Json());
    if (was != is) {
      data_error(expected + ", " + alkn::io::printable(key) + " " + alkn::io::shown(was),
                 alkn::io::shown(is), path.string());
    }
  }
}

/// Makes the folder and proves that it can be written to.
/// Throws std::runtime_error where not.
inline void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || !std::filesystem::is_directory(folder)) {
    data_error("a folder that can be made", error ? error.message() : "a file", folder.string());
  }
  const alkn::io::AtomicFile probe(folder / ".probe");  // goes without having had its name
}

/// Whether a run has left a checkpoint: a file, or a folder of several processes.
inline bool has_checkpoint(const std::filesystem::path& path) {
  return std::filesystem::exists(std::filesystem::is_directory(path) ? path / "index.json" : path);
}

/// Of a folder the parts of a checkpoint alone, and itself if nothing else is in it.
inline void remove_checkpoint(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return alkn::io::remove_file(path);
  alkn::io::remove_file(path / "index.json");  // first: without it nobody looks at the others
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    if (entry.path().filename().string().starts_with("shard-")) alkn::io::remove_file(entry.path());
  }
  if (std::filesystem::is_empty(path)) std::filesystem::remove(path);
}

inline void write_json(const std::filesystem::path& path, const Json& json) {
  constexpr int kIndent = 2;
  alkn::io::write_file(path, json.dump(kIndent) + "\n");
}

/// The model's parameters under the module's own names.
inline void save_model(const std::filesystem::path& path, const Transformer& model) {
  alkn::io::NamedTensors tensors;
  for (const auto& item : model.named_parameters()) {
    tensors.emplace_back(item.key(), item.value());
  }
  alkn::io::save_tensors(path, tensors, {{"format", "pt"}});
}

/// Into a model of the same names, types and shapes. Throws std::runtime_error that names the
/// first tensor that does not fit; the model is then as it was.
inline void load_model(const std::filesystem::path& path, Transformer& model) {
  const at::NoGradGuard no_grad;
  auto parameters = model.named_parameters();
  std::map<std::string, at::Tensor> loaded;
  for (const auto& [name, tensor] : alkn::io::load_tensors(path)) {
    if (parameters.find(name) == nullptr) {
      data_error("a tensor of this model", name, path.string());
    }
    loaded.emplace(name, tensor);
  }
  const auto type_and_shape = [](const at::Tensor& tensor) {
    return tensor.defined() ? c10::str(tensor.scalar_type(), " ", tensor.sizes()) : "none";
  };
  for (const auto& item : parameters) {
    const std::string expected = type_and_shape(item.value());
    if (const std::string got = type_and_shape(loaded[item.key()]); got != expected) {
      data_error(item.key() + " as " + expected, got, path.string());
    }
  }
  for (const auto& [name, tensor] : loaded) {
    parameters[name].copy_(tensor);
  }
}

}  // namespace continual
