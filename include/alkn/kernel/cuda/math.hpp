// The scalar layer under simd/formula.inl for one CUDA thread: every operation rounded once, none
// contracted.
//
// The intrinsics keep their rounding under any -fmad; -prec-div, -prec-sqrt and -ftz of a
// --use_fast_math would change them, which is why the target alkn::cuda appends the flags that undo
// it. On the CPU the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/passes.hpp>

namespace alkn::kernel::cuda {

using F = float;
using M = bool;

/// IEEE's operations. The kernels take what kernel/flush.hpp makes of them.
struct Ieee {
#if defined(__CUDA_ARCH__)
  __host__ __device__ static F add(F a, F b) noexcept { return __fadd_rn(a, b); }
  __host__ __device__ static F sub(F a, F b) noexcept { return __fsub_rn(a, b); }
  __host__ __device__ static F mul(F a, F b) noexcept { return __fmul_rn(a, b); }
  __host__ __device__ static F div(F a, F b) noexcept { return __fdiv_rn(a, b); }
  __host__ __device__ static F fma(F a, F b, F c) noexcept { return __fmaf_rn(a, b, c); }
  __host__ __device__ static F root(F a) noexcept { return __fsqrt_rn(a); }
#else
  ALKN_HOST_DEVICE static F add(F a, F b) noexcept { return a + b; }
  ALKN_HOST_DEVICE static F sub(F a, F b) noexcept { return a - b; }
  ALKN_HOST_DEVICE static F mul(F a, F b) noexcept { return a * b; }
  ALKN_HOST_DEVICE static F div(F a, F b) noexcept { return a / b; }
  ALKN_HOST_DEVICE static F fma(F a, F b, F c) noexcept { return exact_fma(a, b, c); }
  ALKN_HOST_DEVICE static F root(F a) noexcept { return std::sqrt(a); }
#endif
};
ALKN_HOST_DEVICE inline F add(F a, F b) { return flushed(Ieee::add(a, b)); }
ALKN_HOST_DEVICE inline F sub(F a, F b) { return flushed(Ieee::sub(a, b)); }
ALKN_HOST_DEVICE inline F mul(F a, F b) { return Settled<Ieee>::mul(a, b); }
ALKN_HOST_DEVICE inline F div(F a, F b) { return Settled<Ieee>::div(a, b); }
ALKN_HOST_DEVICE inline F fma(F a, F b, F c) { return Settled<Ieee>::fma(a, b, c); }
ALKN_HOST_DEVICE inline F root(F a) { return Ieee::root(a); }
ALKN_HOST_DEVICE inline F operand(F x) { return flushed(x); }
ALKN_HOST_DEVICE inline F set(float x) { return x; }
ALKN_HOST_DEVICE inline F neg(F a) { return -a; }
ALKN_HOST_DEVICE inline F sign_mask(bool keep_sign) {
  return bit_copy<float>(keep_sign ? 0xFFFFFFFFU : 0x7FFFFFFFU);
}
ALKN_HOST_DEVICE inline F bit_and(F a, F b) {
  return bit_copy<float>(bit_copy<std::uint32_t>(a) & bit_copy<std::uint32_t>(b));
}

// Doubles, for the sums: sign and rounding as on the CPU.
using D = double;
ALKN_HOST_DEVICE inline D set_double(double x) { return x; }
ALKN_HOST_DEVICE inline D mul(D a, D b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}
ALKN_HOST_DEVICE inline D fma(D a, D b, D c) { return ::fma(a, b, c); }
ALKN_HOST_DEVICE inline D sign_mask_double(bool keep_sign) {
  return bit_copy<double>(keep_sign ? ~std::uint64_t{0} : ~std::uint64_t{0} >> 1U);
}
ALKN_HOST_DEVICE inline D bit_and(D a, D b) {
  return bit_copy<double>(bit_copy<std::uint64_t>(a) & bit_copy<std::uint64_t>(b));
}

ALKN_HOST_DEVICE inline F blend(M m, F on, F off) { return m ? on : off; }
ALKN_HOST_DEVICE inline F keep_if(M m, F a) { return m ? a : 0.0F; }
ALKN_HOST_DEVICE inline M not_greater_equal(F a, F b) { return !(a >= b); }

using U = std::uint32_t;  // bits of a lane
ALKN_HOST_DEVICE inline U set_bits(std::uint32_t x) { return x; }
ALKN_HOST_DEVICE inline U bits_in(F x) { return bit_copy<std::uint32_t>(x); }
ALKN_HOST_DEVICE inline F value_of(U x) { return bit_copy<float>(x); }
ALKN_HOST_DEVICE inline U add(U a, U b) { return a + b; }
ALKN_HOST_DEVICE inline U mul(U a, U b) { return a * b; }
ALKN_HOST_DEVICE inline U bit_and(U a, U b) { return a & b; }
ALKN_HOST_DEVICE inline U bit_xor(U a, U b) { return a ^ b; }
ALKN_HOST_DEVICE inline U ones_where(M m, U a) { return m ? 0xFFFFFFFFU : a; }
template <int kBits>
ALKN_HOST_DEVICE inline U shift_right(U a) {
  return a >> kBits;
}

ALKN_HOST_DEVICE inline M not_less(F a, F b) { return !(a < b); }
/// y 2^n, n in the low bits of t = 1.5 2^23 + n. A NaN stays one, whatever its bits are: CUDA's
/// have other ones than a CPU's.
ALKN_HOST_DEVICE inline F scale_by_power(F y, F t) {
  if (!(t <= 0 || t >= 0)) return t;
  return bit_copy<float>(bit_copy<std::uint32_t>(y) + (bit_copy<std::uint32_t>(t) << 23U));
}

// The formulas are written once, for every instruction set and for CUDA.
#pragma push_macro("ALKN_INLINE")
#undef ALKN_INLINE
#define ALKN_INLINE ALKN_HOST_DEVICE inline
#include <alkn/kernel/simd/formula.inl>
#pragma push_macro("ALKN_EXPONENTIAL")
#undef ALKN_EXPONENTIAL
#define ALKN_EXPONENTIAL ALKN_HOST_DEVICE inline
namespace plain {
// No result in it is tiny but one that is added to 1: IEEE's operations give the same bits.
ALKN_HOST_DEVICE inline F sub(F a, F b) { return Ieee::sub(a, b); }
ALKN_HOST_DEVICE inline F fma(F a, F b, F c) { return Ieee::fma(a, b, c); }
#include <alkn/kernel/simd/exponential.inl>
}  // namespace plain
using plain::exp_of_negative;
#pragma pop_macro("ALKN_EXPONENTIAL")
#pragma pop_macro("ALKN_INLINE")

}  // namespace alkn::kernel::cuda
