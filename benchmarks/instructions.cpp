// The instructions of each pass on 64 Ki elements, with AVX2: run it under callgrind, by
// scripts/instructions.
#include <valgrind/callgrind.h>

#include <cstdio>

#include "passes.hpp"

int main() {
  namespace kernel = alkn::kernel;
  const auto level = kernel::SimdLevel::avx2;  // callgrind has no AVX-512
  if (!kernel::simd_supported(level)) {
    std::fprintf(stderr, "count_instructions: expected a processor with AVX2, got one without\n");
    return 1;
  }
  const alkn_bench::Arrays arrays(kernel::tuning::kChunk);
  std::printf("%s\n%lld\n", __VERSION__, static_cast<long long>(arrays.size));
  for (const alkn_bench::Pass& pass : alkn_bench::kPasses) {
    CALLGRIND_TOGGLE_COLLECT;
    pass.run(kernel::kernels(level), arrays, 0, arrays.size);
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_DUMP_STATS_AT(pass.name);
  }
  return 0;
}
