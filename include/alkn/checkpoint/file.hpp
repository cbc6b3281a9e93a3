// A checkpoint's header: the method, its options, its base. What is written into a file of one
// process, and what is compared with it.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/ranges.h>
#include <alkn/checkpoint/arrays.hpp>
#include <alkn/checkpoint/contents.hpp>
#include <alkn/checkpoint/saved_file.hpp>
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

/// Throws unless what was read is what the unlearner was; see load_checkpoint.
/// @param path for the error
template <class Method>
void check_checkpoint(const CheckpointContents& file, const std::filesystem::path& path,
                      const Method& unlearner, const io::NamedTensors& buffers) {
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
}

}  // namespace detail
}  // namespace alkn
