// The kernels alone, without LibTorch: the compact state beside the fp32 state, thresholds of
// inputs made to hurt, and the end of a task, each beside the ceiling of its own memory traffic.
//
//   bench_kernels [--elements 16777216] [--rounds 25] [--threads N] [--out
//   build/bench/kernels.json]
#include <omp.h>

#include <CLI/CLI.hpp>
#include <alkn/kernel/cpu/arena.hpp>
#include <alkn/kernel/cpu/step.hpp>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>

#include "ceilings.hpp"
#include "harness.hpp"

namespace {

namespace kernel = alkn::kernel;
using alkn_bench::Arm;
using alkn_bench::Comparison;
using alkn_bench::Subject;

constexpr auto run_parallel = [](std::int64_t num_items, kernel::RangeBody body) {
#pragma omp parallel
  {
    const std::int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const std::int64_t share = (num_items + threads - 1) / threads;
    const std::int64_t begin = thread * share, end = std::min(num_items, begin + share);
    if (begin < end) body(begin, end);
  }
};

/// Normal numbers of deviation 1e-3: sums of four integers.
class Noise {
 public:
  explicit Noise(std::int64_t size) : values_(static_cast<std::size_t>(size + kShifts)) {
    std::uint64_t x = 1;
    for (float& value : values_) {
      std::int32_t sum = 0;
      for (int i = 0; i < 4; ++i) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        sum += static_cast<std::int32_t>(x >> 40U) - (1 << 23);
      }
      value = static_cast<float>(sum) * (1e-3F / 9.7e6F);
    }
  }
  /// Another stretch of it every time.
  const float* next() {
    turn_ = turn_ * 6364136223846793005U + 1442695040888963407U;
    return values_.data() + (turn_ >> 40U) % kShifts;
  }

 private:
  static constexpr std::int64_t kShifts = 1 << 20;
  std::vector<float> values_;
  std::uint64_t turn_ = 7;
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Array = std::unique_ptr<float[], Free>;
/// As LibTorch allocates: cache lines, ordinary pages.
Array plain_array(std::int64_t size) {
  const auto bytes = static_cast<std::size_t>((size * 4 + 63) / 64 * 64);
  Array array(static_cast<float*>(std::aligned_alloc(64, bytes)));
  if (array == nullptr) throw std::bad_alloc();
  std::fill_n(array.get(), size, 0.0F);
  return array;
}

/// A step over one tensor, or over many of `piece` elements, with everything that it keeps.
class Step {
 public:
  Step(std::int64_t size, float* param, const float* grad, bool later, kernel::DType state_type,
       std::int64_t piece = std::numeric_limits<std::int64_t>::max()) {
    const std::int64_t words = (size + 63) / 64;
    const std::int64_t width = state_type == kernel::DType::bfloat16 ? 2 : 4;
    const auto bytes = static_cast<std::size_t>(size * width);
    arena_.reserve(static_cast<std::size_t>(size) * 4 + 3 * bytes +
                   2 * static_cast<std::size_t>(words) * 8);
    auto* exp_avg = static_cast<char*>(arena_.allocate(bytes));
    auto* exp_avg_sq = static_cast<char*>(arena_.allocate(bytes));
    retain_ = arena_.allocate_array<float>(size);
    auto* score = static_cast<char*>(arena_.allocate(bytes));
    auto* mask = arena_.allocate_array<std::uint64_t>(words);
    auto* used = later ? arena_.allocate_array<std::uint64_t>(words) : nullptr;
    for (std::int64_t i = 0; later && i < words; ++i)
      used[i] = kernel::mixed(static_cast<std::uint64_t>(i));
    for (std::int64_t i = 0; i < size; i += std::min(piece, size)) {
      kernel::StepTensor& t = tensors_.emplace_back();
      t.size = std::min(piece, size - i), t.param = param + i, t.grad = grad + i;
      t.state_type = state_type;
      t.exp_avg = exp_avg + i * width, t.exp_avg_sq = exp_avg_sq + i * width;
      t.retain = retain_ + i, t.score = score + i * width;
      t.mask = mask + i / 64, t.used = later ? used + i / 64 : nullptr;
      t.learns_threshold = !later;
      t.adamw.decay = t.adamw.decay_used = 1 - 1e-7F;
      t.adamw.step_size = t.adamw.step_size_used = 1e-5F;
      t.adamw.bias2_sqrt = 0.5F;
    }
    args_.mask = kernel::MaskKind::localized;
    args_.max_norm = 1, args_.score.penalty = 0.5, args_.threshold_due = true;
  }
  [[nodiscard]] float* retain() { return retain_; }
  void scale(double alignment) { args_.score.alignment = alignment; }
  /// AdamW's step, nothing else.
  void plain() {
    args_.mask = kernel::MaskKind::none;
    args_.max_norm = 0, args_.check_finite = false;
  }

  void run() {
    ++count_;
    for (kernel::StepTensor& t : tensors_) t.rounding_seed = kernel::mixed(count_);
    const kernel::ParallelFor parallel(run_parallel, omp_get_max_threads());
    const auto number = static_cast<std::int64_t>(tensors_.size());
    if (step_.run(tensors_.data(), number, args_, parallel).skipped) {
      throw std::logic_error("a step was skipped: the gradient is not finite");
    }
  }

 private:
  kernel::Arena arena_;
  std::vector<kernel::StepTensor> tensors_;
  kernel::StepArgs args_;
  kernel::CpuStep step_;
  float* retain_ = nullptr;
  std::uint64_t count_ = 0;
};

/// What all comparisons share.
struct Bench {
  std::int64_t size;
  int rounds;
  Noise noise{size};
  Array param = plain_array(size), grad = plain_array(size);
  Array moments[2] = {plain_array(size), plain_array(size)};
  nlohmann::json rows = nlohmann::json::array();

  [[nodiscard]] Subject subject() const {
    return {std::to_string(size), size, omp_get_max_threads()};
  }
  void refresh() {
    const float* from = noise.next();
    parallel([&](std::int64_t begin, std::int64_t count) {
      std::copy_n(from + begin, count, grad.get() + begin);
    });
  }
  template <class Fn>
  void parallel(Fn fn) const {
    const kernel::ParallelFor loop(run_parallel, omp_get_max_threads());
    kernel::detail::for_chunks(size, loop, fn);
  }
  [[nodiscard]] Arm ceiling() {
    return {"ceiling",
            [this] {
              parallel([this](std::int64_t i, std::int64_t count) {
                alkn_bench::update_sweep(param.get() + i, grad.get() + i, moments[0].get() + i,
                                         moments[1].get() + i, count);
              });
            },
            28, 28, 8};
  }
  void report(Comparison& comparison, const std::string& what, const std::string& against) {
    nlohmann::json found = comparison.rows(against);
    fmt::print("\n{}, {} threads; \"x fused\" is against {}\n", what, omp_get_max_threads(),
               against);
    comparison.print(against);
    for (auto& row : found) {
      row["comparison"] = what;
      rows.push_back(row);
    }
  }
};

/// Later tasks with fp32 and with compact state, AVX-512 and AVX2.
void compare_states(Bench& bench) {
  std::deque<Step> steps;
  Comparison comparison(bench.subject(), [&] { bench.refresh(); });
  comparison.add(bench.ceiling());
  for (const auto level : {kernel::SimdLevel::avx512, kernel::SimdLevel::avx2}) {
    if (!kernel::simd_supported(level)) continue;
    for (const auto type : {kernel::DType::float32, kernel::DType::bfloat16}) {
      const bool compact = type == kernel::DType::bfloat16;
      Step& step = steps.emplace_back(bench.size, bench.param.get(), bench.grad.get(), true, type);
      std::copy_n(bench.noise.next(), bench.size, step.retain());
      const double bytes = compact ? 36.25 : 48.25;
      const std::string name = fmt::format("later task, {} state, {}", compact ? "compact" : "fp32",
                                           kernel::simd_name(level));
      comparison.add({name,
                      [&step, level] {
                        kernel::set_simd_level(level);
                        step.run();
                      },
                      bytes, bytes, compact ? 10.25 : 16.25});
    }
  }
  const auto before = kernel::simd_level();
  comparison.run(bench.rounds);
  kernel::set_simd_level(before);
  bench.report(comparison, "compact state", "later task, fp32 state, avx512");
}

/// Products g r (the gradients are ones, or noise) whose scores are hard to select from.
struct Input {
  const char* name;
  void (*fill)(float* retain, std::int64_t size, Noise& noise);
  bool noise = false;  ///< the gradient is noise, else ones
  bool jumps = false;  ///< the sign and size of what is added change every step: brackets miss
};
const Input kInputs[] = {
    {"normal", [](float* r, std::int64_t n, Noise& noise) { std::copy_n(noise.next(), n, r); },
     true},
    {"all equal", [](float* r, std::int64_t n, Noise&) { std::fill_n(r, n, 1e-3F); }},
    {"two heavy values",
     [](float* r, std::int64_t n, Noise&) {
       for (std::int64_t i = 0; i < n; ++i) {
         r[i] = kernel::mixed(static_cast<std::uint64_t>(i)) % 2 == 0 ? 1e-3F : -1e-3F;
       }
     }},
    {"99 % zeros",
     [](float* r, std::int64_t n, Noise& noise) {
       const float* x = noise.next();
       for (std::int64_t i = 0; i < n; ++i) {
         r[i] = kernel::mixed(static_cast<std::uint64_t>(i)) % 100 == 0 ? x[i] : 0;
       }
     }},
    {"sorted",
     [](float* r, std::int64_t n, Noise&) {
       for (std::int64_t i = 0; i < n; ++i) {
         r[i] = 1e-3F * static_cast<float>(i) / static_cast<float>(n);
       }
     }},
    {"alternating",
     [](float* r, std::int64_t n, Noise&) {
       for (std::int64_t i = 0; i < n; ++i) {
         r[i] = (i % 2 == 0 ? 1e-3F : -1e-3F) * static_cast<float>(i % 1000);
       }
     }},
    {"brackets that miss every step",
     [](float* r, std::int64_t n, Noise& noise) { std::copy_n(noise.next(), n, r); }, false, true},
    {"1 % NaN",
     [](float* r, std::int64_t n, Noise& noise) {
       std::copy_n(noise.next(), n, r);
       for (std::int64_t i = 0; i < n; i += 100) r[i] = std::numeric_limits<float>::quiet_NaN();
     },
     true}};

void compare_inputs(Bench& bench) {
  Array ones = plain_array(bench.size);
  std::fill_n(ones.get(), bench.size, 1.0F);
  std::deque<Step> steps;
  Comparison comparison(bench.subject(), [&] { bench.refresh(); });
  comparison.add(bench.ceiling());
  for (const Input& input : kInputs) {
    const float* grad = input.noise ? bench.grad.get() : ones.get();
    Step& step =
        steps.emplace_back(bench.size, bench.param.get(), grad, false, kernel::DType::float32);
    input.fill(step.retain(), bench.size, bench.noise);
    Arm arm{input.name, [&step] { step.run(); }, 48.3, 48.3, 16.25};
    if (input.jumps) {
      auto turn = std::make_shared<std::uint64_t>(0);
      arm.prepare = [&step, turn] {
        const auto size = static_cast<float>(1U << (kernel::mixed(++*turn) % 8U));
        step.scale(kernel::mixed(*turn + 99) % 2 == 0 ? size : -size);
      };
    }
    comparison.add(std::move(arm));
  }
  comparison.run(bench.rounds);
  bench.report(comparison, "inputs of a first task", "normal");
}

/// Tensors of 2048 elements against one of them all: what the kernels themselves pay for a tensor.
void compare_pieces(Bench& bench) {
  constexpr std::int64_t kPiece = 2048;
  struct Kind {
    const char* name;
    bool later, plain;
    double bytes;
  };
  std::deque<Step> steps;
  for (const Kind& kind : {Kind{"AdamW", false, true, 28}, Kind{"later task", true, false, 48.25},
                           Kind{"first task", false, false, 48.3}}) {
    Comparison comparison(bench.subject(), [&] { bench.refresh(); });
    comparison.add(bench.ceiling());
    for (const std::int64_t piece : {bench.size, kPiece}) {
      Step& step = steps.emplace_back(bench.size, bench.param.get(), bench.grad.get(), kind.later,
                                      kernel::DType::float32, piece);
      std::copy_n(bench.noise.next(), bench.size, step.retain());
      if (kind.plain) step.plain();
      comparison.add({fmt::format("{}, {}", kind.name, piece == kPiece ? "tensors of 2048" : "one"),
                      [&step] { step.run(); }, kind.bytes, kind.bytes, 16.25});
    }
    comparison.run(bench.rounds);
    bench.report(comparison, fmt::format("small tensors, {}", kind.name),
                 fmt::format("{}, one", kind.name));
    steps.clear();
  }
}

/// The negation.
void compare_endings(Bench& bench) {
  Comparison comparison(bench.subject());
  Array start = plain_array(bench.size);
  comparison.add({"ceiling of two arrays",
                  [&] {
                    bench.parallel([&](std::int64_t i, std::int64_t count) {
                      alkn_bench::blend_sweep(bench.param.get() + i, start.get() + i, count);
                    });
                  },
                  12, 12, 0});
  comparison.add({"negation",
                  [&] {
                    const kernel::ParallelFor parallel(run_parallel, omp_get_max_threads());
                    kernel::negate(bench.param.get(), start.get(), bench.size, 1.0F, parallel);
                  },
                  12, 12, 4});
  comparison.run(bench.rounds);
  bench.report(comparison, "end of a task", "ceiling of two arrays");
}

void run(int argc, char** argv) {
  alkn_bench::require_release(ALKN_BUILD_TYPE);
  std::int64_t size = 1 << 24;
  int rounds = 25;
  std::vector<int> threads = {omp_get_max_threads()};
  std::string out = "build/bench/kernels.json";
  CLI::App app("The kernels alone");
  app.add_option("--elements", size, "Elements of the tensor");
  app.add_option("--rounds", rounds, "Rounds; each runs every arm once");
  app.add_option("--threads", threads, "Threads of OpenMP")->delimiter(',');
  app.add_option("--out", out, "JSON file");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  static_cast<void>(Comparison({"", size, 1}));  // throws for no elements
  const alkn_bench::JsonFile file(out);
  fmt::print("{}, {} cores, {}\n", alkn_bench::processor(), alkn_bench::num_cores(),
             kernel::simd_name(kernel::simd_level()));
  Bench bench{size, rounds};
  for (const int count : threads) {
    omp_set_num_threads(count);
    compare_states(bench);
    compare_inputs(bench);
    compare_pieces(bench);
    compare_endings(bench);
  }
  file.write({{"header",
               {{"processor", alkn_bench::processor()},
                {"cores", alkn_bench::num_cores()},
                {"instruction_set", kernel::simd_name(kernel::simd_level())},
                {"rounds", rounds}}},
              {"rows", bench.rows}});
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_kernels: {}\n", error.what());
    return 1;
  }
}
