// Four elements of an array at once: by one access where the array is aligned, one by one elsewhere
// and at the tail. Each array is looked at by itself: a gradient that is not aligned in its bucket
// costs the other arrays of its tensor nothing.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {

/// Four elements as they lie in memory. Converting them waits for the load; loading does not.
struct Raw {
  Bytes16 bytes;
};

/// Where a thread's four elements are: element `at` (a multiple of 4, or a single element) on,
/// `count` of them there (0 to 4).
struct Span {
  std::int64_t at = 0;
  int count = 0;
};
ALKN_HOST_DEVICE inline Span span_at(std::int64_t at, std::int64_t end) {
  const std::int64_t left = end - at;
  return {at, left >= 4 ? 4 : (left > 0 ? static_cast<int>(left) : 0)};
}

/// Whether one access of `Bytes` takes four elements from p on.
template <class Bytes>
ALKN_HOST_DEVICE inline bool at_once(const void* p, const Span& s) {
  return s.count == 4 && reinterpret_cast<std::uintptr_t>(p) % sizeof(Bytes) == 0;
}

template <class Block>
ALKN_DEVICE inline Raw load_raw(const Block& block, const void* data, DType type, const Span& s) {
  Raw raw = {};
  if (type == DType::float32) {
    const auto* p = static_cast<const std::uint32_t*>(data) + s.at;
    if (at_once<Bytes16>(p, s)) {
      raw.bytes = block.load(reinterpret_cast<const Bytes16*>(p));
    } else {
      ALKN_CUDA_UNROLL
      for (int j = 0; j < 4; ++j) raw.bytes.words[j] = j < s.count ? block.load(p + j) : 0;
    }
  } else {
    const auto* p = static_cast<const std::uint16_t*>(data) + s.at;
    if (at_once<Bytes8>(p, s)) {
      const Bytes8 bytes = block.load(reinterpret_cast<const Bytes8*>(p));
      raw.bytes.words[0] = bytes.words[0], raw.bytes.words[1] = bytes.words[1];
    } else {
      ALKN_CUDA_UNROLL
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t half = j < s.count ? block.load(p + j) : std::uint16_t{0};
        raw.bytes.words[j / 2] |= half << (16 * (j % 2));
      }
    }
  }
  return raw;
}

ALKN_HOST_DEVICE inline float element(const Raw& raw, DType type, int j) {
  if (type == DType::float32) return bit_copy<float>(raw.bytes.words[j]);
  const auto half = static_cast<std::uint16_t>(raw.bytes.words[j / 2] >> (16 * (j % 2)));
  return type == DType::bfloat16 ? bfloat16_to_float(half) : half_to_float(half);
}

template <class Block>
ALKN_DEVICE inline void store_floats(const Block& block, float* data, const Span& s,
                                     const float* x) {
  auto* p = reinterpret_cast<std::uint32_t*>(data) + s.at;
  Bytes16 bytes = {};
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) bytes.words[j] = bit_copy<std::uint32_t>(x[j]);
  if (at_once<Bytes16>(p, s)) {
    block.store(reinterpret_cast<Bytes16*>(p), bytes);
  } else {
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j < s.count) block.store(p + j, bytes.words[j]);
    }
  }
}

/// The same of 16 bits each.
template <class Block>
ALKN_DEVICE inline void store_halves(const Block& block, void* data, const Span& s,
                                     const std::uint16_t* halves) {
  auto* p = static_cast<std::uint16_t*>(data) + s.at;
  if (at_once<Bytes8>(p, s)) {
    Bytes8 bytes = {};
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      bytes.words[j / 2] |= static_cast<std::uint32_t>(halves[j]) << (16 * (j % 2));
    }
    block.store(reinterpret_cast<Bytes8*>(p), bytes);
  } else {
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j < s.count) block.store(p + j, halves[j]);
    }
  }
}

/// The same, rounded to 16 bits.
template <class Block>
ALKN_DEVICE inline void store_rounded(const Block& block, void* data, DType type, const Span& s,
                                      const float* x) {
  std::uint16_t halves[4];
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    halves[j] = type == DType::bfloat16 ? float_to_bfloat16(x[j]) : float_to_half(x[j]);
  }
  store_halves(block, data, s, halves);
}

/// Moments or scores: fp32, or bfloat16 that are rounded already, their lower halves zero.
template <class Block>
ALKN_DEVICE inline void store_state(const Block& block, void* data, DType type, const Span& s,
                                    const float* x) {
  if (type == DType::float32) return store_floats(block, static_cast<float*>(data), s, x);
  std::uint16_t halves[4];
  ALKN_CUDA_UNROLL
  for (int j = 0; j < 4; ++j) {
    halves[j] = static_cast<std::uint16_t>(bit_copy<std::uint32_t>(x[j]) >> 16U);
  }
  store_halves(block, data, s, halves);
}

/// The bits of elements at .. at + 3 (at a multiple of 4) of a bit array, or none where there is no
/// array.
template <class Block>
ALKN_DEVICE inline std::uint32_t load_nibble(const Block& block, const std::uint64_t* words,
                                             const Span& s) {
  if (words == nullptr || s.count == 0) return 0;
  const auto* halves = reinterpret_cast<const std::uint32_t*>(words);  // little endian
  return (block.load_common(halves + (s.at >> 5U)) >> (s.at & 31U)) & 15U;
}

}  // namespace alkn::kernel::cuda
