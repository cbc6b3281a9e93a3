// The threads of LibTorch, for the kernels.
#pragma once

#include <ATen/Parallel.h>
#include <alkn/kernel/parallel.hpp>

#include <cstdint>

#if !defined(_OPENMP)
#error \
    "alkn: compile with -fopenmp, as LibTorch was: without it at::parallel_for is silently serial"
#endif

namespace alkn::detail {

/// LibTorch's own thread pool, as the kernels see it.
inline kernel::ParallelFor aten_parallel() {
  static constexpr auto kRun = [](std::int64_t num_items, kernel::RangeBody body) {
    at::parallel_for(0, num_items, 1, body);
  };
  return {kRun, at::get_num_threads()};
}

}  // namespace alkn::detail
