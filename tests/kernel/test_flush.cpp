// Numbers too small to count: the same results by the processor's flags and by arithmetic, no
// denormal number left anywhere, and the caller's mode as it was.
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "inputs.hpp"

using namespace alkn_test;

namespace {

struct Ieee {
  static float mul(float a, float b) noexcept { return a * b; }
  static float fma(float a, float b, float c) noexcept { return exact_fma(a, b, c); }
  static float div(float a, float b) noexcept { return a / b; }
};

std::uint32_t bits_of(float x) { return bit_copy<std::uint32_t>(x); }
bool denormal(float x) { return (bits_of(x) & 0x7F800000U) == 0 && (bits_of(x) << 1U) != 0; }

/// A number of any sign whose exponent lies in 2^low .. 2^high; often with few bits set, so that
/// products are exact or near a tie.
float any_number(Numbers& numbers, int low, int high) {
  const auto exponent =
      static_cast<std::uint32_t>(127 + low + numbers.below(std::int64_t{high} - low + 1));
  std::uint32_t mantissa = static_cast<std::uint32_t>(numbers.next()) & 0x7FFFFFU;
  const std::int64_t kind = numbers.below(4);
  if (kind == 0) mantissa = 0x7FFFFFU << numbers.below(24) & 0x7FFFFFU;
  if (kind == 1) mantissa = 1U << numbers.below(23);
  const auto sign = static_cast<std::uint32_t>(numbers.below(2)) << 31U;
  return bit_copy<float>(sign | exponent << 23U | mantissa);
}

/// Gradients over forty orders of magnitude, denormals and zeros among them.
float tiny_gradient(Numbers& numbers) {
  const std::int64_t kind = numbers.below(16);
  if (kind == 0) return 0;
  if (kind == 1) return bit_copy<float>(static_cast<std::uint32_t>(numbers.below(0x7FFFFF)));
  return any_number(numbers, -126, 4);
}

struct Tiny {
  bool later, compact, freeze;
  DType type;
  ScoreKind score;
};

/// Steps on such gradients; the tensors after them.
std::vector<OwnedTensor> steps_on_tiny(const Tiny& with, int steps) {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.max_norm = 1.0;
  args.score.penalty = 0.5F;
  args.score.alignment = -1;
  args.score.kind = with.score;
  args.masked = with.freeze ? Masked::freeze : Masked::gradient;
  Numbers numbers(77);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : {std::int64_t{3}, std::int64_t{1000}, std::int64_t{70001}}) {
    OwnedTensor t(size, with.type, with.type == DType::bfloat16 ? with.type : DType::float32);
    if (with.compact) t.make_compact();
    for (std::int64_t i = 0; i < size; ++i) {
      const float p = numbers.below(3) == 0 ? 0.0F : numbers.normal(0.3F);
      if (with.type != DType::float32) t.param_narrow[t.at(i)] = narrow(p, with.type);
      t.param[t.at(i)] = with.type == DType::float32 ? p : wide(t.param_narrow[t.at(i)], with.type);
      const float r = tiny_gradient(numbers);
      t.set_retain(i, with.score == ScoreKind::ratio ? 1 / (std::fabs(r) + 1e-30F) : r);
      if (with.later && numbers.below(3) == 0) {
        t.used[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
      }
    }
    t.has_used = with.later;
    t.learns = !with.later;
    tensors.push_back(t);
  }
  CpuStep cpu;
  for (int step = 1; step <= steps; ++step) {
    std::vector<StepTensor> views;
    for (std::size_t k = 0; k < tensors.size(); ++k) {
      OwnedTensor& t = tensors[k];
      for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, tiny_gradient(numbers));
      t.adamw.decay = 0.9999F, t.adamw.decay_used = 0.99F;
      t.adamw.step_size = 0.003F, t.adamw.step_size_used = 0.0001F;
      t.adamw.bias2_sqrt = 0.125F;
      t.seed = rounding_seed(static_cast<std::int64_t>(k), step);
      views.push_back(t.view());
    }
    args.threshold_due = !with.later && step % 3 != 0;
    cpu.run(views.data(), static_cast<std::int64_t>(views.size()), args, ParallelFor::serial());
    for (std::size_t k = 0; k < tensors.size(); ++k) tensors[k].threshold = views[k].threshold;
  }
  return tensors;
}

const Tiny kAll[] = {
    {false, false, false, DType::float32, ScoreKind::product},
    {true, false, false, DType::float32, ScoreKind::product},
    {true, false, true, DType::float32, ScoreKind::product},
    {false, false, false, DType::float32, ScoreKind::ratio},
    {false, false, true, DType::bfloat16, ScoreKind::product},
    {false, true, false, DType::float32, ScoreKind::product},
    {true, true, true, DType::bfloat16, ScoreKind::product},
};

#if defined(ALKN_X86)
/// The caller's own mode, for a scope: FTZ and DAZ, or IEEE.
class CallersMode {
 public:
  explicit CallersMode(bool flush) : before_(_mm_getcsr()) {
    _mm_setcsr(flush ? before_ | 0x8040U : before_ & ~0x8040U);
  }
  ~CallersMode() { _mm_setcsr(before_); }
  CallersMode(const CallersMode&) = delete;
  CallersMode& operator=(const CallersMode&) = delete;

 private:
  unsigned before_;
};
#endif

}  // namespace

#if defined(ALKN_X86)
// Not inlined into the loops: the compiler would move arithmetic across the change of the mode.
__attribute__((noinline)) static float by_flags(int operation, float a, float b, float c) {
  const FlushDenormals flush;
  volatile float x = a, y = b, z = c;
  volatile float result = 0;
  if (operation == 0) result = x * y;
  if (operation == 1) result = exact_fma(x, y, z);
  if (operation == 2) result = x / y;
  if (operation == 3) result = x + y;
  return result;
}

TEST_CASE("results settled by arithmetic are those of the processor's flags") {
  Numbers numbers(5);
  std::int64_t wrong = 0, tiny = 0, at_edge = 0;
  for (int i = 0; i < 4000000; ++i) {
    // products and quotients near 2^-126, sums of such a product and a number like it
    float a = any_number(numbers, -70, 30), b = any_number(numbers, -30, 30);
    const int operation = i % 4;
    const auto exponent = [](float x) {
      return static_cast<int>((bits_of(x) >> 23U) & 0xFFU) - 127;
    };
    const int aim = -127 + static_cast<int>(numbers.below(4));
    const int power = operation == 2 ? aim - exponent(a) + exponent(b) : aim - exponent(b);
    if (operation == 2) {
      a = std::ldexp(a, power < -56 ? -56 : power);
    } else if (operation != 3) {
      a = std::ldexp(a, power - exponent(a));
    } else {
      a = any_number(numbers, -126, -120), b = any_number(numbers, -126, -120);
    }
    a = flushed(a), b = flushed(b);
    float c = any_number(numbers, -126, -124);
    if (numbers.below(4) == 0) c = 0;
    const float expected = by_flags(operation, a, b, c);
    float got = 0;
    if (operation == 0) got = Settled<Ieee>::mul(a, b);
    if (operation == 1) got = Settled<Ieee>::fma(a, b, c);
    if (operation == 2) got = Settled<Ieee>::div(a, b);
    if (operation == 3) got = flushed(a + b);
    wrong += bits_of(got) != bits_of(expected) ? 1 : 0;
    tiny += (bits_of(expected) << 1U) == 0 ? 1 : 0;
    at_edge += (bits_of(expected) & 0x7FFFFFFFU) == 0x00800000U ? 1 : 0;
  }
  // (1 - 2^-12)(1 + 2^-12) = 1 - 2^-24 stays below 2^-126; of 2^-13 it rounds up to it
  for (const float off : {0x1p-12F, 0x1p-13F}) {
    const float a = 0x1p-63F * (1 - off), b = 0x1p-63F * (1 + off);
    CHECK(bits_of(Settled<Ieee>::mul(a, b)) == (off == 0x1p-12F ? 0U : 0x00800000U));
    CHECK(bits_of(by_flags(0, a, b, 0)) == (off == 0x1p-12F ? 0U : 0x00800000U));
    CHECK(bits_of(Settled<Ieee>::fma(a, b, 0)) == bits_of(by_flags(1, a, b, 0)));
  }
  CHECK(wrong == 0);
  CHECK(tiny > 100000);
  CHECK(at_edge > 1000);
}

TEST_CASE("100 steps on tiny gradients leave IEEE's weights") {
  constexpr std::int64_t kSize = 70016;  // each entry has a scale of its own, from 2^-140 to 2
  constexpr float kRate = 3e-5F;
  Numbers numbers(9);
  OwnedTensor t(kSize, DType::float32, DType::float32);
  for (std::int64_t i = 0; i < kSize; ++i) t.param[t.at(i)] = numbers.normal(0.02F);
  OwnedTensor ieee = t;
  CpuStep cpu;
  for (int step = 1; step <= 100; ++step) {
    for (std::int64_t i = 0; i < kSize; ++i) {
      t.set_grad(i, std::ldexp(numbers.normal(1.0F), -static_cast<int>(i % 141)));
    }
    t.adamw = adamw_numbers(step, static_cast<double>(kRate), 0.01);
    StepTensor view = t.view();
    cpu.run(&view, 1, StepArgs(), ParallelFor::serial());
    UpdatePass pass;  // the same kernel in the mode of this thread
    pass.size = pass.ahead.size = kSize, pass.adamw = t.adamw, pass.grad = t.grad.data();
    pass.param = ieee.param.data();
    pass.exp_avg = ieee.exp_avg.data(), pass.exp_avg_sq = ieee.exp_avg_sq.data();
    kernels().fp32.update_all[0](pass);
  }
  double worst = 0;
  std::int64_t num_denormal = 0;
  for (std::size_t i = 0; i < t.param.size(); ++i) {
    const auto off = static_cast<double>(ieee.param[i]) - static_cast<double>(t.param[i]);
    const auto scale = static_cast<double>(std::max(std::fabs(ieee.param[i]), kRate));
    worst = std::max(worst, std::fabs(off) / scale);
    num_denormal += denormal(ieee.exp_avg_sq[i]) ? 1 : 0;
  }
  CHECK(worst <= 4 * 1.1920928955078125e-7);
  CHECK(num_denormal > 1000);
}

TEST_CASE("the caller's mode changes no bit of a step, and comes back") {
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    INFO(simd_name(level));
    for (const bool flush : {false, true}) {
      const CallersMode mode(flush);
      const unsigned before = _mm_getcsr();
      std::vector<OwnedTensor> tensors = steps_on_tiny(kAll[1], 3);
      CHECK(_mm_getcsr() == before);
      const CallersMode ieee(false);
      CHECK(hash_of(tensors) == hash_of(steps_on_tiny(kAll[1], 3)));
    }
  }
}
#endif

TEST_CASE("no number becomes denormal in steps on tiny gradients") {
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    for (const Tiny& setting : kAll) {
      INFO(simd_name(level) << ", later " << setting.later << ", compact " << setting.compact);
      std::int64_t found = 0, tiny = 0;
      for (const OwnedTensor& t : steps_on_tiny(setting, 12)) {
        for (const auto* array : {&t.exp_avg, &t.exp_avg_sq, &t.score, &t.param}) {
          for (const float x : *array) {
            found += denormal(x) ? 1 : 0;
            tiny += x != 0 && std::fabs(x) < 1e-30F ? 1 : 0;
          }
        }
        for (const auto* array : {&t.exp_avg_narrow, &t.exp_avg_sq_narrow, &t.score_narrow}) {
          for (const std::uint16_t x : *array) found += denormal(bfloat16_to_float(x)) ? 1 : 0;
        }
        found += denormal(t.threshold) ? 1 : 0;
      }
      CHECK(found == 0);
      if (!setting.compact) CHECK(tiny > 300);  // the inputs reach down there
    }
  }
}

TEST_CASE("moments under a closed mask end at zero, not at denormals") {
  OwnedTensor t(64, DType::float32, DType::float32);
  StepArgs args;
  args.mask = MaskKind::given;
  t.exp_avg.assign(64, 1e-3F), t.exp_avg_sq.assign(64, 1e-36F);
  CpuStep cpu;
  for (int step = 1; step <= 1100; ++step) {
    t.adamw = adamw_numbers(step, 1e-3, 0);
    t.adamw.beta2 = 0.99F;
    StepTensor view = t.view();
    cpu.run(&view, 1, args, ParallelFor::serial());
  }
  for (const float x : t.exp_avg) CHECK(bits_of(x) == 0);
  for (const float x : t.exp_avg_sq) CHECK(bits_of(x) == 0);
}

TEST_CASE("the same bits in every build on tiny gradients") {
  const std::uint64_t pinned[] = {0x75A7EED99AB112B5U, 0x91CD729A87FDC720U, 0xFD40C0BE01B2FDCAU,
                                  0x3C70695B57F0F818U, 0x164C3DB3662DA7A4U, 0x2131CEAD4D1B607FU,
                                  0x904A499EDE51D853U};
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    for (std::size_t i = 0; i < std::size(kAll); ++i) {
      INFO(simd_name(level) << ", setting " << i);
      CHECK(hash_of(steps_on_tiny(kAll[i], 8)) == pinned[i]);
    }
  }
}

TEST_CASE("numbers that are not tiny are as before: NaN, infinities, huge values") {
  StepArgs args;
  args.mask = MaskKind::localized, args.threshold_due = true;
  for (const float odd :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    OwnedTensor t(100, DType::float32, DType::float32);
    t.param.assign(100, 0.5F), t.retain.assign(100, 1.0F), t.grad.assign(100, 1e-20F);
    t.grad[7] = odd;
    StepTensor view = t.view();
    CpuStep cpu;
    CHECK(cpu.run(&view, 1, args, ParallelFor::serial()).skipped);
    CHECK(t.param == std::vector<float>(100, 0.5F));
  }
  OwnedTensor t(100, DType::float32, DType::float32);
  t.retain.assign(100, 1e18F), t.grad.assign(100, 1e18F);
  t.adamw = adamw_numbers(1, 1e-3, 0);
  StepTensor view = t.view();
  CpuStep cpu;
  cpu.run(&view, 1, args, ParallelFor::serial());
  CHECK(t.score == std::vector<float>(100, 1e18F * 1e18F));
  args.mask = MaskKind::none;
  view = t.view();
  cpu.run(&view, 1, args, ParallelFor::serial());
  CHECK(t.exp_avg == std::vector<float>(100, 1e18F * static_cast<float>(1 - 0.9)));
}
