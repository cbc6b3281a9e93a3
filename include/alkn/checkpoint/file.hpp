// The one file of a process: its header, what it is compared with, how it is written and read.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/ranges.h>
#include <alkn/checkpoint/arrays.hpp>
#include <alkn/io/json.hpp>
#include <alkn/io/tensors.hpp>
#include <alkn/method/unlearner.hpp>

#include <concepts>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace torch::optim {
class SGD;
class Adam;
class AdamW;
class Adagrad;
class RMSprop;
}  // namespace torch::optim

namespace alkn {
namespace detail {

/// Version 1 had no checksum over names, shapes and metadata, and the compiler's names of the
/// policies; it is read as well.
inline constexpr int kCheckpointVersion = 2;
inline constexpr const char* kCheckpointKey = "alkn.checkpoint";  // metadata: the version
inline constexpr const char* kHeaderName = "header";              // array: JSON, under the checksum

/// The name of a base optimizer: a name of the compiler's has no place in a file.
template <class Base>
std::string base_name() {
  if constexpr (std::same_as<Base, torch::optim::SGD>)
    return "torch::optim::SGD";
  else if constexpr (std::same_as<Base, torch::optim::Adam>)
    return "torch::optim::Adam";
  else if constexpr (std::same_as<Base, torch::optim::AdamW>)
    return "torch::optim::AdamW";
  else if constexpr (std::same_as<Base, torch::optim::Adagrad>)
    return "torch::optim::Adagrad";
  else if constexpr (std::same_as<Base, torch::optim::RMSprop>)
    return "torch::optim::RMSprop";
  else if constexpr (std::same_as<Base, AdamW>)
    return AdamW::kName;
  else {
    constexpr bool kNamed = requires { Base::kName; };
    static_assert(kNamed,
                  "alkn: a checkpoint of a base optimizer of one's own names it: give the class a "
                  "static constexpr const char* kName");
    if constexpr (kNamed) {
      static_assert(std::string_view(Base::kName) != std::string_view(AdamW::kName),
                    "alkn: a class derived from alkn::AdamW needs a kName of its own");
      return Base::kName;
    }
  }
}

template <class Method>
nlohmann::json method_header(const Method& unlearner) {
  const auto texts = option_texts(unlearner.method_options());
  const std::map<std::string, std::string> options(texts.begin(), texts.end());
  return {{"method", Method::method_name()},
          {"objective", Method::ObjectiveType::kName},
          {"mask", Method::MaskType::kName},
          {"ending", Method::EndingType::kName},
          {"base", base_name<typename Method::BaseType>()},
          {"options", options}};
}

/// What arrays there are, one line each: a damaged name must not go unnoticed. No stream writes it:
/// the text must not depend on the program's locale.
inline std::vector<std::string> manifest(const std::map<std::string, Tensor>& arrays) {
  std::vector<std::string> lines;
  for (const auto& [name, array] : arrays) {
    if (name == kHeaderName) continue;
    lines.push_back(fmt::format("{} {} [{}]", name, c10::toString(array.scalar_type()),
                                fmt::join(array.sizes(), ", ")));
  }
  return lines;
}

/// Names the first array whose name JSON cannot hold.
[[noreturn]] inline void refuse_names(const io::NamedTensors& arrays,
                                      const std::filesystem::path& path) {
  std::string bad;
  for (const auto& [name, array] : arrays) {
    const auto replaced =
        nlohmann::json(name).dump(-1, ' ', false, nlohmann::json::error_handler_t::ignore);
    if (bad.empty() && nlohmann::json::parse(replaced) != nlohmann::json(name)) bad = name;
  }
  TORCH_CHECK_VALUE(false, "alkn::save_checkpoint: expected names in UTF-8, got \"",
                    io::printable(bad), "\" (", path.string(), ")");
}

/// Gives LibTorch's CPU generator a state; what it had is back at the end, unless it is to keep it.
class GeneratorState {
 public:
  GeneratorState(const Tensor& state, const std::filesystem::path& path)
      : generator_(at::detail::getDefaultCPUGenerator()), before_(get()) {
    try {
      set(state);
    } catch (const c10::Error&) {  // which has changed nothing
      TORCH_CHECK(false, "alkn::load_checkpoint: expected a state of the CPU's generator, ",
                  "got another (", path.string(), ")");
    }
  }
  ~GeneratorState() {
    if (before_.defined()) set(before_);
  }
  GeneratorState(const GeneratorState&) = delete;
  GeneratorState& operator=(const GeneratorState&) = delete;
  void keep() { before_ = Tensor(); }

 private:
  Tensor get() {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    return generator_.get_state();
  }
  void set(const Tensor& state) {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    generator_.set_state(state);
  }
  at::Generator generator_;
  Tensor before_;
};

/// Reads a checkpoint and compares everything that can be compared without an unlearner.
/// @returns its arrays by name
/// @throws std::runtime_error; c10::Error for another version, or for no checkpoint at all
inline std::map<std::string, Tensor> read_checkpoint(const std::filesystem::path& path,
                                                     nlohmann::json& header) {
  const io::SafetensorsFile file(path);
  const auto version = file.metadata().find(kCheckpointKey);
  TORCH_CHECK(version != file.metadata().end(),
              "alkn::load_checkpoint: expected a checkpoint, got another safetensors file (",
              path.string(), ")");
  TORCH_CHECK(version->second == "1" || version->second == std::to_string(kCheckpointVersion),
              "alkn::load_checkpoint: expected a checkpoint of version 1 or ", kCheckpointVersion,
              ", got version ", io::printable(version->second), " (", path.string(), ")");
  TORCH_CHECK(
      file.verify() && file.find(kHeaderName) != nullptr,
      "alkn::load_checkpoint: expected a checkpoint with header and checksum, got one without (",
      path.string(), ")");
  std::map<std::string, Tensor> arrays;
  for (const io::ArrayInfo& array : file.arrays()) {
    arrays.emplace(array.name, io::read_tensor(file, array));
  }
  try {
    header = io::parse_json(tensor_bytes(arrays.at(kHeaderName)));
  } catch (const io::JsonError& error) {
    TORCH_CHECK(false, "alkn::load_checkpoint: expected ", error.expected, " in its header, got ",
                error.got, " (", path.string(), ")");
  }
  TORCH_CHECK(header.is_object() && header.value("arrays", nlohmann::json()) == manifest(arrays),
              "alkn::load_checkpoint: expected the arrays that were saved, got others (",
              path.string(), ")");
  // Version 1 has the compiler's names of types, which are compared nowhere.
  header["version"] = version->second == "1" ? 1 : kCheckpointVersion;
  return arrays;
}

/// Compares method, base and options of the file with the unlearner's.
inline std::vector<std::string> header_differences(const nlohmann::json& mine,
                                                   const nlohmann::json& file) {
  std::vector<std::string> found;
  for (const char* key : {"method", "objective", "mask", "ending", "base"}) {
    const bool compilers = std::string_view(key) != "method" && std::string_view(key) != "mask";
    if (compilers && file.at("version") == 1) continue;
    const auto own = mine.at(key).get<std::string>(), saved = file.value(key, std::string());
    if (own != saved)
      found.push_back(fmt::format("{} is \"{}\", in the file \"{}\"", key, own, saved));
  }
  if (!found.empty()) return found;
  for (const auto& [name, value] : mine.at("options").items()) {
    const auto own = value.template get<std::string>();
    const auto saved = file.at("options").value(name, std::string());
    if (saved != own) {
      found.push_back(fmt::format("option {} is {}, in the file {}", name, own, saved));
    }
  }
  return found;
}

/// Writes the one file of a process; see save_checkpoint.
template <class Method>
void write_checkpoint(const std::filesystem::path& path, const Method& unlearner,
                      const io::NamedTensors& buffers) {
  io::NamedTensors arrays;
  nlohmann::json header = method_header(unlearner);
  CheckpointArrays(*CoreAccess::core(unlearner)).write(arrays, header);
  for (const auto& [name, buffer] : buffers) arrays.emplace_back("buffer/" + name, buffer);
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    arrays.emplace_back("generator", generator.get_state());
  }
  header["arrays"] = manifest(std::map<std::string, at::Tensor>(arrays.begin(), arrays.end()));
  std::string header_text;
  try {
    header_text = header.dump();
  } catch (const nlohmann::json::exception&) {
    refuse_names(arrays, path);
  }
  arrays.emplace_back(kHeaderName, bytes_tensor(header_text));
  io::save_tensors(path, arrays, {{kCheckpointKey, std::to_string(kCheckpointVersion)}});
}

/// A file that has been compared with the unlearner that is to take it over.
struct CheckedCheckpoint {
  nlohmann::json header;
  std::map<std::string, Tensor> arrays;
};

/// @throws c10::Error listing what differs; see load_checkpoint
template <class Method>
CheckedCheckpoint check_checkpoint(const std::filesystem::path& path, const Method& unlearner,
                                   const io::NamedTensors& buffers) {
  CheckedCheckpoint file;
  file.arrays = read_checkpoint(path, file.header);
  const CheckpointArrays reader(*CoreAccess::core(unlearner));
  std::vector<std::string> differences;
  try {
    differences = header_differences(method_header(unlearner), file.header);
    if (differences.empty()) differences = reader.differences(file.arrays, file.header);
  } catch (const nlohmann::json::exception&) {
    differences.emplace_back("the file's header lacks a field, or has one of another type");
  }
  for (const auto& [name, buffer] : buffers) {
    const auto found = file.arrays.find("buffer/" + name);
    if (found == file.arrays.end())
      differences.push_back(fmt::format("buffer \"{}\" is not in the file", name));
    else if (found->second.sizes() != buffer.sizes() ||
             found->second.scalar_type() != buffer.scalar_type()) {
      differences.push_back(
          fmt::format("buffer \"{}\" has another shape or dtype in the file", name));
    } else if (at::has_internal_overlap(buffer) == at::MemOverlap::Yes) {
      differences.push_back(fmt::format("buffer \"{}\" has no memory for each entry", name));
    }
  }
  TORCH_CHECK(differences.empty(),
              "alkn::load_checkpoint: expected the unlearner that was saved, got differences: ",
              fmt::format("{}", fmt::join(differences, "; ")), " (", path.string(), ")");
  return file;
}

}  // namespace detail
}  // namespace alkn
