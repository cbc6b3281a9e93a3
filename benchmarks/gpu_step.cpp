// The step on a GPU beside at::_fused_adamw_, plain operations and a copy, in one run, arms in
// turn; then the parameters of Llama-2-7B, where there is room. Built and run by
// scripts/gpu_check.sh; prints a table and writes JSON. Without a GPU: a message, and 77.
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>

#include <alkn/alkn.hpp>
#include <alkn/kernel/cuda/tuning.hpp>
#include <alkn/tensor/bits.hpp>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gpu_report.hpp"
#include "plain_operations.hpp"

namespace {

using alkn::Backend;
using alkn::detail::StepRunner;
using alkn::detail::StepSlot;
using alkn::kernel::MaskKind;
using alkn::kernel::StepArgs;
using alkn_bench::PlainOperations;
using alkn_bench::gpu::Report;
using alkn_bench::gpu::Settings;
using alkn_bench::gpu::Times;
using at::Tensor;

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

/// Milliseconds between two events around `body`: of the device, its waits for the host among them.
double time_of(const std::function<void()>& body) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  check(cudaEventRecord(begin, nullptr));
  body();
  check(cudaEventRecord(end, nullptr));
  check(cudaEventSynchronize(end));
  float ms = 0;
  check(cudaEventElapsedTime(&ms, begin, end));
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  return static_cast<double>(ms);
}

struct Arm {
  Times times;
  std::function<void()> run;
};

/// Gives every arm a step in every round, after two rounds that do not count.
std::vector<Times> measured(std::vector<Arm> arms, int rounds) {
  for (int round = -2; round < rounds; ++round) {
    for (Arm& arm : arms) {
      const double ms = time_of(arm.run);
      if (round >= 0) arm.times.ms.push_back(ms);
    }
  }
  std::vector<Times> times;
  for (Arm& arm : arms) times.push_back(std::move(arm.times));
  return times;
}

Tensor normal(std::int64_t size, at::ScalarType type, double deviation) {
  return at::empty({size}, at::TensorOptions(type).device(at::kCUDA, 0)).normal_(0, deviation);
}

/// All that a step reads and writes: in fp32, or of a bfloat16 model with fp32 masters and the
/// compact state.
std::vector<StepSlot> slots_of(const std::vector<std::int64_t>& sizes, bool compact) {
  const auto type = compact ? at::kBFloat16 : at::kFloat;
  std::vector<StepSlot> slots;
  for (const std::int64_t size : sizes) {
    StepSlot s;
    s.param = normal(size, type, 0.02);
    if (compact) s.master = s.param->to(at::kFloat);
    s.grad = normal(size, type, 1e-3);
    s.retain = normal(size, type, 1e-3);
    s.exp_avg = at::zeros_like(s.param);
    s.exp_avg_sq = at::zeros_like(s.param);
    s.score = at::zeros_like(s.param);
    s.mask = at::zeros({alkn::detail::num_mask_words(size)}, s.param->options().dtype(at::kLong));
    s.adamw.lr = s.adamw.lr_used = 1e-5;
    s.adamw.weight_decay = 0.01;
    s.learns_threshold = true;
    slots.push_back(std::move(s));
  }
  return slots;
}
/// The same tensors in a later task.
std::vector<StepSlot> later(std::vector<StepSlot> slots) {
  for (StepSlot& s : slots) {
    s.used = at::empty_like(s.mask).random_();
    s.learns_threshold = false;
  }
  return slots;
}

StepArgs args_of(MaskKind mask, bool due) {
  StepArgs args;
  args.mask = mask;
  args.threshold_due = due;
  args.max_norm = mask == MaskKind::localized ? 1 : 0;
  args.check_finite = mask == MaskKind::localized;
  args.score.alignment = -1;
  args.score.penalty = 0.5F;
  return args;
}

/// A step of the CUDA kernels over `slots`, which has to outlive it.
std::function<void()> step(std::vector<StepSlot>& slots, MaskKind mask, bool due) {
  return [&slots, mask, due, runner = std::make_shared<StepRunner>()] {
    runner->run(slots, args_of(mask, due), Backend::cuda);
  };
}

std::function<void()> fused_adamw(const std::vector<StepSlot>& slots) {
  std::vector<Tensor> params, grads, exp_avgs, exp_avg_sqs, steps;
  for (const StepSlot& s : slots) {
    params.push_back(s.param), grads.push_back(s.grad);
    exp_avgs.push_back(s.exp_avg), exp_avg_sqs.push_back(s.exp_avg_sq);
    steps.push_back(at::zeros({}, s.param->options()));
  }
  return [=] {
    at::_fused_adamw_(params, grads, exp_avgs, exp_avg_sqs, {}, steps, 1e-5, 0.9, 0.999, 0.01, 1e-8,
                      false, false);
  };
}

std::function<void()> plain_operations(const std::vector<StepSlot>& slots) {
  std::vector<Tensor> params, retain;
  for (const StepSlot& s : slots) {
    params.push_back(s.param->detach());
    params.back().mutable_grad() = s.grad;
    retain.push_back(s.retain);
  }
  return [plain = std::make_shared<PlainOperations>(params, retain, std::vector<Tensor>())] {
    plain->step();
  };
}

/// 300 tensors beside LibTorch's optimizer, plain operations and a copy.
void measure_steps(const Settings& settings, Report& report) {
  const std::int64_t n = settings.elements;
  const auto sizes = alkn_bench::gpu::uneven_sizes(n, 300);
  std::vector<StepSlot> first = slots_of(sizes, false), second = later(first);
  std::vector<StepSlot> first_compact = slots_of(sizes, true),
                        second_compact = later(first_compact);
  const Tensor from = normal(n, at::kFloat, 1), to = at::empty_like(from);
  constexpr MaskKind kNone = MaskKind::none, kLocalized = MaskKind::localized;
  report.add(measured(
      {{{"copy", n, 8}, [&] { to.copy_(from); }},
       {{"at::_fused_adamw_", n, 28}, fused_adamw(first)},
       {{"alkn::AdamW", n, 28}, step(first, kNone, false)},
       {{"first task", n, 52}, step(first, kLocalized, true)},
       {{"first task, not due", n, 44}, step(first, kLocalized, false)},
       {{"later task", n, 48.125}, step(second, kLocalized, false)},
       {{"first task, bf16, compact state", n, 32}, step(first_compact, kLocalized, true)},
       {{"later task, bf16, compact state", n, 30.125}, step(second_compact, kLocalized, false)},
       {{"plain operations, first task", n, 52}, plain_operations(first)}},
      settings.rounds));
  const char* const fused = "at::_fused_adamw_";
  report.at_least("AdamW, share of the copy's bandwidth", 1 / report.over_floor("alkn::AdamW"),
                  0.92);
  report.at_most("AdamW / fused_adamw", report.ratio("alkn::AdamW", fused), 1.0);
  report.at_most("later task / fused_adamw", report.ratio("later task", fused), 1.80);
  report.at_most("first task / fused_adamw", report.ratio("first task", fused), 1.95);
  report.at_most("first task, bf16, compact state / fused_adamw",
                 report.ratio("first task, bf16, compact state", fused), 1.20);
  report.at_most("later task, bf16, compact state / fused_adamw",
                 report.ratio("later task, bf16, compact state", fused), 1.14);
  report.at_least("plain operations / first task",
                  report.ratio("plain operations, first task", "first task"), 6);
}

/// The parameters of Llama-2-7B as a bfloat16 model with fp32 masters and the compact state.
void measure_llama(const Settings& settings, Report& report) {
  const auto sizes = alkn_bench::gpu::llama_2_7b();
  const std::int64_t n = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  // candidates of two brackets, 4 bytes each, and what the allocator and the tables round up to
  const std::int64_t work = 8 * n / alkn::kernel::cuda::tuning::kCandidatePart + (1 << 30);
  const std::int64_t needed = alkn_bench::gpu::compact_state_bytes(sizes) + work;
  c10::cuda::CUDACachingAllocator::emptyCache();
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total));
  if (static_cast<std::int64_t>(free) < needed) {
    report.add({"Llama-2-7B", needed, static_cast<std::int64_t>(free)});
    return;
  }
  std::vector<StepSlot> first = slots_of(sizes, true), second = later(first);
  report.add(
      measured({{{"Llama-2-7B, first task", n, 32}, step(first, MaskKind::localized, true)},
                {{"Llama-2-7B, later task", n, 30.125}, step(second, MaskKind::localized, false)}},
               settings.rounds));
  for (const char* arm : {"Llama-2-7B, first task", "Llama-2-7B, later task"}) {
    report.at_most(std::string(arm) + " / byte floor", report.over_floor(arm), 1.1);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const Settings settings = alkn_bench::gpu::parse({argv + 1, argv + argc});
  if (!at::hasCUDA()) {
    std::puts("gpu_step: no CUDA device: LibTorch finds none; nothing was measured");
    return 77;
  }
  const alkn_bench::JsonFile file(settings.path);
  const at::NoGradGuard no_grad;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  Report report(properties.name);
  measure_steps(settings, report);
  measure_llama(settings, report);
  report.print();
  file.write(report.json());
  return report.all_met() ? 0 : 1;
} catch (const std::invalid_argument& error) {
  std::fprintf(stderr, "gpu_step: %s\n", error.what());
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "gpu_step: %s\n", error.what());
  return 1;
}
