// Which instruction set the CPU kernels use.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include <alkn/kernel/simd/kernels.hpp>

namespace alkn::kernel {

enum class SimdLevel : int { scalar = 0, avx2 = 1, avx512 = 2 };

inline const char* simd_name(SimdLevel level) noexcept {
  return level == SimdLevel::avx512 ? "avx512" : level == SimdLevel::avx2 ? "avx2" : "scalar";
}

/// Whether this processor, and this build, has the instruction set.
inline bool simd_supported(SimdLevel level) noexcept {
#if defined(ALKN_X86)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("popcnt");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return level == SimdLevel::scalar || (level == SimdLevel::avx2 ? has_avx2 : has_avx512);
#else
  return level == SimdLevel::scalar;
#endif
}

namespace detail {

inline void check_simd(SimdLevel level, const char* where) {
  if (simd_supported(level)) return;
  throw std::runtime_error(
      std::string("alkn::kernel::SimdLevel: expected an instruction set of this "
                  "processor, got ") +
      simd_name(level) + " (" + where + ")");
}

/// What ALKN_SIMD asks for, or the best that there is.
inline SimdLevel initial_simd_level() {
  if (const char* name = std::getenv("ALKN_SIMD"); name != nullptr && *name != '\0') {
    for (const SimdLevel level : {SimdLevel::scalar, SimdLevel::avx2, SimdLevel::avx512}) {
      if (std::strcmp(name, simd_name(level)) == 0) {
        check_simd(level, "environment variable ALKN_SIMD");
        return level;
      }
    }
    throw std::runtime_error("alkn::kernel::SimdLevel: expected scalar, avx2 or avx512, got \"" +
                             std::string(name) + "\" (environment variable ALKN_SIMD)");
  }
  for (const SimdLevel level : {SimdLevel::avx512, SimdLevel::avx2}) {
    if (simd_supported(level)) return level;
  }
  return SimdLevel::scalar;
}

inline std::atomic<SimdLevel>& current_simd_level() {
  static std::atomic<SimdLevel> level{initial_simd_level()};
  return level;
}

}  // namespace detail

/// The instruction set in use: the best of the processor, unless the environment variable ALKN_SIMD
/// (scalar, avx2, avx512) or set_simd_level() says otherwise. All give the same bits.
/// @throws std::runtime_error if ALKN_SIMD names none, or one that the processor lacks
inline SimdLevel simd_level() {
  return detail::current_simd_level().load(std::memory_order_relaxed);
}

/// Chooses the instruction set for every later step of the process.
/// @throws std::runtime_error if the processor lacks it
inline void set_simd_level(SimdLevel level) {
  detail::check_simd(level, "set_simd_level");
  detail::current_simd_level().store(level, std::memory_order_relaxed);
}

/// The kernels of an instruction set that the processor has.
inline const Kernels& kernels(SimdLevel level) noexcept {
#if defined(ALKN_X86)
  if (level == SimdLevel::avx512) return avx512::kernels();
  if (level == SimdLevel::avx2) return avx2::kernels();
#endif
  static_cast<void>(level);
  return scalar::kernels();
}
inline const Kernels& kernels() { return kernels(simd_level()); }

}  // namespace alkn::kernel
