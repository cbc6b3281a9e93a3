// Checkpoints with other contents under checksums that are right again.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <alkn/checkpoint/checkpoint.hpp>

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "bytes.hpp"
#include "method/tiny.hpp"

namespace fuzz {

using at::Tensor;

/// What a checkpoint holds.
struct Contents {
  explicit Contents(const std::filesystem::path& file) {
    for (auto& [name, array] : alkn::io::load_tensors(file)) arrays.emplace(name, array);
    header = nlohmann::json::parse(alkn::detail::tensor_bytes(arrays.at("header")));
    header.erase("arrays");
    arrays.erase("header");
  }
  void write(const std::filesystem::path& file, const std::string& version) const {
    nlohmann::json whole = header;
    if (whole.is_object()) whole["arrays"] = alkn::detail::manifest(arrays);
    alkn::io::NamedTensors all(arrays.begin(), arrays.end());
    all.emplace_back("header", alkn::detail::bytes_tensor(whole.dump()));
    alkn::io::save_tensors(file, all, {{"alkn.checkpoint", version}});
  }
  std::map<std::string, Tensor> arrays;
  nlohmann::json header;
};

/// LibTorch's archives: what is in them LibTorch reads.
inline bool is_archive(const std::string& name) { return name.rfind("base/", 0) == 0; }

inline void forge_array(Contents& contents, Bytes& bytes) {
  auto& arrays = contents.arrays;
  if (arrays.empty()) return;
  const auto entry =
      std::next(arrays.begin(), static_cast<std::ptrdiff_t>(bytes.pick(arrays.size())));
  const auto other =
      std::next(arrays.begin(), static_cast<std::ptrdiff_t>(bytes.pick(arrays.size())));
  const std::string name = entry->first;
  Tensor& array = entry->second;
  const Tensor flat = array.reshape({-1});
  constexpr at::ScalarType kTypes[] = {at::kFloat, at::kDouble, at::kBFloat16,
                                       at::kLong,  at::kByte,   at::kBool};
  switch (bytes.pick(9)) {
    case 0:
      arrays.erase(entry);
      return;
    case 1:
      array = array.to(bytes.one_of(kTypes));
      return;
    case 2:
      array = flat.narrow(0, 0, flat.numel() > 0 ? flat.numel() - 1 : 0).clone();
      return;
    case 3:
      array = at::cat({flat, flat});
      return;
    case 4:
      array = array.unsqueeze(0).clone();
      return;
    case 5:
      array = at::zeros({}, array.options());
      return;
    case 6:
      array = other->second.clone();
      return;
    case 7:
      arrays["other/" + name] = array;
      return;
    default:
      break;
  }
  if (is_archive(name) || flat.numel() == 0) return;
  array = array.clone();
  auto* values = static_cast<std::uint8_t*>(array.mutable_data_ptr());
  const auto at = static_cast<std::size_t>(bytes.next(2)) % array.nbytes();
  for (std::size_t i = at, n = bytes.pick(9); i < array.nbytes() && i < at + n; ++i)
    values[i] = static_cast<std::uint8_t>(bytes.next());
}

inline void forge_header(nlohmann::json& header, Bytes& bytes) {
  static const nlohmann::json kValues[] = {nullptr,
                                           true,
                                           -1,
                                           0,
                                           1,
                                           2,
                                           0.5,
                                           1e300,
                                           -1e300,
                                           std::numeric_limits<std::int64_t>::max(),
                                           std::numeric_limits<std::int64_t>::min(),
                                           std::numeric_limits<std::uint64_t>::max(),
                                           "",
                                           "1",
                                           "text",
                                           nlohmann::json::array(),
                                           nlohmann::json::object(),
                                           nlohmann::json::array({1})};
  nlohmann::json* at = &header;
  while (at->is_structured() && !at->empty() && bytes.pick(8) != 0) {
    const auto number = bytes.pick(at->size());
    if (bytes.pick(16) == 0) {
      at->erase(std::next(at->begin(), static_cast<std::ptrdiff_t>(number)));
      return;
    }
    at = &*std::next(at->begin(), static_cast<std::ptrdiff_t>(number));
  }
  *at = bytes.one_of(kValues);
}

/// Changes a good checkpoint as the bytes say. @returns what it holds then
inline Contents forge_checkpoint(const std::filesystem::path& file, Bytes& bytes) {
  Contents contents(file);
  for (auto n = 1 + bytes.pick(3); n > 0; --n) {
    if (bytes.pick(3) == 0)
      forge_header(contents.header, bytes);
    else
      forge_array(contents, bytes);
  }
  constexpr const char* kVersions[] = {"2", "2", "2", "2", "2", "2", "1", "3", ""};
  contents.write(file, bytes.one_of(kVersions));
  return contents;
}

/// The first thing that a file said and that was not saved again; empty: nothing. Left out is what
/// may be written in several ways: LibTorch's archives, the order of what is remembered, numbers
/// that a flag says are none.
inline std::string lost(const Contents& file, const Contents& saved) {
  for (const auto& [name, array] : file.arrays) {
    if (is_archive(name) || name == "generator" || name.rfind("memory/", 0) == 0) continue;
    if (name == "columns/threshold" || name == "columns/eta") continue;
    const auto found = saved.arrays.find(name);
    if (found == saved.arrays.end() || !tiny::same_bits(array, found->second)) return name;
  }
  const auto& flags = saved.arrays.at("columns/flags");
  for (std::int64_t i = 0; i < flags.numel(); ++i) {
    const auto flag = flags.const_data_ptr<std::int64_t>()[i];
    for (const auto& [name, bit] :
         {std::pair("columns/threshold", 1), std::pair("columns/eta", 2)}) {
      if ((flag & bit) != 0 && !tiny::same_bits(file.arrays.at(name)[i], saved.arrays.at(name)[i]))
        return name;
    }
  }
  for (const char* key : {"num_tasks", "parameters", "task"}) {
    if (file.header.value(key, nlohmann::json()) != saved.header.value(key, nlohmann::json()))
      return std::string("header ") + key;
  }
  return "";
}

}  // namespace fuzz
