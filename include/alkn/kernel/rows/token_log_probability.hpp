// Row passes of the token log-probability on a CPU: log-sum-exp, softmax gradient, KL divergence.
// C++17, no LibTorch. Vector code for float, BFloat16 and Half is chosen at run time; double is
// plain.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <alkn/kernel/rows/token_log_probability_types.hpp>
#include <alkn/kernel/simd/dispatch.hpp>

namespace alkn::kernel {

/// log p[v] = x[v] - max - log_sum. Two numbers: their sum would lose the digits of log_sum where
/// logits are large.
struct LogSumExp {
  double max;      ///< of the row, exact
  double log_sum;  ///< log of the sum of e^(x - max); NaN if the row holds a NaN or +infinity
};

/// One row pass each, to be called within the life of a FlushDenormals; `size` elements, any
/// alignment. Sums of float, BFloat16 and Half rows are kept in float for 4096 elements and in
/// double beyond.
template <class T>
struct RowFunctions {
  LogSumExp (*log_sum_exp)(const T* x, std::int64_t size);
  /// out = e^(x - max) scale; `bypass`: write past the caches. out may be x.
  void (*scaled_softmax)(const T* x, std::int64_t size, double max, double scale, T* out,
                         bool bypass);
};

/// Those of a KL divergence, in a table of their own: a file compiles what is in the tables that it
/// asks for.
template <class T>
struct DivergenceFunctions {
  /// sum of e^(ref - ref_max) ((ref - ref_max) - (x - max)), a term whose first factor is 0 is 0
  double (*divergence)(const T* ref, const T* x, std::int64_t size, double ref_max, double max);
  /// out = e^(x - max) scale + e^(ref - ref_max) ref_scale
  void (*softmax_difference)(const T* ref, const T* x, std::int64_t size, double ref_max,
                             double max, double ref_scale, double scale, T* out);
};

namespace rows {

inline constexpr std::int64_t kBlock =
    4096;                          ///< elements summed in float: 16 KiB, they fit the first cache
inline constexpr int kGroup = 64;  ///< accumulators of a sum; kBlock is a multiple

}  // namespace rows
}  // namespace alkn::kernel

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic \
    push  // g++ 12 calls the undefined sources of its own intrinsics uninitialized
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace alkn::kernel::scalar::row_passes {
#define ALKN_ROW_SET 1
#include <alkn/kernel/rows/token_log_probability_vector.inl>
//
#include <alkn/kernel/rows/token_log_probability_body.inl>
#undef ALKN_ROW_SET
}  // namespace alkn::kernel::scalar::row_passes

#if defined(ALKN_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,popcnt")
#endif
namespace alkn::kernel::avx2::row_passes {
#define ALKN_ROW_SET 256
#include <alkn/kernel/rows/token_log_probability_vector.inl>
//
#include <alkn/kernel/rows/token_log_probability_body.inl>
#undef ALKN_ROW_SET
}  // namespace alkn::kernel::avx2::row_passes
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
namespace alkn::kernel::avx512::row_passes {
#define ALKN_ROW_SET 512
#include <alkn/kernel/rows/token_log_probability_vector.inl>
//
#include <alkn/kernel/rows/token_log_probability_body.inl>
#undef ALKN_ROW_SET
}  // namespace alkn::kernel::avx512::row_passes
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // ALKN_X86

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace alkn::kernel {

namespace rows {

/// The same passes in double, straight from the formulas.
namespace real {

inline LogSumExp log_sum_exp(const double* x, std::int64_t size) {
  double most = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < size; ++i) most = x[i] > most ? x[i] : most;
  const double shift = std::isinf(most) && most < 0 ? 0.0 : most;
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) sum += std::exp(x[i] - shift);
  return {most, std::log(sum)};
}

inline void scaled_softmax(const double* x, std::int64_t size, double max, double scale,
                           double* out, bool) {
  for (std::int64_t i = 0; i < size; ++i) out[i] = std::exp(x[i] - max) * scale;
}

inline double divergence(const double* ref, const double* x, std::int64_t size, double ref_max,
                         double max) {
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const double e = std::exp(ref[i] - ref_max);
    if (!(e <= 0)) sum = std::fma(e, (ref[i] - ref_max) - (x[i] - max), sum);
  }
  return sum;
}

inline void softmax_difference(const double* ref, const double* x, std::int64_t size,
                               double ref_max, double max, double ref_scale, double scale,
                               double* out) {
  for (std::int64_t i = 0; i < size; ++i) {
    const double p_ref = std::exp(ref[i] - ref_max) * ref_scale;
    out[i] = std::fma(std::exp(x[i] - max), scale, p_ref);
  }
}

inline constexpr RowFunctions<double> kRowFunctions{log_sum_exp, scaled_softmax};
inline constexpr DivergenceFunctions<double> kDivergenceFunctions{divergence, softmax_difference};

}  // namespace real

template <class T>
struct Chosen {
  static const RowFunctions<T>& rows(SimdLevel level) {
#if defined(ALKN_X86)
    if (level == SimdLevel::avx512) return avx512::row_passes::kRowFunctions<T>;
    if (level == SimdLevel::avx2) return avx2::row_passes::kRowFunctions<T>;
#endif
    static_cast<void>(level);
    return scalar::row_passes::kRowFunctions<T>;
  }
  static const DivergenceFunctions<T>& divergence(SimdLevel level) {
#if defined(ALKN_X86)
    if (level == SimdLevel::avx512) return avx512::row_passes::kDivergenceFunctions<T>;
    if (level == SimdLevel::avx2) return avx2::row_passes::kDivergenceFunctions<T>;
#endif
    static_cast<void>(level);
    return scalar::row_passes::kDivergenceFunctions<T>;
  }
};

template <>
struct Chosen<double> {
  static const RowFunctions<double>& rows(SimdLevel) { return real::kRowFunctions; }
  static const DivergenceFunctions<double>& divergence(SimdLevel) {
    return real::kDivergenceFunctions;
  }
};

}  // namespace rows

/// The passes for rows of T (float, double, BFloat16, Half) in the instruction set `level`, which
/// the processor must have. All levels give the same bits.
template <class T>
const RowFunctions<T>& row_functions(SimdLevel level = simd_level()) {
  return rows::Chosen<T>::rows(level);
}
template <class T>
const DivergenceFunctions<T>& divergence_functions(SimdLevel level = simd_level()) {
  return rows::Chosen<T>::divergence(level);
}

/// To be called by a thread after passes that bypass the caches: others see what was written.
inline void finish_streams() {
#if defined(ALKN_X86)
  _mm_sfence();
#endif
}

}  // namespace alkn::kernel
