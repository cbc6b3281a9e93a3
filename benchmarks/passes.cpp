// The passes of a step, one by one, in one thread: how many elements a second on arrays in the
// second-level cache and in memory. Google Benchmark runs it (it finds the number of iterations
// that such short work needs, and filters): --benchmark_filter, --benchmark_out and so on.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "passes.hpp"

namespace {

namespace kernel = alkn::kernel;
using alkn_bench::Arrays;
using alkn_bench::Pass;

void time_pass(benchmark::State& state, const Pass& pass, kernel::SimdLevel level) {
  const Arrays arrays(state.range(0));
  const kernel::Kernels& k = kernel::kernels(level);
  for (auto _ : state) {
    for (std::int64_t i = 0; i < arrays.size; i += kernel::tuning::kChunk) {
      pass.run(k, arrays, i, std::min(kernel::tuning::kChunk, arrays.size - i));
    }
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * arrays.size);
  state.SetBytesProcessed(state.iterations() * arrays.size * pass.bytes);
}

}  // namespace

int main(int argc, char** argv) {
  if (std::strcmp(ALKN_BUILD_TYPE, "Release") != 0) {
    std::fprintf(stderr, "bench_passes: expected a Release build, got \"%s\"\n", ALKN_BUILD_TYPE);
    return 1;
  }
  for (const auto level :
       {kernel::SimdLevel::scalar, kernel::SimdLevel::avx2, kernel::SimdLevel::avx512}) {
    if (!kernel::simd_supported(level)) continue;
    for (const Pass& pass : alkn_bench::kPasses) {
      const std::string name = std::string(pass.name) + "/" + kernel::simd_name(level);
      benchmark::RegisterBenchmark(name.c_str(), time_pass, pass, level)
          ->Arg(1 << 14)
          ->Arg(1 << 24)
          ->MinTime(0.05);
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
