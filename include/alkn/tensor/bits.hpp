// Packed masks as int64 tensors: element i is bit i % 64 of word i / 64. Counted by the kernels on
// the CPU and in programs that link alkn::cuda, by plain ATen elsewhere.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <alkn/kernel/cpu/history.hpp>
#include <alkn/tensor/cuda_table.hpp>
#include <alkn/tensor/parallel.hpp>

#include <cstdint>

namespace alkn::detail {

using at::Tensor;

/// Number of 64-bit words that hold one bit for each of `size` elements.
inline std::int64_t num_mask_words(std::int64_t size) { return (size + 63) / 64; }

/// [words] int64 -> [shape] bool
inline Tensor unpack_bits(const Tensor& words, at::IntArrayRef shape) {
  const Tensor shifts = at::arange(64, words.options());
  const Tensor bits = words.unsqueeze(1).bitwise_right_shift(shifts).bitwise_and(1);
  return bits.reshape({-1})
      .narrow(0, 0, c10::multiply_integers(shape))
      .reshape(shape)
      .to(at::kBool);
}

/// [shape] bool -> [words] int64, unused bits zero
inline Tensor pack_bits(const Tensor& mask) {
  const std::int64_t size = mask.numel();
  const std::int64_t words = num_mask_words(size);
  const Tensor flat = at::constant_pad_nd(mask.reshape({-1}).to(at::kLong), {0, words * 64 - size});
  const Tensor shifts = at::arange(64, flat.options());
  return flat.reshape({words, 64}).bitwise_left_shift(shifts).sum(1);
}

/// The kernels that count bits of CUDA words; null where there are none.
inline const CudaTable* mask_kernels(const Tensor& words) {
  return words.is_cuda() && has_cuda_table() ? find_cuda_table(words.device().index()) : nullptr;
}
inline const std::uint64_t* raw_words(const Tensor& words) {
  return reinterpret_cast<const std::uint64_t*>(words.const_data_ptr<std::int64_t>());
}

/// The number of set bits of int64 words, on any device.
inline std::int64_t count_bits(const Tensor& words) {
  if (!words.defined() || words.numel() == 0) return 0;
  if (words.is_cpu()) return kernel::count_bits(raw_words(words), words.numel(), aten_parallel());
  if (const CudaTable* kernels = mask_kernels(words)) {
    return kernels->count_bits(raw_words(words), nullptr, words.numel(), words.device().index());
  }
  const Tensor bytes = words.contiguous().view(at::kByte).to(at::kInt);
  std::int64_t count = 0;
  for (int bit = 0; bit < 8; ++bit) {
    count += bytes.bitwise_right_shift(bit).bitwise_and(1).sum().item<std::int64_t>();
  }
  return count;
}

/// The number of bits that are set in both, of as many words on one device.
inline std::int64_t count_common_bits(const Tensor& a, const Tensor& b) {
  if (a.is_cpu()) {
    return kernel::overlap(raw_words(a), raw_words(b), a.numel(), aten_parallel());
  }
  if (const CudaTable* kernels = mask_kernels(a)) {
    return kernels->count_bits(raw_words(a), raw_words(b), a.numel(), a.device().index());
  }
  return count_bits(a.bitwise_and(b));
}

}  // namespace alkn::detail
