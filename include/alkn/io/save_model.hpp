// A trained model back into a folder of the form that it was read from.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "alkn/io/atomic_file.hpp"
#include "alkn/io/atomic_folder.hpp"
#include "alkn/io/load_model.hpp"
#include "alkn/io/model_folder.hpp"
#include "alkn/parameters.hpp"

namespace alkn::io {

namespace detail {

[[noreturn]] inline void save_error(const std::string& expected, const std::string& got,
                                    const std::filesystem::path& path) {
  throw std::runtime_error("alkn::io::save_model: expected " + expected + ", got " + got + " (" +
                           path.string() + ")");
}

/// The values of a parameter in the type of the file, on the CPU.
inline at::Tensor stored_form(const at::Tensor& parameter, const ArrayInfo& array,
                              const std::filesystem::path& out) {
  const at::ScalarType type = scalar_type_of(array.dtype);
  at::Tensor value = parameter.detach().to(at::kCPU).to(type).contiguous();
  if (type != parameter.scalar_type() && !at::isfinite(value).all().item<bool>()) {
    save_error("finite values in " + std::string(to_string(array.dtype)),
               "infinity or NaN in \"" + array.name + "\"", out);
  }
  return value;
}

/// One shard: the arrays of the source in their order, those of the model with its values.
inline void write_shard(const std::filesystem::path& path, const SafetensorsFile& source,
                        const std::map<std::string, at::Tensor>& weights,
                        const std::filesystem::path& out) {
  Metadata metadata = source.metadata();
  metadata["format"] = "pt";  // many versions of transformers refuse a file without
  for (const char* key : {kChecksumKey, kChecksumCopyKey}) metadata.erase(key);  // of the old data
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  header[kMetadataKey] = metadata;
  for (const ArrayInfo& array : source.arrays()) {
    header[array.name] = {{"dtype", to_string(array.dtype)},
                          {"shape", array.shape},
                          {"data_offsets", {array.begin, array.end}}};
  }
  std::string text = header.dump();
  constexpr std::size_t kAlignment = 8;
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');

  AtomicFile file(path);
  const std::uint64_t header_bytes = text.size();
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(text);
  for (const ArrayInfo& array : source.arrays()) {
    const auto weight = weights.find(array.name);
    const at::Tensor value = weight == weights.end() ? read_tensor(source, array)
                                                     : stored_form(weight->second, array, out);
    file.write(value.const_data_ptr(), static_cast<std::size_t>(array.num_bytes()));
  }
  file.commit();
}

inline void write_index(const std::filesystem::path& path, const ModelFolder& source) {
  nlohmann::ordered_json index = *source.index();
  nlohmann::ordered_json& map = index["weight_map"] = nlohmann::ordered_json::object();
  for (const std::string& name : source.names()) map[name] = source.find(name)->shard->file;
  if (!index["metadata"].is_object()) index["metadata"] = nlohmann::ordered_json::object();
  index["metadata"]["total_size"] = source.num_bytes();
  write_file(path, index.dump(2) + "\n");
}

/// Whether a file of the folder holds weights, in whatever format.
inline bool holds_weights(const std::filesystem::path& file) {
  static const std::set<std::string> kinds{".safetensors", ".bin", ".pt",   ".pth", ".ckpt",
                                           ".msgpack",     ".h5",  ".gguf", ".onnx"};
  return kinds.contains(file.extension().string()) ||
         (file.extension() == ".json" && file.stem().extension() == ".index");
}

}  // namespace detail

/// Writes a folder of the form of `source`, which `load_model` read, with the values of `tensors`.
///
/// Names, shapes, types, shards and their metadata are the source's, the latter with
/// `format: pt`; tensors that are not among `tensors` are copied as they are; a tied name that the
/// source lacks stays absent. Files without weights (config, tokenizer) are copied; subfolders,
/// and weights in other formats, are not. Values of another type are rounded to nearest.
/// The folder appears whole or not at all; an `out` that is there is replaced in one step (see
/// AtomicFolder), also where it is the source.
/// Throws std::runtime_error before anything is written: names that the source lacks and shapes
/// that differ (all of them), too little free disk; and from AtomicFolder. A value that the file's
/// type cannot hold, and a disk that fills up meanwhile, are found while writing: nothing is left.
/// Cost: memory for one tensor.
template <NamedParameters Range>
void save_model(const std::filesystem::path& out, const ModelFolder& source, const Range& tensors) {
  namespace fs = std::filesystem;
  const std::vector<NamedParameter> list = detail::to_list(tensors);
  LoadReport report = detail::compare(source, list, [](std::string_view) { return true; });
  if (!report.fits()) {
    detail::save_error("the names and shapes of " + source.path().string(), report.text(), out);
  }
  std::map<std::string, at::Tensor> weights;
  for (const NamedParameter& p : list) weights.emplace(p.name, p.tensor);

  AtomicFolder folder(out);
  const auto free = static_cast<std::int64_t>(fs::space(folder.path()).available);
  if (free < source.num_bytes()) {
    detail::save_error(std::to_string(source.num_bytes()) + " bytes of free disk",
                       std::to_string(free), out);
  }
  const c10::NoGradGuard no_grad;
  for (const fs::directory_entry& entry : fs::directory_iterator(source.path())) {
    if (entry.is_regular_file() && !detail::holds_weights(entry.path())) {
      folder.copy(entry.path());
    }
  }
  for (const ModelFolder::Shard& shard : source.shards()) {
    detail::write_shard(folder.path() / shard.file, shard.contents, weights, out);
  }
  if (source.index()) detail::write_index(folder.path() / detail::kIndexFile, source);
  folder.commit();
}

}  // namespace alkn::io
