// Token log-probability with its gradient, [16, 256, 8192] logits, against LibTorch's own
// operations.
//
//   bench_token_log_probability [--rounds 25] [--type float|bfloat16|half] [--shape 16x256x8192]
//   [--threads N] [--peaked] [--out build/bench/token_log_probability.json]
//
// --peaked: also logits as of a trained model, whose probabilities reach down to 1e-30.
// The ceiling is what the least traffic (read the logits, read them again, write the gradient)
// takes at the bandwidth measured in the same run. Rows are per element of the logits.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <alkn/objective/losses.hpp>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "harness.hpp"

namespace {

using at::Tensor;

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

constexpr const char* kPeer = "log_softmax + gather";

void run(int argc, char** argv) {
  alkn_bench::require_release(ALKN_BUILD_TYPE);
  CLI::App app("Token log-probability with gradient against LibTorch's own operations");
  int rounds = 25, threads = at::get_num_threads();
  std::string type_name = "float", shape_text = "16x256x8192";
  std::string out = "build/bench/token_log_probability.json";
  app.add_option("--rounds", rounds, "Rounds; each runs every arm once");
  app.add_option("--threads", threads, "Threads of LibTorch")->check(CLI::PositiveNumber);
  app.add_option("--type", type_name)->check(CLI::IsMember({"float", "bfloat16", "half"}));
  app.add_option("--shape", shape_text, "BxTxV, each at least 2");
  bool peaked = false;
  app.add_flag("--peaked", peaked, "Also logits with probabilities down to 1e-30");
  app.add_option("--out", out, "JSON file");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  const auto shape = parse_shape(shape_text);
  if (shape.size() != 3) {
    throw std::invalid_argument("expected a shape BxTxV, got \"" + shape_text + "\" (--shape)");
  }
  const alkn_bench::JsonFile file(out);
  at::set_num_threads(threads);
  const std::map<std::string, at::ScalarType> types = {
      {"float", at::kFloat}, {"bfloat16", at::kBFloat16}, {"half", at::kHalf}};

  const Tensor logits = at::randn(shape).to(types.at(type_name)).requires_grad_(true);
  const Tensor labels = at::randint(shape[2], {shape[0], shape[1]}, at::kLong);
  const Tensor source = logits.detach();
  const Tensor buffer = at::empty_like(source);
  buffer.zero_();
  const auto with_backward = [&](Tensor (*loss)(const Tensor&, const Tensor&)) {
    return [&, loss] {
      logits.mutable_grad() = Tensor();
      loss(logits, labels).backward();
    };
  };
  // bytes: what an arm moves, a [B, T, V] tensor read or written counting once each
  const double width = static_cast<double>(source.element_size()), least = 3 * width;
  alkn_bench::Comparison comparison(
      {shape_text + " " + type_name, source.numel(), at::get_num_threads()});
  comparison.add({"ceiling: read, then read and write",
                  [&] {
                    static_cast<void>(source.view({-1}).dot(source.view({-1})));
                    buffer.copy_(source);
                  },
                  least, least, 0});
  comparison.add({kPeer, with_backward(by_log_softmax), 9 * width, least, 3 * width});
  comparison.add(
      {"slice + log_softmax + gather", with_backward(by_slice), 9 * width, least, 3 * width});
  comparison.add({"slice + log_softmax + nll_loss", with_backward(by_cross_entropy), 9 * width,
                  least, 3 * width});
  comparison.add({"alkn::mean_nll", with_backward(alkn::mean_nll), least, least, width});
  comparison.add({"alkn kernels, gradient buffer reused",
                  [&] { into_buffer(source, labels, buffer); }, least, least, width});
  // log probabilities from 0 (the label's) down to -69, as many of each
  const Tensor trained = at::rand(source.sizes(), source.options().dtype(at::kFloat)).mul_(-69);
  trained.scatter_(-1, labels.roll(-1, 1).unsqueeze(-1), 6);
  const Tensor trained_logits = trained.to(source.scalar_type()).requires_grad_(true);
  if (peaked) {
    comparison.add({"alkn::mean_nll, logits of a trained model",
                    [&] {
                      trained_logits.mutable_grad() = Tensor();
                      alkn::mean_nll(trained_logits, labels).backward();
                    },
                    least, least, width});
  }
  comparison.run(rounds);

  const nlohmann::json rows = comparison.rows(kPeer);
  const char* simd = alkn::kernel::simd_name(alkn::kernel::simd_level());
  fmt::print("{}, {} {}, {} threads, {}, medians of {} rounds; \"x fused\" is against {}\n",
             alkn_bench::processor(), shape_text, type_name, at::get_num_threads(), simd, rounds,
             kPeer);
  comparison.print(kPeer);
  file.write({{"header",
               {{"processor", alkn_bench::processor()},
                {"cores", alkn_bench::num_cores()},
                {"instruction_set", simd},
                {"rounds", rounds}}},
              {"rows", rows}});
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_token_log_probability: {}\n", error.what());
    return 1;
  }
}
