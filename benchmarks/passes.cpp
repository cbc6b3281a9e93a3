// The passes of a step, one by one, in one thread: how many elements a second on arrays in the
// second-level cache and in memory. Google Benchmark runs it (it finds the number of iterations
// that such short work needs, and filters): --benchmark_filter, --benchmark_out and so on.
#include <benchmark/benchmark.h>

#include <alkn/kernel/arena.hpp>
#include <alkn/kernel/simd.hpp>
#include <alkn/kernel/tuning.hpp>
#include <cstdio>
#include <cstring>

namespace {

namespace kernel = alkn::kernel;

/// The arrays of a tensor; the passes run over it chunk by chunk.
struct Arrays {
  explicit Arrays(std::int64_t count) : size(count) {
    for (float*& array : arrays) {
      array = arena.allocate_array<float>(size);
      for (std::int64_t i = 0; i < size; ++i) {
        array[i] =
            static_cast<float>((i * 7919 + (&array - arrays) * 104729) % 4001 - 2000) * 1e-6F;
      }
    }
    for (std::int64_t i = 0; i < size; ++i) arrays[3][i] = 1e-6F;  // second moments
    mask = arena.allocate_array<std::uint64_t>((size + 63) / 64);
  }
  [[nodiscard]] kernel::UpdatePass update(std::int64_t i, std::int64_t count) const {
    kernel::UpdatePass pass;
    pass.size = count;
    pass.grad = arrays[0] + i, pass.param = arrays[1] + i;
    pass.exp_avg = arrays[2] + i, pass.exp_avg_sq = arrays[3] + i;
    pass.retain = arrays[4] + i, pass.score = arrays[5] + i;
    pass.mask = mask + i / 64;
    return pass;
  }
  kernel::Arena arena;
  std::int64_t size;
  float* arrays[6] = {};
  std::uint64_t* mask = nullptr;
};

double lanes[3 * kernel::tuning::kSumLanes];
float values[kernel::tuning::kChunk + kernel::kCandidateSlack];
std::uint16_t indices[kernel::tuning::kChunk + kernel::kCandidateSlack];

struct Pass {
  const char* name;
  int bytes;
  void (*run)(const kernel::Kernels& k, const Arrays& a, std::int64_t i, std::int64_t count);
};
const Pass kPasses[] = {
    {"sum_squares", 4,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.sum_squares(a.arrays[0] + i, n, lanes);
     }},
    {"sum_products", 8,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.sum_products(a.arrays[0] + i, a.arrays[4] + i, false, n, lanes);
     }},
    {"score_select", 16,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       kernel::PivotCounts counts;
       kernel::Candidates found{values, indices, kernel::tuning::kChunk, 0, false};
       kernel::ScorePass pass;
       pass.size = n, pass.grad = a.arrays[0] + i, pass.retain = a.arrays[4] + i;
       pass.score_in = pass.score_out = a.arrays[5] + i;
       pass.mask = a.mask + i / 64;
       pass.pivots = {-1e-3F, -0.99e-3F, 0.99e-3F, 1e-3F, -1e-6F, 1e-6F, true};
       pass.counts = &counts, pass.candidates = &found;
       k.fp32.score_select(pass);
     }},
    {"update_all", 28,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.fp32.update_all[0](a.update(i, n));
     }},
    {"update_bits", 28,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.fp32.update_bits[0](a.update(i, n));
     }},
    {"update_fused", 40,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       benchmark::DoNotOptimize(k.fp32.update_fused[0](a.update(i, n)));
     }},
    {"negate", 12, [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.negate(a.arrays[1] + i, a.arrays[4] + i, n, 0.5F);
     }}};

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
    for (const Pass& pass : kPasses) {
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
