// What happens to arrays at the ends of a task, on the CPU: the retain gradient is checked at its
// start, the weights are negated and mask bits counted at its end.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/simd/dispatch.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

namespace detail {

/// Calls fn(begin, size) on the chunks of `size` elements, in parallel.
template <class Fn>
inline void for_chunks(std::int64_t size, const ParallelFor& parallel, Fn fn) {
  parallel((size + tuning::kChunk - 1) / tuning::kChunk,
           [&](std::int64_t first, std::int64_t last) {
             const FlushDenormals flush;
             for (std::int64_t chunk = first; chunk < last; ++chunk) {
               const std::int64_t begin = chunk * tuning::kChunk;
               fn(begin, std::min(tuning::kChunk, size - begin));
             }
           });
}

/// Sums fn(begin, size) over the chunks.
template <class Fn>
inline std::int64_t sum_chunks(std::int64_t size, const ParallelFor& parallel, Fn fn) {
  std::atomic<std::int64_t> sum{0};
  for_chunks(size, parallel, [&](std::int64_t begin, std::int64_t count) {
    sum.fetch_add(fn(begin, count), std::memory_order_relaxed);
  });
  return sum.load();
}

}  // namespace detail

/// Whether none of values[size] is infinite or NaN: whether their sum of squares, in double, is.
/// Cost: 4 bytes an element.
inline bool all_finite(const float* values, std::int64_t size, const ParallelFor& parallel) {
  const Kernels& k = kernels();
  std::atomic<bool> finite{true};
  detail::for_chunks(size, parallel, [&](std::int64_t begin, std::int64_t count) {
    alignas(64) double lanes[tuning::kSumLanes] = {};
    SumPass pass;
    pass.size = pass.ahead.size = count, pass.grad = values + begin, pass.lanes = lanes;
    k.sum_squares(pass);
    if (!std::isfinite(k.fold(lanes))) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

/// How many parts a sum of so many elements has.
inline std::int64_t sum_parts(std::int64_t size) {
  return (size + tuning::kChunk - 1) / tuning::kChunk;
}

/// The sum of values[size] in double: of chunk after chunk, each by 16 sums of every 16th element.
/// The same bits for any number of threads. Cost: 4 bytes an element.
/// @param sums [sum_parts(size)], overwritten
inline double sum(const float* values, std::int64_t size, const ParallelFor& parallel,
                  double* sums) {
  detail::for_chunks(size, parallel, [&](std::int64_t begin, std::int64_t count) {
    constexpr std::int64_t kLanes = 16;
    double lanes[kLanes] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      lanes[i % kLanes] += static_cast<double>(flushed(values[begin + i]));
    }
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    sums[begin / tuning::kChunk] = sum;
  });
  double total = 0;
  for (std::int64_t i = 0; i < sum_parts(size); ++i) total += sums[i];
  return total;
}
inline double sum(const float* values, std::int64_t size, const ParallelFor& parallel) {
  std::vector<double> sums(static_cast<std::size_t>(sum_parts(size)));
  return sum(values, size, parallel, sums.data());
}

/// param = start - lambda (param - start), the difference rounded once, the rest a fused
/// multiply-add.
/// @param param [size] fp32, in place
/// @param start [size] fp32, the weights at the start of the task
/// Cost: 12 bytes an element.
inline void negate(float* param, const float* start, std::int64_t size, float lambda,
                   const ParallelFor& parallel) {
  const Kernels& k = kernels();
  detail::for_chunks(size, parallel, [&](std::int64_t begin, std::int64_t count) {
    k.negate(param + begin, start + begin, count, lambda);
  });
}

/// How many bits are set.
inline std::int64_t count_bits(const std::uint64_t* mask, std::int64_t num_words,
                               const ParallelFor& parallel) {
  return detail::sum_chunks(num_words, parallel, [&](std::int64_t begin, std::int64_t count) {
    std::int64_t bits = 0;
    for (std::int64_t w = begin; w < begin + count; ++w) bits += __builtin_popcountll(mask[w]);
    return bits;
  });
}

/// How many bits are set in both.
inline std::int64_t overlap(const std::uint64_t* a, const std::uint64_t* b, std::int64_t num_words,
                            const ParallelFor& parallel) {
  return detail::sum_chunks(num_words, parallel, [&](std::int64_t begin, std::int64_t count) {
    std::int64_t bits = 0;
    for (std::int64_t w = begin; w < begin + count; ++w) bits += __builtin_popcountll(a[w] & b[w]);
    return bits;
  });
}

}  // namespace alkn::kernel
