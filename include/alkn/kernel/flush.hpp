// Numbers too small to count: what a pass does with denormals, and the mode of the processor that
// does it.
//
// In a pass every operation takes a denormal operand (below 2^-126) for a zero of its sign, and
// gives such a zero where its result, rounded to 24 bits, is below 2^-126. That is what x86 does
// with its flags FTZ and DAZ, which cost nothing and spare the hundred cycles that a denormal costs
// many processors. Others differ (ARM decides before rounding, CUDA does not flush): there the
// passes run in IEEE arithmetic and settle each result by the functions below, with the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define ALKN_X86 1
#endif

#if defined(__CUDACC__)
#define ALKN_HOST_DEVICE __host__ __device__
#else
#define ALKN_HOST_DEVICE
#endif

namespace alkn::kernel {

template <class To, class From>
ALKN_HOST_DEVICE inline To bit_copy(const From& from) noexcept {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

/// The mode of the passes, for the thread and the lifetime of the object; then the caller's again.
/// The caller's own mode (at::set_flush_denormal) changes no bit of a pass.
class FlushDenormals {
 public:
#if defined(ALKN_X86)
  FlushDenormals() noexcept : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlush); }
  ~FlushDenormals() { _mm_setcsr(before_); }
#elif defined(__aarch64__)
  FlushDenormals() noexcept : before_(mode()) { set_mode(before_ & ~kFlush); }
  ~FlushDenormals() { set_mode(before_); }
#else
  FlushDenormals() noexcept {}
  ~FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(ALKN_X86)
  static constexpr unsigned kFlush = 0x8040;  // FTZ, DAZ
  unsigned before_;
#elif defined(__aarch64__)
  static constexpr std::uint64_t kFlush = std::uint64_t{1} << 24U;  // FZ: off, see above
  static std::uint64_t mode() noexcept {
    std::uint64_t fpcr;
    asm volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void set_mode(std::uint64_t fpcr) noexcept { asm volatile("msr fpcr, %0" : : "r"(fpcr)); }
  std::uint64_t before_;
#endif
};

/// x, or a zero of its sign where x is denormal.
ALKN_HOST_DEVICE inline float flushed(float x) noexcept {
  const auto bits = bit_copy<std::uint32_t>(x);
  return (bits & 0x7F800000U) == 0 ? bit_copy<float>(bits & 0x80000000U) : x;
}

/// The nearest float, or a zero where that would be denormal, whatever the caller's mode is.
ALKN_HOST_DEVICE inline float flushed_float(double x) noexcept {
  const auto bits = bit_copy<std::uint64_t>(x);
  const bool tiny = (bits & ~(std::uint64_t{1} << 63U)) < 0x3810000000000000U;  // 2^-126
  return tiny ? bit_copy<float>(static_cast<std::uint32_t>(bits >> 32U) & 0x80000000U)
              : static_cast<float>(x);
}

/// What a pass makes of r, the IEEE result of an operation without denormal operands.
/// @param scaled gives 2^64 times the result, rounded; called only where r is 2^-126: such an r may
/// be the rounding to a denormal's fewer bits of a result that is below it in 24 bits
template <class Scaled>
ALKN_HOST_DEVICE inline float settled(float r, Scaled scaled) noexcept {
  const auto bits = bit_copy<std::uint32_t>(r);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x00800000U) return r;
  if (magnitude == 0x00800000U) {
    const float exact = scaled();
    if (!(exact < 0x1p-62F && exact > -0x1p-62F)) return r;
  }
  return bit_copy<float>(bits & 0x80000000U);
}

/// The operations of a pass in IEEE arithmetic; `Ieee` has its mul, fma and div, rounded once.
/// To get 2^64 times a result, operands are scaled that are too small for it to overflow: of a
/// product near 2^-126 the smaller factor, of a sum near it both terms.
template <class Ieee>
struct Settled {
  ALKN_HOST_DEVICE static bool smaller(float a, float b) noexcept {
    return (bit_copy<std::uint32_t>(a) & 0x7FFFFFFFU) < (bit_copy<std::uint32_t>(b) & 0x7FFFFFFFU);
  }
  ALKN_HOST_DEVICE static float mul(float a, float b) noexcept {
    return settled(Ieee::mul(a, b), [&] {
      return smaller(a, b) ? Ieee::mul(Ieee::mul(a, 0x1p64F), b)
                           : Ieee::mul(a, Ieee::mul(b, 0x1p64F));
    });
  }
  ALKN_HOST_DEVICE static float fma(float a, float b, float c) noexcept {
    return settled(Ieee::fma(a, b, c), [&] {
      const float more = Ieee::mul(c, 0x1p64F);
      return smaller(a, b) ? Ieee::fma(Ieee::mul(a, 0x1p64F), b, more)
                           : Ieee::fma(a, Ieee::mul(b, 0x1p64F), more);
    });
  }
  ALKN_HOST_DEVICE static float div(float a, float b) noexcept {
    return settled(Ieee::div(a, b), [&] { return Ieee::div(Ieee::mul(a, 0x1p64F), b); });
  }
};

}  // namespace alkn::kernel
