// Tensors in safetensors files.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "alkn/io/safetensors.hpp"
#include "alkn/tensor/plain_values.hpp"

namespace alkn::io {

/// Tensors by name, in an order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

namespace detail {

/// Which type of LibTorch stores which of the format.
inline constexpr std::array<std::pair<at::ScalarType, DType>, 17> kScalarTypes{{
    {at::kDouble, DType::f64},
    {at::kFloat, DType::f32},
    {at::kBFloat16, DType::bf16},
    {at::kHalf, DType::f16},
    {at::kLong, DType::i64},
    {at::kInt, DType::i32},
    {at::kByte, DType::u8},
    {at::kBool, DType::boolean},
    {at::kUInt64, DType::u64},
    {at::kComplexFloat, DType::c64},
    {at::kUInt32, DType::u32},
    {at::kShort, DType::i16},
    {at::kUInt16, DType::u16},
    {at::kChar, DType::i8},
    {at::kFloat8_e4m3fn, DType::f8_e4m3},
    {at::kFloat8_e5m2, DType::f8_e5m2},
    {at::kFloat8_e8m0fnu, DType::f8_e8m0},
}};

}  // namespace detail

/// The stored type of a tensor. Throws c10::ValueError for a type that the format does not have
/// here.
inline DType dtype_of(at::ScalarType type) {
  for (const auto& [scalar_type, dtype] : detail::kScalarTypes) {
    if (scalar_type == type) return dtype;
  }
  std::string names;
  for (const auto& [scalar_type, dtype] : detail::kScalarTypes) {
    names += std::string(" ") + c10::toString(scalar_type);
  }
  TORCH_CHECK_VALUE(false, "alkn::io::dtype_of: expected a type among", names, ", got ", type);
}

/// The other way round.
inline at::ScalarType scalar_type_of(DType dtype) {
  return std::find_if(detail::kScalarTypes.begin(), detail::kScalarTypes.end(),
                      [&](const auto& entry) { return entry.second == dtype; })
      ->first;
}

/// Writes tensors of any device, strided or not, to `path`, whole or not at all.
/// Throws c10::Error for undefined or sparse tensors and other types; else as save_safetensors.
/// Cost: one copy of each tensor that is not contiguous on the CPU, all held until the end.
inline void save_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                         const Metadata& metadata = {}) {
  std::vector<at::Tensor> held;
  std::vector<ArrayView> arrays;
  for (const auto& [name, tensor] : tensors) {
    TORCH_CHECK_VALUE(tensor.defined() && tensor.layout() == at::kStrided,
                      "alkn::io::save_tensors: expected a defined, strided tensor, got another (\"",
                      name, "\")");
    held.push_back(alkn::detail::plain_values(tensor.detach().to(at::kCPU)));
    arrays.push_back({name, dtype_of(tensor.scalar_type()), tensor.sizes().vec(),
                      held.back().const_data_ptr(),
                      static_cast<std::int64_t>(held.back().nbytes())});
  }
  save_safetensors(path, arrays, metadata);
}

/// One array of an opened file as a new CPU tensor.
inline at::Tensor read_tensor(const SafetensorsFile& file, const ArrayInfo& array) {
  at::Tensor tensor = at::empty(array.shape, scalar_type_of(array.dtype));
  file.read(array, tensor.mutable_data_ptr());
  return tensor;
}

/// All tensors of a file, on the CPU, in the order of their data.
/// Throws std::runtime_error for a missing, truncated or corrupted file.
inline NamedTensors load_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  file.verify();
  NamedTensors tensors;
  for (const ArrayInfo& array : file.arrays()) {
    tensors.emplace_back(array.name, read_tensor(file, array));
  }
  return tensors;
}

}  // namespace alkn::io
