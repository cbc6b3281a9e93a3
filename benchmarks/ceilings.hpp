// Loops that do nothing but move memory, as wide as the processor can: what every other time is
// compared with.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#define ALKN_BENCH_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ALKN_BENCH_CLONES
#endif

namespace alkn_bench {

/// 28 bytes an element: p, g, m, v read, p, m, v written.
ALKN_BENCH_CLONES static inline void update_sweep(float* __restrict p, const float* __restrict g,
                                                  float* __restrict m, float* __restrict v,
                                                  std::int64_t size) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) {
    m[i] = m[i] * 0.5F + g[i];
    v[i] = v[i] * 0.5F + g[i];
    p[i] = p[i] + g[i] * 1e-3F;
  }
}

/// 8 bytes an element, both read.
ALKN_BENCH_CLONES static inline float read_sweep(const float* __restrict a,
                                                 const float* __restrict b, std::int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < size; ++i) sum += a[i] + b[i];
  return sum;
}

/// 12 bytes an element: both read, the first written.
ALKN_BENCH_CLONES static inline void blend_sweep(float* __restrict p, const float* __restrict s,
                                                 std::int64_t size) {
#pragma omp simd
  for (std::int64_t i = 0; i < size; ++i) p[i] = p[i] + s[i];
}

}  // namespace alkn_bench
