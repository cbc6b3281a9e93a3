// The step on a GPU beside at::_fused_adamw_ and a copy, in one run, arms in turn. Built and run by
// scripts/gpu_check.sh; prints a table and writes JSON. Without a GPU: a message, and 77.
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <alkn/alkn.hpp>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using alkn::Backend;
using alkn::detail::StepRunner;
using alkn::detail::StepSlot;
using alkn::kernel::MaskKind;
using alkn::kernel::StepArgs;
using at::Tensor;

void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

/// Milliseconds between two events around `body`.
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
  std::string name;
  std::function<void()> run;
  double bytes = 0;  ///< that cannot be less, an element
  std::vector<double> times = {};

  [[nodiscard]] double median() const {
    std::vector<double> sorted = times;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

/// 256 Mi elements in 300 tensors, of sizes that differ by a factor of a hundred.
std::vector<std::int64_t> sizes(std::int64_t elements, std::int64_t count) {
  std::vector<std::int64_t> list;
  std::int64_t left = elements;
  for (std::int64_t i = 0; i < count - 1; ++i) {
    const std::int64_t size = elements / count * (i % 10 == 0 ? 500 : i % 10 == 1 ? 5 : 60) / 100;
    list.push_back(size);
    left -= size;
  }
  list.push_back(left);
  return list;
}

/// All that a step reads and writes.
struct State {
  std::vector<StepSlot> slots;
  std::vector<Tensor> params, grads, exp_avgs, exp_avg_sqs, steps;

  explicit State(const std::vector<std::int64_t>& list) {
    const auto options = at::TensorOptions(at::kFloat).device(at::kCUDA, 0);
    for (const std::int64_t size : list) {
      StepSlot s;
      s.param = at::randn({size}, options).mul_(0.02);
      s.grad = at::randn({size}, options).mul_(1e-3);
      s.exp_avg = at::zeros({size}, options);
      s.exp_avg_sq = at::zeros({size}, options);
      s.retain = at::randn({size}, options).mul_(1e-3);
      s.score = at::zeros({size}, options);
      const auto words = options.dtype(at::kLong);
      s.mask = at::zeros({alkn::detail::num_mask_words(size)}, words);
      s.adamw.lr = s.adamw.lr_used = 1e-5;
      s.adamw.weight_decay = 0.01;
      s.learns_threshold = true;
      params.push_back(s.param), grads.push_back(s.grad);
      exp_avgs.push_back(s.exp_avg), exp_avg_sqs.push_back(s.exp_avg_sq);
      steps.push_back(at::zeros({}, options));
      slots.push_back(std::move(s));
    }
  }
};

StepArgs args_of(MaskKind mask, bool due) {
  StepArgs args;
  args.mask = mask;
  args.threshold_due = due;
  args.max_norm = mask == MaskKind::localized ? 1 : 0;
  args.check_finite = mask == MaskKind::localized;
  args.alignment = -1;
  args.penalty = 0.5F;
  return args;
}

struct Bar {
  std::string name;
  double value, bound;
  bool at_most;
  [[nodiscard]] bool met() const { return at_most ? value <= bound : value >= bound; }
};

int run(const std::string& path, std::int64_t elements, int rounds) {
  const auto options = at::TensorOptions(at::kFloat).device(at::kCUDA, 0);
  const std::vector<std::int64_t> list = sizes(elements, 300);
  const auto total = static_cast<double>(elements);
  State state(list);
  std::vector<StepSlot> plain = state.slots, later = state.slots;
  for (StepSlot& s : later) {
    s.used = at::randint(std::int64_t{1} << 62, s.mask.sizes(), s.mask.options());
    s.learns_threshold = false;
  }
  const Tensor from = at::zeros({elements}, options), to = at::empty({elements}, options);
  StepRunner adamw, first, idle, second, aten;
  std::vector<Arm> arms;
  arms.push_back({"copy", [&] { to.copy_(from); }, 8});
  arms.push_back({"at::_fused_adamw_",
                  [&] {
                    at::_fused_adamw_(state.params, state.grads, state.exp_avgs, state.exp_avg_sqs,
                                      {}, state.steps, 1e-5, 0.9, 0.999, 0.01, 1e-8, false, false);
                  },
                  28});
  arms.push_back({"alkn::AdamW",
                  [&] { adamw.run(plain, args_of(MaskKind::none, false), Backend::cuda); }, 28});
  arms.push_back(
      {"first task, exact threshold",
       [&] { first.run(state.slots, args_of(MaskKind::localized, true), Backend::cuda); }, 52});
  arms.push_back(
      {"first task, not due",
       [&] { idle.run(state.slots, args_of(MaskKind::localized, false), Backend::cuda); }, 44});
  arms.push_back({"later task",
                  [&] { second.run(later, args_of(MaskKind::localized, false), Backend::cuda); },
                  48.125});
  arms.push_back({"plain operations, first task",
                  [&] { aten.run(state.slots, args_of(MaskKind::localized, true), Backend::aten); },
                  52});
  for (int round = -2; round < rounds; ++round) {
    for (Arm& arm : arms) {
      const double ms = time_of(arm.run);
      if (round >= 0) arm.times.push_back(ms);
    }
  }
  const double copy = 8 * total / arms[0].median();
  std::printf("%-30s %9s %9s %8s %8s\n", "arm", "ms", "GB/s", "of copy", "x fused");
  for (const Arm& arm : arms) {
    const double rate = arm.bytes * total / arm.median();
    std::printf("%-30s %9.3f %9.1f %8.3f %8.3f\n", arm.name.c_str(), arm.median(), rate * 1e-6,
                rate / copy, arm.median() / arms[1].median());
  }
  const double fused = arms[1].median();
  const std::vector<Bar> bars = {
      {"AdamW, share of the copy's bandwidth", 28 * total / arms[2].median() / copy, 0.92, false},
      {"AdamW / fused_adamw", arms[2].median() / fused, 1.0, true},
      {"later task / fused_adamw", arms[5].median() / fused, 1.80, true},
      {"first task, exact threshold / fused_adamw", arms[3].median() / fused, 1.95, true},
      {"plain operations / first task", arms[6].median() / arms[3].median(), 6, false},
  };
  std::ofstream file(path);
  file << "{\"elements\": " << elements << ", \"tensors\": 300, \"arms\": [";
  for (std::size_t i = 0; i < arms.size(); ++i) {
    file << (i > 0 ? ", " : "") << "{\"name\": \"" << arms[i].name
         << "\", \"ms\": " << arms[i].median() << ", \"floor_bytes\": " << arms[i].bytes << "}";
  }
  file << "], \"bars\": [";
  for (std::size_t i = 0; i < bars.size(); ++i) {
    std::printf("%-44s %7.3f, %s %.2f: %s\n", bars[i].name.c_str(), bars[i].value,
                bars[i].at_most ? "at most" : "at least", bars[i].bound,
                bars[i].met() ? "met" : "MISSED");
    file << (i > 0 ? ", " : "") << "{\"name\": \"" << bars[i].name
         << "\", \"value\": " << bars[i].value << ", \"bound\": " << bars[i].bound
         << ", \"kind\": \"" << (bars[i].at_most ? "at most" : "at least")
         << "\", \"met\": " << (bars[i].met() ? "true" : "false") << "}";
  }
  file << "]}\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (!at::hasCUDA()) {
    std::puts("gpu_step: no CUDA device: LibTorch finds none; nothing was measured");
    return 77;
  }
  if (argc < 2) {
    std::fputs("usage: gpu_step FILE.json [MEBI_ELEMENTS [ROUNDS]]\n", stderr);
    return 2;
  }
  const at::NoGradGuard no_grad;
  return run(argv[1], (argc > 2 ? std::stoll(argv[2]) : 256) << 20,
             argc > 3 ? std::stoi(argv[3]) : 15);
}
