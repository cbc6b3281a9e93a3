// One set of kernel bodies, compiled once per instruction set and chosen at run time.
//
// Each namespace below includes a vector layer (scalar.inl, avx2.inl, avx512.inl) and then the same
// bodies. The pragmas give every function in between the instruction set as its target, whatever
// the consumer compiles for.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#define ALKN_X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/passes.hpp>
#include <alkn/kernel/tuning.hpp>

// Helpers of the kernels are inlined whatever their size: their arguments live in registers.
#define ALKN_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define ALKN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ALKN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace alkn::kernel::detail {

/// Prefetches `kBytes` bytes from an address on. It is a number, since it may lie past an array's
/// end, where no pointer may be computed.
template <int kBytes>
ALKN_INLINE void prefetch_address(std::uintptr_t at) {
  ALKN_UNROLL
  for (std::uintptr_t line = 0; line < kBytes; line += 64) {
    __builtin_prefetch(
        reinterpret_cast<const void*>(at + line));  // NOLINT(performance-no-int-to-ptr)
  }
}
template <int kBytes>
ALKN_INLINE void prefetch(const void* p, std::int64_t offset) {
  prefetch_address<kBytes>(reinterpret_cast<std::uintptr_t>(p) +
                           static_cast<std::uintptr_t>(offset));
}

}  // namespace alkn::kernel::detail

// The vector layer stands apart from the bodies, so that no formatter sorts it after them.
namespace alkn::kernel::scalar {
#include <alkn/kernel/simd/scalar.inl>

#include <alkn/kernel/simd/bodies.inl>
}  // namespace alkn::kernel::scalar

#if defined(ALKN_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif
namespace alkn::kernel::avx2 {
#include <alkn/kernel/simd/avx2.inl>

#include <alkn/kernel/simd/bodies.inl>
}  // namespace alkn::kernel::avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                           \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt")
#endif
namespace alkn::kernel::avx512 {
#include <alkn/kernel/simd/avx512.inl>

#include <alkn/kernel/simd/bodies.inl>
}  // namespace alkn::kernel::avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ALKN_X86
