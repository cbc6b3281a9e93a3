// Token log-probability with its gradient, [16, 256, 8192] logits, against LibTorch's own
// operations.
//
//   bench_token_log_probability [--rounds 25] [--type float|bfloat16|half] [--shape 16x256x8192]
//   [--threads N]
//
// Arms are interleaved, every round runs each once; the table shows medians. The limit of an arm is
// what its least traffic (read the logits, read them again, write the gradient) takes at the
// bandwidth measured in the same run.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <alkn/objective/losses.hpp>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

using at::Tensor;

struct Arm {
  std::string name;
  std::function<void()> run;
  std::vector<double> milliseconds = {};

  [[nodiscard]] double median() const {
    std::vector<double> sorted = milliseconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

double time_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  const auto stop = std::chrono::steady_clock::now();
  return std::chrono::duration<double, std::milli>(stop - start).count();
}

/// log softmax of all positions, the labels' entries, minus their mean.
Tensor by_log_softmax(const Tensor& logits, const Tensor& labels) {
  const std::int64_t last = logits.size(1) - 1;
  const Tensor log_p = at::log_softmax(logits, -1).narrow(1, 0, last);
  return log_p.gather(-1, labels.narrow(1, 1, last).unsqueeze(-1)).mean().neg();
}

/// The same on a slice without the last position, as most code has it.
Tensor by_slice(const Tensor& logits, const Tensor& labels) {
  const std::int64_t last = logits.size(1) - 1;
  const Tensor log_p = at::log_softmax(logits.narrow(1, 0, last), -1);
  return log_p.gather(-1, labels.narrow(1, 1, last).unsqueeze(-1)).mean().neg();
}

Tensor by_cross_entropy(const Tensor& logits, const Tensor& labels) {
  const std::int64_t last = logits.size(1) - 1;
  const Tensor rows = logits.narrow(1, 0, last).reshape({-1, logits.size(2)});
  return at::nll_loss(at::log_softmax(rows, -1), labels.narrow(1, 1, last).reshape({-1}));
}

/// Both passes of the kernels, the gradient into a buffer that is there already.
void into_buffer(const Tensor& logits, const Tensor& labels, const Tensor& buffer) {
  const at::NoGradGuard no_grad;
  const Tensor next = alkn::detail::next_labels(labels);
  const auto wide = logits.options().dtype(alkn::detail::wide_type(logits.scalar_type()));
  const Tensor log_p = at::zeros(next.sizes(), wide);
  const Tensor stats = at::zeros({2, next.size(0), next.size(1)}, wide);
  alkn::detail::cpu_log_probability(logits, next, log_p, stats);
  const Tensor scale = at::full(next.sizes(), -1.0 / static_cast<double>(next.numel()), wide);
  alkn::detail::cpu_gradient(logits, next, scale, stats, buffer);
}

std::vector<std::int64_t> parse_shape(const std::string& text) {
  std::vector<std::int64_t> shape;
  for (const std::string& part : CLI::detail::split(text, 'x')) {
    std::int64_t size = 0;
    if (!CLI::detail::lexical_cast(part, size) || size < 2) shape.clear();
    shape.push_back(size);
  }
  return shape;
}

int run(int argc, char** argv) {
  if (std::string(ALKN_BUILD_TYPE) != "Release") {
    fmt::print(stderr, "bench_token_log_probability: expected a Release build, got \"{}\"\n",
               ALKN_BUILD_TYPE);
    return 2;
  }
  CLI::App app("Token log-probability with gradient against LibTorch's own operations");
  int rounds = 25, threads = at::get_num_threads();
  std::string type_name = "float", shape_text = "16x256x8192";
  app.add_option("--rounds", rounds, "Rounds; each runs every arm once")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "Threads of LibTorch")->check(CLI::PositiveNumber);
  app.add_option("--type", type_name)->check(CLI::IsMember({"float", "bfloat16", "half"}));
  app.add_option("--shape", shape_text, "BxTxV, each at least 2");
  CLI11_PARSE(app, argc, argv);
  const auto shape = parse_shape(shape_text);
  if (shape.size() != 3) {
    fmt::print(stderr,
               "bench_token_log_probability: expected a shape BxTxV, got \"{}\" (--shape)\n",
               shape_text);
    return 2;
  }
  at::set_num_threads(threads);
  const std::map<std::string, at::ScalarType> types = {
      {"float", at::kFloat}, {"bfloat16", at::kBFloat16}, {"half", at::kHalf}};

  const Tensor logits = at::randn(shape).to(types.at(type_name)).requires_grad_(true);
  const Tensor labels = at::randint(shape[2], {shape[0], shape[1]}, at::kLong);
  const Tensor buffer = at::empty_like(logits.detach());
  buffer.zero_();
  const auto with_backward = [&](Tensor (*loss)(const Tensor&, const Tensor&)) {
    return [&, loss] {
      logits.mutable_grad() = Tensor();
      loss(logits, labels).backward();
    };
  };
  const Tensor source = logits.detach();
  std::vector<Arm> arms = {
      {"read, then read and write (the limit)",
       [&] {
         static_cast<void>(source.view({-1}).dot(source.view({-1})));
         buffer.copy_(source);
       }},
      {"log_softmax + gather", with_backward(by_log_softmax)},
      {"slice + log_softmax + gather", with_backward(by_slice)},
      {"slice + log_softmax + nll_loss", with_backward(by_cross_entropy)},
      {"alkn::mean_nll", with_backward(alkn::mean_nll)},
      {"alkn kernels, gradient buffer reused", [&] { into_buffer(source, labels, buffer); }},
  };
  for (Arm& arm : arms) arm.run();  // first touches, thread pools
  for (int round = 0; round < rounds; ++round) {
    for (Arm& arm : arms) arm.milliseconds.push_back(time_of(arm.run));
  }

  const double bytes = 3 * static_cast<double>(source.nbytes());
  fmt::print("{} {}, {} threads, {}, {} rounds, medians\n", shape_text, type_name,
             at::get_num_threads(), alkn::kernel::simd_name(alkn::kernel::simd_level()), rounds);
  fmt::print("{:<40} {:>9} {:>7} {:>9} {:>9}\n", "", "ms", "GB/s", "of limit", "of ATen");
  for (const Arm& arm : arms) {
    fmt::print("{:<40} {:>9.1f} {:>7.1f} {:>8.2f}x {:>8.3f}x\n", arm.name, arm.median(),
               bytes / arm.median() * 1e-6, arm.median() / arms[0].median(),
               arm.median() / arms[1].median());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_token_log_probability: {}\n", error.what());
    return 1;
  }
}
