// The whole step against the reference, for every option, type, instruction set and number of
// threads.
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "reference.hpp"

using namespace alkn_test;

namespace alkn_test {
std::int64_t num_allocations();  // counting_new.cpp
}

namespace {

const auto kSerialPool = [](std::int64_t num_items, RangeBody body) { body(0, num_items); };

struct Setting {
  StepArgs args;
  DType type = DType::float32, retain_type = DType::float32;
  bool second_task = false;
  double low_ratio = 1;
  std::int64_t shift = 0;
};

const std::vector<std::int64_t> kSizes = {
    0,   1,   7,   8,   9,   10,  11,   15,   16,   17,    31,    63,    64,          65,    127,
    128, 129, 255, 256, 257, 997, 2047, 2048, 2049, 65535, 65536, 65537, 131072 + 63, 200003};

std::vector<OwnedTensor> make_tensors(const Setting& s, const std::vector<std::int64_t>& sizes,
                                      std::uint64_t seed) {
  Numbers numbers(seed);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : sizes) {
    OwnedTensor t(size, s.type, s.retain_type, s.shift);
    for (std::int64_t i = 0; i < size; ++i) {
      t.param[t.at(i)] = numbers.normal(0.3F);
      if (s.type != DType::float32) t.param_narrow[t.at(i)] = narrow(t.param[t.at(i)], s.type);
      const float r = numbers.normal(0.05F);
      t.set_retain(i, s.args.score.kind == ScoreKind::ratio ? 1.0F / (std::fabs(r) + 0.04F) : r);
      if (numbers.below(3) == 0) {
        t.used[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
      }
      if (s.args.mask == MaskKind::given && numbers.below(2) == 0) {
        t.mask[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
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
    for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, numbers.normal(0.05F));
    t.adamw = adamw_numbers(step, 3e-3, 0.01, s.low_ratio);
  }
}

template <class Pool>
StepResult take_step(CpuStep& cpu, std::vector<OwnedTensor>& tensors, const StepArgs& args,
                     Pool& pool, std::int64_t threads,
                     std::vector<std::int64_t>* num_trained = nullptr) {
  std::vector<StepTensor> views;
  for (OwnedTensor& t : tensors) views.push_back(t.view());
  const StepResult result = cpu.run(views.data(), static_cast<std::int64_t>(views.size()), args,
                                    ParallelFor(pool, threads));
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    tensors[t].threshold = views[t].threshold;
    if (num_trained != nullptr) num_trained->push_back(views[t].num_trained);
  }
  return result;
}

float largest(const std::vector<float>& v) {
  float most = 1e-30F;
  for (const float x : v) most = std::max(most, std::fabs(x));
  return most;
}

/// Compares all that a step writes; a mask bit may differ where the score is at the threshold.
void compare(const std::vector<OwnedTensor>& got, const std::vector<OwnedTensor>& want,
             const Setting& s) {
  for (std::size_t k = 0; k < got.size(); ++k) {
    const OwnedTensor &a = got[k], &b = want[k];
    INFO("size " << a.size);
    const float score_bound = 1e-6F * largest(b.score);
    const float first_bound = 1e-6F * largest(b.exp_avg);
    const float second_bound = 1e-6F * largest(b.exp_avg_sq);
    const bool localized = s.args.mask == MaskKind::localized;
    if (localized)
      CHECK(std::fabs(a.threshold - b.threshold) <=
            1e-6F * std::max(largest(b.score), std::fabs(b.threshold)));
    std::int64_t wrong = 0, moments = 0, params = 0, outs = 0, narrows = 0, bits = 0;
    for (std::int64_t i = 0; i < a.size; ++i) {
      const std::size_t at = a.at(i);
      const bool near = localized && std::fabs(b.score[at] - b.threshold) <= 2 * score_bound;
      wrong += !(std::fabs(a.score[at] - b.score[at]) <= score_bound);
      if (near) continue;
      bits += OwnedTensor::bit(a.mask, i) != OwnedTensor::bit(b.mask, i);
      moments += !(std::fabs(a.exp_avg[at] - b.exp_avg[at]) <= first_bound);
      moments += !(std::fabs(a.exp_avg_sq[at] - b.exp_avg_sq[at]) <= second_bound);
      params += !(std::fabs(a.param[at] - b.param[at]) <= 1e-6F);
      outs += !(std::fabs(a.grad_out[at] - b.grad_out[at]) <= 1e-7F);
      if (s.type != DType::float32 && s.args.update == Update::adamw) {
        narrows += a.param_narrow[at] != narrow(a.param[at], s.type);
      }
    }
    CHECK(wrong == 0);
    CHECK(bits == 0);
    CHECK(moments == 0);
    CHECK(params == 0);
    CHECK(outs == 0);
    CHECK(narrows == 0);
    if (a.size % 64 != 0) CHECK((a.mask.back() >> (a.size % 64)) == 0);
  }
}

void check_setting(const Setting& s, int steps = 4) {
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    INFO("instruction set " << simd_name(level));
    std::vector<OwnedTensor> got = make_tensors(s, kSizes, 3), want = make_tensors(s, kSizes, 3);
    CpuStep cpu;
    Threads pool{2};
    StepArgs args = s.args;
    for (int step = 1; step <= steps; ++step) {
      INFO("step " << step);
      args.threshold_due = s.args.threshold_due && step != 3;
      new_gradients(got, s, step);
      new_gradients(want, s, step);
      std::vector<std::int64_t> num_trained;
      const StepResult result = take_step(cpu, got, args, pool, 2, &num_trained);
      const ReferenceResult expected = reference_step(want, args);
      CHECK(result.grad_norm == Approx(expected.norm).epsilon(1e-12));
      CHECK(result.clip_scale == Approx(expected.scale).epsilon(1e-12));
      CHECK_FALSE(result.skipped);
      compare(got, want, s);
      for (std::size_t t = 0; s.args.mask == MaskKind::localized && t < got.size(); ++t) {
        std::int64_t bits = 0;
        for (const std::uint64_t word : got[t].mask) bits += __builtin_popcountll(word);
        CHECK(num_trained[t] == bits);
      }
    }
  }
}

Setting localized() {
  Setting s;
  s.args.mask = MaskKind::localized;
  s.args.max_norm = 1.0;
  s.args.score.penalty = 0.5F;
  s.args.threshold_due = true;
  s.args.score.alignment = -1;
  return s;
}

}  // namespace

TEST_CASE("AdamW without a mask") {
  Setting s;
  s.args.max_norm = 1.0;
  check_setting(s);
  s.args.max_norm = 0;
  s.second_task = true;
  s.low_ratio = 0.1;
  check_setting(s);
}

TEST_CASE("a given mask") {
  Setting s;
  s.args.mask = MaskKind::given;
  s.args.max_norm = 1.0;
  check_setting(s);
  s.args.masked = Masked::freeze;
  check_setting(s);
}

TEST_CASE("first task") {
  Setting s = localized();
  check_setting(s, 6);
  s.args.score.alignment = 1;
  s.args.unmask_ratio = 0.4;
  s.args.masked = Masked::freeze;
  check_setting(s);
  s.args.unmask_ratio = 1.0;
  check_setting(s);
  s.args.unmask_ratio = 0.55;
  s.args.trim_ratio = 0.05;
  s.args.score.kind = ScoreKind::ratio;
  check_setting(s);
}

TEST_CASE("later task") {
  Setting s = localized();
  s.second_task = true;
  s.low_ratio = 0.1;
  check_setting(s);
  s.args.score.penalty_scale = PenaltyScale::gradient;
  s.args.masked = Masked::freeze;
  check_setting(s);
  s.args.score.kind = ScoreKind::ratio;
  s.args.score.penalty_scale = PenaltyScale::product;
  check_setting(s);
}

TEST_CASE("the gradient for another optimizer") {
  Setting s = localized();
  s.args.update = Update::gradient;
  check_setting(s);
  s.type = DType::bfloat16;
  s.second_task = true;
  check_setting(s);
  s.args.mask = MaskKind::none;
  check_setting(s);
}

TEST_CASE("low precision") {
  Setting s = localized();
  s.type = DType::bfloat16;
  s.retain_type = DType::bfloat16;
  check_setting(s);
  s.type = DType::float16;
  s.retain_type = DType::float32;
  s.second_task = true;
  check_setting(s);
  s.args.mask = MaskKind::none;
  check_setting(s);
}

TEST_CASE("unaligned arrays") {
  Setting s = localized();
  s.shift = 3;
  check_setting(s);
}

TEST_CASE("the same bits for every instruction set, number of threads and split") {
  Setting s = localized();
  const bool later = GENERATE(false, true);
  s.second_task = later;
  s.low_ratio = 0.1;
  std::vector<std::int64_t> sizes = kSizes;
  sizes.push_back(1500007);
  std::vector<OwnedTensor> first;
  std::vector<double> norms;
  const auto run = [&](auto pool, std::int64_t threads, SimdLevel level) {
    const WithSimd with(level);
    INFO(simd_name(level) << ", " << threads << " threads");
    std::vector<OwnedTensor> got = make_tensors(s, sizes, 11);
    CpuStep cpu;
    for (int step = 1; step <= 5; ++step) {
      new_gradients(got, s, step);
      const StepResult result = take_step(cpu, got, s.args, pool, threads);
      if (first.empty()) norms.push_back(result.grad_norm);
      CHECK(result.grad_norm == norms[static_cast<std::size_t>(step - 1)]);
    }
    if (first.empty()) {
      first = std::move(got);
      return;
    }
    const auto same = [](const auto& a, const auto& b) {
      return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    for (std::size_t t = 0; t < got.size(); ++t) {
      INFO("size " << got[t].size);
      CHECK(same(got[t].param, first[t].param));
      CHECK(same(got[t].exp_avg, first[t].exp_avg));
      CHECK(same(got[t].exp_avg_sq, first[t].exp_avg_sq));
      CHECK(same(got[t].score, first[t].score));
      CHECK(same(got[t].mask, first[t].mask));
      CHECK(std::memcmp(&got[t].threshold, &first[t].threshold, sizeof(float)) == 0);
    }
  };
  for (const SimdLevel level : simd_levels()) {
    run(Threads{1}, 1, level);
    run(Threads{2}, 2, level);
  }
  run(Threads{5}, 5, simd_level());
  run(Threads{3}, 1, simd_level());  // more bodies than announced
  run(Backwards{1}, 1, simd_level());
  run(Backwards{3}, 4, simd_level());
}

TEST_CASE("the same bits in every build") {
  // FNV-1a over all that eight steps write, pinned: any compiler, any flags, any instruction set.
  Setting s = localized();
  s.second_task = GENERATE(false, true);
  s.type = GENERATE(DType::float32, DType::bfloat16);
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    std::vector<OwnedTensor> tensors = make_tensors(s, {3, 40, 1000, 70001, 200003}, 23);
    CpuStep cpu;
    for (int step = 1; step <= 8; ++step) {
      new_gradients(tensors, s, step);
      for (OwnedTensor& t : tensors) {
        t.adamw = AdamWLanes<float>();
        t.adamw.decay = 0.9999F, t.adamw.decay_used = 0.99F;
        t.adamw.step_size = 0.003F, t.adamw.step_size_used = 0.0001F;
        t.adamw.bias2_sqrt = 0.125F;
      }
      s.args.threshold_due = step % 3 != 0;
      take_step(cpu, tensors, s.args, kSerialPool, 1);
    }
    std::uint64_t hash = 0xCBF29CE484222325U;
    const auto mix = [&](const auto& values) {
      const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
      for (std::size_t i = 0; i < values.size() * sizeof(values[0]); ++i) {
        hash = (hash ^ bytes[i]) * 0x100000001B3U;
      }
    };
    for (const OwnedTensor& t : tensors) {
      mix(t.param), mix(t.param_narrow), mix(t.exp_avg), mix(t.exp_avg_sq), mix(t.score),
          mix(t.mask);
      mix(std::vector<float>{t.threshold});
    }
    INFO(simd_name(level) << ", later " << s.second_task << ", bfloat16 "
                          << (s.type != DType::float32));
    const std::uint64_t pinned[2][2] = {{0xF39B4005E9944610U, 0x61E0F8F5EEB774FAU},
                                        {0x12C3A5523C14BCF8U, 0x783B63D1E1934AD7U}};
    CHECK(hash == pinned[s.second_task ? 1 : 0][s.type == DType::float32 ? 0 : 1]);
  }
}

TEST_CASE("a step with the sizes of the last one allocates nothing") {
  Setting s = localized();
  for (const bool later : {false, true}) {
    s.second_task = later;
    std::vector<OwnedTensor> tensors = make_tensors(s, {3, 40, 300, 1000, 70001, 200003}, 29);
    CpuStep cpu;
    for (int step = 1; step <= 12; ++step) {
      new_gradients(tensors, s, step);
      if (step % 5 == 0) {  // what was predicted misses
        for (OwnedTensor& t : tensors) {
          for (float& m : t.score) m = m * 1000.0F + 1.0F;
        }
      }
      std::vector<StepTensor> views;
      for (OwnedTensor& t : tensors) views.push_back(t.view());
      const std::int64_t before = num_allocations();
      cpu.run(views.data(), static_cast<std::int64_t>(views.size()), s.args,
              ParallelFor(kSerialPool, 2));
      INFO("step " << step);
      if (step > 1) CHECK(num_allocations() == before);
    }
  }
}

TEST_CASE("thousands of small tensors") {
  const Setting s = localized();
  std::vector<std::int64_t> sizes;
  Numbers numbers(5);
  for (int i = 0; i < 3000; ++i) sizes.push_back(numbers.below(400));
  std::vector<OwnedTensor> got = make_tensors(s, sizes, 7), want = make_tensors(s, sizes, 7);
  CpuStep cpu;
  Threads pool{2};
  for (int step = 1; step <= 5; ++step) {
    new_gradients(got, s, step);
    new_gradients(want, s, step);
    take_step(cpu, got, s.args, pool, 2);
    reference_step(want, s.args);
    compare(got, want, s);
  }
}

TEST_CASE("a norm that is not finite skips the step and writes nothing") {
  Setting s = localized();
  s.second_task = GENERATE(false, true);
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const double max_norm : {0.0, 1.0}) {
      s.args.max_norm = max_norm;
      std::vector<OwnedTensor> got = make_tensors(s, {100, 70000}, 7), before = got;
      new_gradients(got, s, 1);
      got[1].set_grad(69999, bad);
      CpuStep cpu;
      Threads pool{2};
      const StepResult result = take_step(cpu, got, s.args, pool, 2);
      CHECK(result.skipped);
      for (std::size_t t = 0; t < got.size(); ++t) {
        CHECK(got[t].param == before[t].param);
        CHECK(got[t].score == before[t].score);
        CHECK(got[t].exp_avg == before[t].exp_avg);
        CHECK(got[t].mask == before[t].mask);
        CHECK(got[t].threshold == before[t].threshold);
      }
    }
  }
}

TEST_CASE("without the check a step that needs no norm takes none") {
  Setting s;
  s.args.check_finite = false;
  std::vector<OwnedTensor> got = make_tensors(s, {100, 70000}, 7), want = got;
  new_gradients(got, s, 1);
  new_gradients(want, s, 1);
  CpuStep cpu;
  Threads pool{2};
  CHECK(take_step(cpu, got, s.args, pool, 2).grad_norm == 0);
  reference_step(want, s.args);
  compare(got, want, s);
  got[1].set_grad(5, std::numeric_limits<float>::quiet_NaN());
  CHECK_FALSE(take_step(cpu, got, s.args, pool, 2).skipped);
  s.args.max_norm = 1;
  CHECK(take_step(cpu, got, s.args, pool, 2).skipped);
}

TEST_CASE("what is missing is named before anything is written") {
  Setting s = localized();
  std::vector<OwnedTensor> tensors = make_tensors(s, {100, 100}, 7);
  new_gradients(tensors, s, 1);
  const auto message = [&](auto change, StepArgs args) -> std::string {
    std::vector<StepTensor> views = {tensors[0].view(), tensors[1].view()};
    change(views[1]);
    CpuStep cpu;
    try {
      cpu.run(views.data(), 2, args, ParallelFor::serial());
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string head = "alkn::kernel::CpuStep: expected ";
  CHECK(message([](StepTensor& t) { t.grad = nullptr; }, s.args) ==
        head + "a gradient, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.param = nullptr; }, s.args) ==
        head + "a parameter, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.type = DType::bfloat16; }, s.args) ==
        head + "fp32 masters of a 16-bit parameter, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.exp_avg_sq = nullptr; }, s.args) ==
        head + "two moments, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.mask = nullptr; }, s.args) ==
        head + "a mask, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.retain = nullptr; }, s.args) ==
        head + "a retain gradient, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.score = nullptr; }, s.args) ==
        head + "a score, got null (tensor 1)");
  CHECK(message([](StepTensor& t) { t.size = -1; }, s.args) ==
        head + "a size of at least 0, got -1 (tensor 1)");
  StepArgs foreign = s.args;
  foreign.update = Update::gradient;
  CHECK(message([](StepTensor& t) { t.grad_out = nullptr; }, foreign) ==
        head + "grad_out, got null (tensor 1)");
  CHECK(tensors[0].exp_avg == std::vector<float>(100, 0.0F));
}

TEST_CASE("grad_out may be the gradient itself") {
  Setting s = localized();
  s.args.update = Update::gradient;
  std::vector<OwnedTensor> apart = make_tensors(s, {70001}, 7),
                           in_place = make_tensors(s, {70001}, 7);
  new_gradients(apart, s, 1);
  new_gradients(in_place, s, 1);
  CpuStep one, two;
  StepTensor a = apart[0].view(), b = in_place[0].view();
  b.grad_out = in_place[0].grad.data();
  one.run(&a, 1, s.args, ParallelFor::serial());
  two.run(&b, 1, s.args, ParallelFor::serial());
  CHECK(in_place[0].grad == apart[0].grad_out);
}

TEST_CASE("check values of the mask step") {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  args.score.penalty = 0.5F;
  OwnedTensor t(40, DType::float32, DType::float32);
  for (int i = 1; i <= 40; ++i) t.set_retain(i - 1, static_cast<float>(std::sin(0.37 * i)));
  CpuStep cpu;
  const auto step = [&](int k, double eta, std::int64_t unmasked, double sum, double abs_sum) {
    for (int i = 1; i <= 40; ++i)
      t.set_grad(i - 1, static_cast<float>(0.5 * std::sin((0.71 + 0.11 * k) * i)));
    t.adamw = adamw_numbers(k + 1, 1e-3, 0.01);
    StepTensor view = t.view();
    args.update = Update::gradient;
    cpu.run(&view, 1, args, ParallelFor::serial());
    t.threshold = view.threshold;
    CHECK(static_cast<double>(view.threshold) == Approx(eta).epsilon(1e-6));
    CHECK(view.num_trained == unmasked);
    double total = 0, moved = 0;
    for (const float m : t.score) total += static_cast<double>(m);
    for (const float g : t.grad_out) moved += std::fabs(static_cast<double>(g));
    CHECK(total == Approx(sum).epsilon(1e-5));
    if (abs_sum > 0) CHECK(moved == Approx(abs_sum).epsilon(1e-5));
  };
  step(0, -0.25194583512637947, 33, 0.7479362463473382, 0);
  step(1, -0.23727468254134154, 34, 0.616069791598851, 0);
  step(2, -0.2678272653410547, 33, 0.18669809765206863, 0);
  t.used = t.mask;
  t.has_used = true;
  t.learns = false;
  std::fill(t.score.begin(), t.score.end(), 0.0F);
  cpu.reset();
  step(0, -0.2678272653410547, 32, -3.5015521832792995, 9.370435647566627);
  step(1, -0.2678272653410547, 21, -7.906049867527444, 7.221318694765621);
  step(2, -0.2678272653410547, 11, -12.618355358636977, 3.8774952171809645);
}
