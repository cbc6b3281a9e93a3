// The compact state: bfloat16 moments and scores, rounded stochastically by a counter.
#include <cmath>
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "reference.hpp"

using namespace alkn_test;

namespace {

const auto kSerialPool = [](std::int64_t num_items, RangeBody body) { body(0, num_items); };
const std::vector<std::int64_t> kSizes = {1,   9,    10,    63,    64,     65,    129,
                                          257, 2049, 65535, 65536, 131135, 200003};

/// The random bits and the rounding once more, plainly.
struct PlainRounding {
  std::uint64_t seed;
  [[nodiscard]] std::uint32_t bits(std::int64_t i) const {
    const std::uint64_t key = mixed(seed + static_cast<std::uint64_t>(i / 65536));
    auto x = static_cast<std::uint32_t>(static_cast<std::uint64_t>(i % 65536) * 0x9E3779B9U + key);
    x = (x ^ (x >> 16) ^ static_cast<std::uint32_t>(key >> 32)) * 0x7FEB352DU;
    return x ^ (x >> 15);
  }
  static std::uint16_t round(float x, std::uint32_t random) {
    if (std::isnan(x)) return 0xFFFFU;
    return static_cast<std::uint16_t>((bit_copy<std::uint32_t>(x) + random) >> 16);
  }
  [[nodiscard]] std::uint16_t exp_avg(float x, std::int64_t i) const {
    return round(x, bits(i) & 0xFFFFU);
  }
  [[nodiscard]] std::uint16_t exp_avg_sq(float x, std::int64_t i) const {
    return round(x, bits(i) >> 16);
  }
  [[nodiscard]] std::uint16_t score(float x, std::int64_t i) const {
    return round(x, (bits(i) >> 8) & 0xFFFFU);
  }
};

StepArgs localized(bool later) {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.max_norm = 1.0;
  args.score.penalty = 0.5F;
  args.threshold_due = !later;
  args.score.alignment = -1;
  return args;
}

OwnedTensor make_tensor(std::int64_t size, DType type, bool later, bool compact,
                        std::int64_t shift = 0) {
  Numbers numbers(static_cast<std::uint64_t>(size));
  OwnedTensor t(size, type, type, shift);
  if (compact) t.make_compact();
  for (std::int64_t i = 0; i < size; ++i) {
    const float p = numbers.normal(0.3F);
    t.param_narrow[t.at(i)] = type == DType::float32 ? std::uint16_t{0} : narrow(p, type);
    t.param[t.at(i)] = type == DType::float32 ? p : wide(t.param_narrow[t.at(i)], type);
    t.set_retain(i, numbers.normal(0.05F));
    if (numbers.below(3) == 0) {
      t.used[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
    }
  }
  t.has_used = later;
  t.learns = !later;
  t.threshold = later ? -0.0005F : 0.0F;
  return t;
}

void new_gradient(OwnedTensor& t, int step) {
  Numbers numbers(static_cast<std::uint64_t>(1000 * step) + static_cast<std::uint64_t>(t.size));
  for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, numbers.normal(0.05F));
  t.adamw = adamw_numbers(step, 3e-3, 0.01, 0.1);
  t.seed = rounding_seed(t.size, step);
}

template <class Pool>
std::int64_t take_step(CpuStep& cpu, OwnedTensor& t, const StepArgs& args, Pool& pool,
                       std::int64_t threads) {
  StepTensor view = t.view();
  cpu.run(&view, 1, args, ParallelFor(pool, threads));
  t.threshold = view.threshold;
  return view.num_trained;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// The fp32 tensor whose state is what `t` holds.
OwnedTensor widened(const OwnedTensor& t) {
  OwnedTensor w = t;
  w.compact = false;
  for (std::size_t i = 0; i < t.grad.size(); ++i) {
    w.exp_avg[i] = bfloat16_to_float(t.exp_avg_narrow[i]);
    w.exp_avg_sq[i] = bfloat16_to_float(t.exp_avg_sq_narrow[i]);
    w.score[i] = bfloat16_to_float(t.score_narrow[i]);
  }
  return w;
}

}  // namespace

TEST_CASE("a rounding goes up with the probability of what is cut off") {
  for (const float x : {1.0F, 1.00123F, -3.7e-5F, 0.0F, -0.0F, 1e-40F, 6.1e30F}) {
    const auto bits = bit_copy<std::uint32_t>(x);
    std::int64_t up = 0, wrong = 0;
    for (std::uint32_t r = 0; r < 0x10000U; ++r) {
      const std::uint32_t got = scalar::rounded_by(x, r) & 0xFFFF0000U;
      up += got == (bits & 0xFFFF0000U) + 0x10000U;
      wrong += got - (bits & 0xFFFF0000U) > 0x10000U;
    }
    CHECK(wrong == 0);
    CHECK(up == static_cast<std::int64_t>(bits & 0xFFFFU));
  }
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(scalar::rounded_by(inf, 0xFFFFU) >> 16 == 0x7F80U);
  CHECK(scalar::rounded_by(-inf, 0xFFFFU) >> 16 == 0xFF80U);
  for (const std::uint32_t nan : {0x7F800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    CHECK(scalar::rounded_by(bit_copy<float>(nan), 0xFFFFU) >> 16 == 0xFFFFU);
  }
}

TEST_CASE("the random numbers are uniform, and of tensors, steps and arrays apart") {
  // Sums of n uniform numbers within 5 standard deviations; products of two of them too.
  const std::int64_t n = 200000;
  const auto uniform = [](std::uint32_t r) { return (static_cast<double>(r) + 0.5) / 65536 - 0.5; };
  const PlainRounding here{rounding_seed(3, 7)};
  const PlainRounding next_step{rounding_seed(3, 8)}, next_tensor{rounding_seed(4, 7)};
  double sum[5] = {}, product[5][5] = {}, neighbours[3] = {}, before[3] = {};
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t r = here.bits(i);
    const double x[5] = {uniform(r & 0xFFFFU), uniform(r >> 16), uniform((r >> 8) & 0xFFFFU),
                         uniform(next_step.bits(i) & 0xFFFFU),
                         uniform(next_tensor.bits(i) & 0xFFFFU)};
    for (int a = 0; a < 5; ++a) {
      sum[a] += x[a];
      for (int b = 0; b < 5; ++b) product[a][b] += x[a] * x[b];
    }
    for (int a = 0; a < 3; ++a) {
      neighbours[a] += x[a] * before[a];
      before[a] = x[a];
    }
  }
  const double root = std::sqrt(static_cast<double>(n));
  for (int a = 0; a < 5; ++a) {
    CHECK(std::fabs(sum[a]) < 5 * root * std::sqrt(1.0 / 12));
    CHECK(product[a][a] / static_cast<double>(n) == Approx(1.0 / 12).epsilon(0.01));
    for (int b = 0; b < a; ++b) {
      if (a != 2) CHECK(std::fabs(product[a][b]) < 5 * root / 12);  // the score's overlap
    }
    if (a < 3) CHECK(std::fabs(neighbours[a]) < 5 * root / 12);
  }
}

TEST_CASE("a compact step is the fp32 step on the widened state, rounded") {
  const bool later = GENERATE(false, true);
  const DType type = GENERATE(DType::float32, DType::bfloat16);
  const auto masked = GENERATE(Masked::gradient, Masked::freeze);
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    for (const std::int64_t size : kSizes) {
      INFO(simd_name(level) << ", size " << size << ", later " << later);
      OwnedTensor t = make_tensor(size, type, later, true, size % 3);
      CpuStep cpu, scorer, stepper;
      StepArgs args = localized(later);
      args.masked = masked;
      for (int step = 1; step <= 4; ++step) {
        args.threshold_due = !later && step != 3;
        new_gradient(t, step);
        const PlainRounding rounding{t.seed};
        OwnedTensor scored = widened(t), stepped = widened(t);
        const std::int64_t num_trained = take_step(cpu, t, args, kSerialPool, 1);

        StepArgs score_only = args;  // the score grows in fp32, nothing else counts
        score_only.update = Update::gradient;
        take_step(scorer, scored, score_only, kSerialPool, 1);
        std::vector<float> scores;
        std::int64_t wrong = 0, above = 0;
        for (std::int64_t i = 0; i < size; ++i) {
          const std::uint16_t want = rounding.score(scored.score[t.at(i)], i);
          wrong += t.score_narrow[t.at(i)] != want;
          scores.push_back(bfloat16_to_float(want));
        }
        if (args.threshold_due && size >= 10) {
          CHECK(t.threshold == reference_threshold(scores, args.unmask_ratio, args.trim_ratio));
        }
        for (std::int64_t i = 0; i < size; ++i) {
          const bool on = size < 10 || scores[static_cast<std::size_t>(i)] > t.threshold;
          wrong += on != OwnedTensor::bit(t.mask, i);
          above += on;
        }
        CHECK(wrong == 0);
        CHECK(num_trained == above);

        StepArgs given = args;  // the same entries move, in fp32
        given.mask = MaskKind::given;
        stepped.mask = t.mask;
        take_step(stepper, stepped, given, kSerialPool, 1);
        for (std::int64_t i = 0; i < size; ++i) {
          const std::size_t at = t.at(i);
          wrong += t.exp_avg_narrow[at] != rounding.exp_avg(stepped.exp_avg[at], i);
          wrong += t.exp_avg_sq_narrow[at] != rounding.exp_avg_sq(stepped.exp_avg_sq[at], i);
        }
        CHECK(wrong == 0);
        CHECK(same(t.param, stepped.param));
        CHECK(same(t.param_narrow, stepped.param_narrow));
      }
    }
  }
}

TEST_CASE("the compact state has the same bits for every instruction set and number of threads") {
  const bool later = GENERATE(false, true);
  for (const std::int64_t size : {std::int64_t{129}, std::int64_t{65536}, std::int64_t{1500007}}) {
    std::vector<OwnedTensor> first;
    const auto run = [&](auto pool, std::int64_t threads, SimdLevel level) {
      const WithSimd with(level);
      INFO(simd_name(level) << ", " << threads << " threads, size " << size);
      OwnedTensor t = make_tensor(size, DType::float32, later, true);
      CpuStep cpu;
      for (int step = 1; step <= 5; ++step) {
        new_gradient(t, step);
        take_step(cpu, t, localized(later), pool, threads);
      }
      if (first.empty()) first.push_back(t);
      CHECK(same(t.param, first[0].param));
      CHECK(same(t.exp_avg_narrow, first[0].exp_avg_narrow));
      CHECK(same(t.exp_avg_sq_narrow, first[0].exp_avg_sq_narrow));
      CHECK(same(t.score_narrow, first[0].score_narrow));
      CHECK(same(t.mask, first[0].mask));
      CHECK(t.threshold == first[0].threshold);
    };
    for (const SimdLevel level : simd_levels()) {
      run(Threads{1}, 1, level);
      run(Threads{2}, 2, level);
    }
    run(Backwards{1}, 1, simd_level());
    run(Backwards{3}, 4, simd_level());
  }
}

TEST_CASE("1000 steps with a compact state stay with those in fp32") {
  // A noisy quadratic, every coordinate with a curvature of its own: the distance from the fp32
  // run, as a share of the way. Rounding to nearest instead loses the second moment.
  const std::int64_t n = 4096;
  const auto run = [&](int how) {  // 0: fp32, 1: compact, 2: bfloat16 to nearest
    OwnedTensor t = make_tensor(n, DType::float32, false, how == 1);
    CpuStep cpu;
    StepArgs args;
    Numbers numbers(99);
    for (int step = 1; step <= 1000; ++step) {
      for (std::int64_t i = 0; i < n; ++i) {
        const float curvature = 0.01F + static_cast<float>(i % 64) / 64.0F;
        t.set_grad(i, curvature * (t.param[t.at(i)] - 1.0F) + numbers.normal(0.02F));
      }
      t.adamw = adamw_numbers(step, 1e-3, 0.01);
      t.seed = rounding_seed(0, step);
      take_step(cpu, t, args, kSerialPool, 1);
      if (how != 2) continue;
      for (float& x : t.exp_avg) x = bfloat16_to_float(float_to_bfloat16(x));
      for (float& x : t.exp_avg_sq) x = bfloat16_to_float(float_to_bfloat16(x));
    }
    return t.param;
  };
  const std::vector<float> exact = run(0), compact = run(1), nearest = run(2);
  const OwnedTensor start = make_tensor(n, DType::float32, false, false);
  const auto distance = [](const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += d * d;
    }
    return std::sqrt(sum);
  };
  const double way = distance(exact, start.param);
  const double error = distance(compact, exact) / way,
               nearest_error = distance(nearest, exact) / way;
  INFO("compact " << error << ", to nearest " << nearest_error);
  CHECK(error < 0.01);  // measured: .0060, to nearest .059
  CHECK(error < nearest_error / 5);
}
