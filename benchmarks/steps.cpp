// The steps of the table under Google Benchmark, for its filters, repetitions, JSON and compare.py.
// The ratios of docs/benchmarks.md come from bench_step_cost, whose arms take turns step by step.
//
//   bench_steps --benchmark_filter='AdamW|first task' --benchmark_repetitions=9
//               --benchmark_enable_random_interleaving=true
#include <benchmark/benchmark.h>

#include "arms.hpp"

namespace {

/// Steps over one tensor of 16 Mi elements, with fresh gradients before each.
void time_steps(benchmark::State& state, const alkn_bench::ArmMaker& maker) {
  alkn_bench::Model model("one");
  const alkn_bench::Arm arm = maker.make(model);
  arm.step();  // makes its state
  for (auto _ : state) {
    state.PauseTiming();
    model.next_gradients();
    state.ResumeTiming();
    arm.step();
  }
  const auto steps = static_cast<double>(state.iterations());
  state.SetItemsProcessed(state.iterations() * model.elements());
  state.SetBytesProcessed(
      static_cast<std::int64_t>(steps * arm.bytes * static_cast<double>(model.elements())));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    alkn_bench::require_release(ALKN_BUILD_TYPE);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_steps: {}\n", error.what());
    return 1;
  }
  for (const alkn_bench::ArmMaker& maker : alkn_bench::all_arms(/*slow=*/1)) {
    benchmark::RegisterBenchmark(maker.name.c_str(), time_steps, maker)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime()
        ->MinTime(0.2);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
