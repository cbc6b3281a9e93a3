// Packed masks as int64 tensors: element i is bit i % 64 of word i / 64. Plain ATen, any device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <alkn/detail/backend.hpp>

#include <array>

namespace alkn::detail {

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

/// The number of set bits of int64 words, on any device.
inline std::int64_t count_bits(const Tensor& words) {
  if (!words.defined() || words.numel() == 0) return 0;
  const Tensor bytes = words.contiguous().view(at::kByte).to(at::kInt);
  std::int64_t count = 0;
  for (int bit = 0; bit < 8; ++bit) {
    count += bytes.bitwise_right_shift(bit).bitwise_and(1).sum().item<std::int64_t>();
  }
  return count;
}

}  // namespace alkn::detail
