// Tensors in safetensors files.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "alkn/io/safetensors.hpp"

namespace alkn::io {

/// Tensors by name, in an order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The stored type of a tensor. Throws c10::Error for a type that the format does not have here.
inline DType dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return DType::f64;
    case at::kFloat:
      return DType::f32;
    case at::kBFloat16:
      return DType::bf16;
    case at::kHalf:
      return DType::f16;
    case at::kLong:
      return DType::i64;
    case at::kInt:
      return DType::i32;
    case at::kByte:
      return DType::u8;
    case at::kBool:
      return DType::boolean;
    default:
      TORCH_CHECK_VALUE(false, "alkn::io::dtype_of: expected double, float, bfloat16, half, ",
                        "int64, int32, uint8 or bool, got ", type);
  }
}

/// The other way round.
inline at::ScalarType scalar_type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return at::kDouble;
    case DType::f32:
      return at::kFloat;
    case DType::bf16:
      return at::kBFloat16;
    case DType::f16:
      return at::kHalf;
    case DType::i64:
      return at::kLong;
    case DType::i32:
      return at::kInt;
    case DType::u8:
      return at::kByte;
    case DType::boolean:
      break;
  }
  return at::kBool;
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
    held.push_back(tensor.detach().to(at::kCPU).contiguous());
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
