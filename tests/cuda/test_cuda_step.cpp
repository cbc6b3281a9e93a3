// The CUDA kernels on the CPU, block by block, against the CPU backend: every bit that a step
// writes.
#include <cmath>
#include <sstream>

#include "catch.hpp"
#if defined(ALKN_TEST_ON_DEVICE)
#include "gpu/device_step.hpp"
#else
#include "emulated_step.hpp"
#endif

using namespace alkn_test;

namespace {

struct Setting {
  StepArgs args;
  DType type = DType::float32, retain_type = DType::float32;
  bool second_task = false;
  double low_ratio = 1;
  std::int64_t shift = 0;
  bool compact = false;
  bool tiny = false;  ///< gradients over forty orders of magnitude, denormals among them
};

/// A gradient of the setting, about `scale` where it is not tiny.
float gradient_of(const Setting& s, Numbers& numbers, float scale) {
  const float x = numbers.normal(scale);
  return s.tiny ? std::ldexp(x, -static_cast<int>(numbers.below(146))) : x;
}

/// Around a group of 4, a word, a tile, the direct selection, a unit and a chunk.
const std::vector<std::int64_t> kSizes = {0,     1,     3,     4,     5,
                                          9,     10,    11,    63,    64,
                                          65,    127,   255,   1024,  1025,
                                          8191,  8192,  8193,  9973,  16384,
                                          16385, 65535, 65536, 65537, 65536 + 16384 + 7,
                                          150001};

std::vector<OwnedTensor> make_tensors(const Setting& s, const std::vector<std::int64_t>& sizes) {
  Numbers numbers(11);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : sizes) {
    OwnedTensor t(size, s.type, s.retain_type, s.shift);
    if (s.compact) t.make_compact();
    for (std::int64_t i = 0; i < size; ++i) {
      t.param[t.at(i)] = numbers.normal(0.3F);
      if (s.type != DType::float32) t.param_narrow[t.at(i)] = narrow(t.param[t.at(i)], s.type);
      const float r = gradient_of(s, numbers, 0.05F);
      const float least = s.tiny ? 1e-30F : 0.04F;
      t.set_retain(i, s.args.score.kind == ScoreKind::ratio ? 1.0F / (std::fabs(r) + least) : r);
      const std::uint64_t bit = std::uint64_t{1} << (i % 64);
      if (numbers.below(3) == 0) t.used[static_cast<std::size_t>(i / 64)] |= bit;
      if (s.args.mask == MaskKind::given && numbers.below(2) == 0) {
        t.mask[static_cast<std::size_t>(i / 64)] |= bit;
      }
    }
    t.has_used = s.second_task;
    t.learns = !s.second_task;
    t.threshold = s.second_task ? -0.0005F : 0.0F;
    tensors.push_back(std::move(t));
  }
  return tensors;
}

void new_gradients(std::vector<OwnedTensor>& tensors, const Setting& s, int step) {
  Numbers numbers(1000 + static_cast<std::uint64_t>(step));
  for (OwnedTensor& t : tensors) {
    for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, gradient_of(s, numbers, 0.05F));
    t.adamw = adamw_numbers(step, 3e-3, 0.01, s.low_ratio);
    t.seed = rounding_seed(t.size, step);
  }
}

/// One step by fn; returns its result, the thresholds go back into the tensors.
template <class Fn>
StepResult step_by(std::vector<OwnedTensor>& tensors, std::vector<StepTensor>& views, Fn fn) {
  views.clear();
  for (OwnedTensor& t : tensors) views.push_back(t.view());
  const StepResult result = fn(views.data(), static_cast<std::int64_t>(views.size()));
  for (std::size_t t = 0; t < tensors.size(); ++t) tensors[t].threshold = views[t].threshold;
  return result;
}

std::uint32_t bits(float x) { return bit_copy<std::uint32_t>(x); }

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

void check_same(const std::vector<OwnedTensor>& got, const std::vector<OwnedTensor>& want) {
  for (std::size_t k = 0; k < got.size(); ++k) {
    INFO("size " << got[k].size);
    CHECK(bits(got[k].threshold) == bits(want[k].threshold));
    CHECK(got[k].mask == want[k].mask);
    CHECK(same(got[k].score, want[k].score));
    CHECK(same(got[k].param, want[k].param));
    CHECK(same(got[k].exp_avg, want[k].exp_avg));
    CHECK(same(got[k].exp_avg_sq, want[k].exp_avg_sq));
    CHECK(same(got[k].grad_out, want[k].grad_out));
    CHECK(got[k].param_narrow == want[k].param_narrow);
    CHECK(got[k].exp_avg_narrow == want[k].exp_avg_narrow);
    CHECK(got[k].exp_avg_sq_narrow == want[k].exp_avg_sq_narrow);
    CHECK(got[k].score_narrow == want[k].score_narrow);
  }
}

/// Steps by the emulated kernels and by CpuStep from one state; compares all that they write.
template <class Emulated>
void check_setting(const Setting& s, Emulated emulated,
                   const std::vector<std::int64_t>& sizes = kSizes, int steps = 3) {
  std::vector<OwnedTensor> got = make_tensors(s, sizes), want = make_tensors(s, sizes);
  std::vector<StepTensor> got_views, want_views;
  CpuStep cpu;
  StepArgs args = s.args;
  for (int step = 1; step <= steps; ++step) {
    INFO("step " << step);
    args.threshold_due = s.args.threshold_due && step != 2;
    new_gradients(got, s, step);
    new_gradients(want, s, step);
    const StepResult result = step_by(got, got_views, [&](StepTensor* tensors, std::int64_t n) {
      return emulated.run(tensors, n, args);
    });
    const StepResult expected = step_by(want, want_views, [&](StepTensor* tensors, std::int64_t n) {
      return cpu.run(tensors, n, args, ParallelFor::serial());
    });
    CHECK(result.grad_norm == expected.grad_norm);
    CHECK(result.clip_scale == expected.clip_scale);
    CHECK(result.skipped == expected.skipped);
    check_same(got, want);
    for (std::size_t t = 0; t < got.size(); ++t) {
      CHECK(got_views[t].num_trained == want_views[t].num_trained);
      CHECK(bits(got_views[t].deviation) == bits(want_views[t].deviation));
    }
    CHECK(emulated.num_launches <= 8);
    CHECK(emulated.num_missed == 0);
    CHECK(emulated.histograms_clean());
  }
}

Setting localized() {
  Setting s;
  s.args.mask = MaskKind::localized;
  s.args.threshold_due = true;
  s.args.max_norm = 1;
  s.args.score.alignment = -1;
  s.args.score.penalty = 0.5F;
  return s;
}

EmulatedStep<Fibers> fibers(Order order = Order::forward, Grid grid = {}) {
  return EmulatedStep<Fibers>(Fibers(order), grid);
}

}  // namespace

TEST_CASE("a first task's step has the bits of the CPU's") {
  Setting s = localized();
  SECTION("product") {}
  SECTION("ratio") { s.args.score.kind = ScoreKind::ratio; }
  SECTION("frozen") { s.args.masked = Masked::freeze; }
  SECTION("a foreign optimizer's gradient") { s.args.update = Update::gradient; }
  SECTION("everything to be trained") { s.args.unmask_ratio = 1; }
  SECTION("unaligned") { s.shift = 3; }
  check_setting(s, fibers());
}

TEST_CASE("a later task's step has the bits of the CPU's") {
  Setting s = localized();
  s.second_task = true;
  s.args.threshold_due = false;
  s.low_ratio = 0.1;
  SECTION("deviation of products") {}
  SECTION("deviation of gradients") { s.args.score.penalty_scale = PenaltyScale::gradient; }
  SECTION("ratio") { s.args.score.kind = ScoreKind::ratio; }
  SECTION("frozen") { s.args.masked = Masked::freeze; }
  check_setting(s, fibers());
}

TEST_CASE("steps without a score have the bits of the CPU's") {
  Setting s;
  s.args.max_norm = 1;
  SECTION("no mask") {}
  SECTION("no mask, no norm") { s.args.max_norm = 0, s.args.check_finite = false; }
  SECTION("a given mask") { s.args.mask = MaskKind::given; }
  SECTION("a given mask, frozen") { s.args.mask = MaskKind::given, s.args.masked = Masked::freeze; }
  SECTION("a given mask, for a foreign optimizer") {
    s.args.mask = MaskKind::given, s.args.update = Update::gradient;
  }
  check_setting(s, fibers());
}

TEST_CASE("gradients too small to count give the bits of the CPU") {
  Setting s = localized();
  s.tiny = true;
  SECTION("first task") {}
  SECTION("ratio") { s.args.score.kind = ScoreKind::ratio; }
  SECTION("bfloat16") { s.type = s.retain_type = DType::bfloat16; }
  SECTION("later task") { s.second_task = true, s.args.threshold_due = false; }
  SECTION("compact state, later task, frozen") {
    s.second_task = s.compact = true, s.args.threshold_due = false;
    s.args.masked = Masked::freeze;
  }
  SECTION("AdamW") { s.args = StepArgs(); }
  SECTION("a foreign optimizer's gradient") { s.args.update = Update::gradient; }
  check_setting(s, fibers());
}

TEST_CASE("16-bit parameters and retain gradients give the bits of the CPU") {
  Setting s = localized();
  s.retain_type = DType::bfloat16;
  SECTION("bfloat16") { s.type = DType::bfloat16; }
  SECTION("half") { s.type = DType::float16; }
  SECTION("bfloat16, unaligned, later task") {
    s.type = DType::bfloat16;
    s.shift = 1, s.second_task = true, s.args.threshold_due = false;
  }
  SECTION("float with a bfloat16 retain gradient") {}
  check_setting(s, fibers());
}

TEST_CASE("the compact state has the bits of the CPU's") {
  Setting s = localized();
  s.compact = true;
  s.type = s.retain_type = DType::bfloat16;
  SECTION("first task") {}
  SECTION("first task, fp32 model, unaligned") {
    s.type = s.retain_type = DType::float32;
    s.shift = 1;
  }
  SECTION("first task, frozen, half") { s.type = DType::float16, s.args.masked = Masked::freeze; }
  SECTION("first task, ratio, a foreign optimizer's gradient") {
    s.args.score.kind = ScoreKind::ratio, s.args.update = Update::gradient;
  }
  SECTION("later task") { s.second_task = true, s.args.threshold_due = false; }
  SECTION("no mask") { s.args = StepArgs(); }
  SECTION("given mask") {
    s.args = StepArgs();
    s.args.mask = MaskKind::given;
  }
  check_setting(s, fibers());
}

namespace {

bool is_nan(std::uint16_t x) { return (x & 0x7FFFU) > 0x7F80U; }
bool is_finite(std::uint16_t x) { return (x & 0x7F80U) != 0x7F80U; }

/// Compact states with NaN of several patterns in them, and in gradients and retain gradients.
std::vector<OwnedTensor> tensors_with_nan(const Setting& s,
                                          const std::vector<std::int64_t>& sizes) {
  constexpr std::uint16_t kPatterns[] = {0x7FC0U, 0xFFC0U, 0xFFFFU, 0x7FC5U};
  std::vector<OwnedTensor> tensors = make_tensors(s, sizes);
  new_gradients(tensors, s, 1);
  for (OwnedTensor& t : tensors) {
    for (std::int64_t i = 0; i < t.size; ++i) {
      const std::uint16_t nan = kPatterns[static_cast<std::size_t>(i) % 4];
      if (i % 53 == 3) t.set_grad(i, std::nanf(""));
      if (i % 97 == 5) t.set_retain(i, std::nanf(""));
      if (i % 61 == 0) t.exp_avg_narrow[t.at(i)] = t.exp_avg_sq_narrow[t.at(i)] = nan;
      if (i % 67 == 1) t.score_narrow[t.at(i)] = nan;
    }
  }
  return tensors;
}

/// How many values are not what a step must make of those `before`, by the scores after it.
std::int64_t count_wrong_nan(const OwnedTensor& before, const OwnedTensor& t,
                             const StepArgs& args) {
  const bool localized = args.mask == MaskKind::localized;
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < t.size; ++i) {
    const std::size_t k = t.at(i);
    const bool grad = std::isnan(t.grad[k]);
    const bool score =
        localized && (grad || std::isnan(t.retain[k]) || is_nan(before.score_narrow[k]));
    const bool on = !localized || (t.size < 10 || OwnedTensor::bit(t.mask, i));
    const bool moves = on || args.masked != Masked::freeze;
    const bool moment = is_nan(before.exp_avg_narrow[k]) || (on && grad);
    if (localized) wrong += score ? !is_nan(t.score_narrow[k]) : !is_finite(t.score_narrow[k]);
    for (const auto& [old, now] : {std::pair(&before.exp_avg_narrow, &t.exp_avg_narrow),
                                   std::pair(&before.exp_avg_sq_narrow, &t.exp_avg_sq_narrow)}) {
      wrong += moment ? !is_nan((*now)[k]) : !is_finite((*now)[k]);
      if (!moves) wrong += (*now)[k] != (*old)[k];
    }
  }
  return wrong;
}

}  // namespace

TEST_CASE("NaN stays NaN in the compact state, on every instruction set with the same bits") {
  Setting s;
  s.compact = true;
  s.type = s.retain_type = DType::bfloat16;
  s.args.check_finite = false;
  SECTION("no mask") {}
  SECTION("localized") { s.args.mask = MaskKind::localized, s.args.threshold_due = true; }
  SECTION("localized, frozen") {
    s.args.mask = MaskKind::localized, s.args.threshold_due = true;
    s.args.masked = Masked::freeze;
  }
  const std::vector<std::int64_t> sizes = {1, 4, 9, 11, 65, 130, 8193, 20011};
  const std::vector<OwnedTensor> before = tensors_with_nan(s, sizes);
  std::vector<OwnedTensor> got = before;
  std::vector<StepTensor> views;
  EmulatedStep<Fibers> emulated = fibers();
  step_by(got, views,
          [&](StepTensor* tensors, std::int64_t n) { return emulated.run(tensors, n, s.args); });
  for (std::size_t k = 0; k < got.size(); ++k) {
    INFO("size " << got[k].size);
    CHECK(count_wrong_nan(before[k], got[k], s.args) == 0);
  }
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    std::vector<OwnedTensor> want = before;
    CpuStep cpu;
    step_by(want, views, [&](StepTensor* tensors, std::int64_t n) {
      return cpu.run(tensors, n, s.args, ParallelFor::serial());
    });
    for (std::size_t k = 0; k < got.size(); ++k) {
      INFO(simd_name(level) << ", size " << got[k].size);
      CHECK(count_wrong_nan(before[k], want[k], s.args) == 0);
      CHECK(bits(got[k].threshold) == bits(want[k].threshold));
      CHECK(got[k].mask == want[k].mask);
      CHECK(got[k].score_narrow == want[k].score_narrow);
      CHECK(got[k].exp_avg_narrow == want[k].exp_avg_narrow);
      CHECK(got[k].exp_avg_sq_narrow == want[k].exp_avg_sq_narrow);
      CHECK(got[k].param_narrow == want[k].param_narrow);
    }
  }
}

TEST_CASE("neither grid nor order of blocks and threads changes a bit") {
  const Setting s = localized();
  const std::vector<std::int64_t> sizes = {9, 257, 8192, 70001};
  check_setting(s, fibers(Order::forward, {1, 32}), sizes);
  check_setting(s, fibers(Order::backward, {7, 128}), sizes);
  check_setting(s, fibers(Order::mixed, {16, 256}), sizes);
  check_setting(s, fibers(Order::mixed, {500, 32}), sizes);
}

TEST_CASE("threads of the operating system give the same bits") {
  check_setting(localized(), EmulatedStep<RealThreads>(RealThreads(), {2, 32}), {5, 300, 9001}, 1);
}
