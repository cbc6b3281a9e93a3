// What a run leaves behind: config.json, metrics.jsonl, summary.json, model.safetensors.
#pragma once

#include <c10/util/StringUtil.h>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/tensors.hpp>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "continual/data.hpp"
#include "continual/evaluate.hpp"
#include "continual/json.hpp"
#include "continual/model.hpp"

namespace continual {

inline Json to_json(const Probabilities& p) {
  return {{"forgotten", number(p.forgotten)},
          {"earlier", number(p.earlier)},
          {"rephrased", number(p.rephrased)},
          {"shown", number(p.shown)},
          {"unseen", number(p.unseen)}};
}

/// The inverse.
inline Probabilities probabilities_from(const Json& json) {
  const auto value = [&](const char* key) {
    return json.at(key).is_null() ? std::numeric_limits<double>::quiet_NaN()
                                  : json.at(key).get<double>();
  };
  return {value("forgotten"), value("earlier"), value("rephrased"), value("shown"),
          value("unseen")};
}

/// Makes the folder and proves that it can be written to.
/// Throws std::runtime_error where not.
inline void prepare_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || !std::filesystem::is_directory(folder)) {
    data_error("a folder that can be made", error ? error.message() : "a file", folder.string());
  }
  const auto probe = folder / ".probe";
  alkn::io::write_file(probe, "");
  std::filesystem::remove(probe);
}

/// metrics.jsonl: one line a step and a task, handed to the system before the next step.
class MetricsFile {
 public:
  /// @param resume whether lines of an earlier run may be kept
  MetricsFile(std::filesystem::path path, bool resume) : path_(std::move(path)) {
    std::ifstream old(path_);
    for (std::string line; resume && std::getline(old, line);) {
      Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (value.is_object()) {
        lines_.push_back(std::move(value));
      }
    }
  }

  /// Begins to write, after those lines of the earlier run that `kept` accepts.
  void start(const std::function<bool(const Json&)>& kept) {
    std::erase_if(lines_, [&](const Json& line) { return !kept(line); });
    std::string text;
    for (const Json& line : lines_) {
      text += line.dump() + "\n";
    }
    alkn::io::write_file(path_, text);
    stream_.open(path_, std::ios::app);
    check();
  }

  void append(const Json& line) {
    stream_ << line.dump() << '\n' << std::flush;
    check();
  }

  /// The lines that were kept.
  [[nodiscard]] const std::vector<Json>& lines() const { return lines_; }

 private:
  void check() const {
    if (!stream_) {
      data_error("room for another line", std::generic_category().message(errno), path_.string());
    }
  }

  std::filesystem::path path_;
  std::ofstream stream_;
  std::vector<Json> lines_;
};

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
