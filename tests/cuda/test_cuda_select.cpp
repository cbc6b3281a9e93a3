// Thresholds on the device for scores that no prediction likes: exact all the same, and by the
// passes that were meant.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "../kernel/reference.hpp"
#include "catch.hpp"
#if defined(ALKN_TEST_ON_DEVICE)
#include "gpu/device_step.hpp"
#else
#include "emulated_step.hpp"
#endif

using namespace alkn_test;

namespace {

using Values = std::function<float(std::int64_t)>;

/// A tensor whose scores become values(i) in the first step: its gradient, times a retain gradient
/// of one.
OwnedTensor tensor_of(std::int64_t size, const Values& values) {
  OwnedTensor t(size, DType::float32, DType::float32);
  for (std::int64_t i = 0; i < size; ++i) {
    t.set_grad(i, values(i));
    t.set_retain(i, 1.0F);
    t.param[t.at(i)] = 0.5F;
  }
  t.adamw = adamw_numbers(1, 1e-3, 0.01);
  return t;
}

struct Found {
  float threshold;
  std::uint64_t num_missed;
};

/// One step by the emulation; checks every bit against the CPU and the threshold against a sort.
Found check(std::int64_t size, const Values& values, double rho = 0.8) {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  args.unmask_ratio = rho;
  OwnedTensor got = tensor_of(size, values), want = tensor_of(size, values);
  StepTensor got_view = got.view(), want_view = want.view();
  EmulatedStep<Fibers> emulated(Fibers(Order::mixed), {5, 64});
  emulated.run(&got_view, 1, args);
  CpuStep cpu;
  cpu.run(&want_view, 1, args, ParallelFor::serial());
  CHECK(std::memcmp(&got_view.threshold, &want_view.threshold, sizeof(float)) == 0);
  CHECK(got_view.num_trained == want_view.num_trained);
  CHECK(std::memcmp(got.score.data(), want.score.data(), got.score.size() * sizeof(float)) == 0);
  CHECK(got.mask == want.mask);
  CHECK(got.param == want.param);
  CHECK(emulated.histograms_clean());
  const float sorted = reference_threshold(got.score, rho, args.trim_ratio);
  if (std::isfinite(sorted)) {
    CHECK(got_view.threshold == Approx(sorted).epsilon(1e-6));
  }
  return {got_view.threshold, emulated.num_missed};
}

constexpr std::int64_t kSize = 40000;  // of several chunks would be the same code: units of 16384

float normal_at(std::int64_t i) {
  Numbers numbers(static_cast<std::uint64_t>(i) + 77);
  return numbers.normal(1.0F);
}

/// The places that the sample of the first step takes from the first tensor.
std::vector<char> sampled_places(std::int64_t size) {
  std::vector<char> places(static_cast<std::size_t>(size), 0);
  const std::uint64_t seed = mixed(0x10001U);
  for (std::int64_t i = 0; i < device::tuning::kSample; ++i) {
    places[static_cast<std::size_t>(device::sample_place(i, size, seed))] = 1;
  }
  return places;
}

}  // namespace

TEST_CASE("brackets hold for what they are made for") {
  CHECK(check(kSize, normal_at).num_missed == 0);
  CHECK(check(kSize, normal_at, 0.4).num_missed == 0);
  CHECK(check(150001, normal_at).num_missed == 0);
}

TEST_CASE("everything to be trained: the smallest score") {
  CHECK(check(kSize, normal_at, 1.0).num_missed == 0);
  CHECK(check(5000, normal_at, 1.0).num_missed == 0);
}

TEST_CASE("ties") {
  CHECK(check(kSize, [](std::int64_t) { return 0.0F; }).num_missed == 0);
  CHECK(check(kSize, [](std::int64_t i) { return i % 2 == 0 ? 0.0F : -0.0F; }).num_missed == 0);
  CHECK(check(kSize, [](std::int64_t i) { return i % 3 == 0 ? 1.0F : -1.0F; }).num_missed == 0);
  check(kSize, [](std::int64_t i) { return i % 20 == 0 ? normal_at(i) : 0.0F; });
  check(kSize, [](std::int64_t i) { return static_cast<float>(i % 7); });
  check(kSize, [](std::int64_t i) { return i < kSize * 85 / 100 ? 0.0F : normal_at(i); });
}

TEST_CASE("order, denormals, and scores that are not finite") {
  check(kSize, [](std::int64_t i) { return static_cast<float>(i); });
  check(kSize, [](std::int64_t i) { return static_cast<float>(-i); });
  check(kSize, [](std::int64_t i) { return static_cast<float>(i % 1000 - 500) * 1e-42F; });
  const Values huge = [](std::int64_t i) {
    return i % 4 == 0 ? 3e38F * normal_at(i) / 4 : normal_at(i);
  };
  check(kSize, huge);
  OwnedTensor got = tensor_of(kSize, normal_at), want = tensor_of(kSize, normal_at);
  const float infinity = std::numeric_limits<float>::infinity();
  for (OwnedTensor* t : {&got, &want}) {  // what an overflow in earlier steps has left
    for (std::size_t i = 0; i < t->score.size(); i += 5)
      t->score[i] = i % 2 == 0 ? infinity : -infinity;
    for (std::size_t i = 0; i < t->score.size(); i += 6) t->score[i] = std::nanf("");
  }
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  StepTensor got_view = got.view(), want_view = want.view();
  EmulatedStep<Fibers> emulated(Fibers(Order::forward), {3, 64});
  emulated.run(&got_view, 1, args);
  CpuStep cpu;
  cpu.run(&want_view, 1, args, ParallelFor::serial());
  CHECK(got_view.num_trained == want_view.num_trained);
  CHECK(got.mask == want.mask);
}

TEST_CASE("a sample that misleads is noticed, and the radix passes find the threshold") {
  const std::vector<char> sampled = sampled_places(kSize);
  const auto is_sampled = [&](std::int64_t i) { return sampled[static_cast<std::size_t>(i)] != 0; };
  SECTION("the sample lies above all") {
    CHECK(check(kSize, [&](std::int64_t i) {
            return is_sampled(i) ? 9.0F + normal_at(i) : normal_at(i);
          }).num_missed == 1);
  }
  SECTION("the sample lies below all") {
    CHECK(check(kSize, [&](std::int64_t i) {
            return is_sampled(i) ? normal_at(i) - 9.0F : normal_at(i);
          }).num_missed == 1);
  }
  SECTION("the sample has one value") {
    CHECK(check(kSize, [&](std::int64_t i) {
            return is_sampled(i) ? 0.25F : normal_at(i);
          }).num_missed == 1);
  }
  SECTION("more lies in a bracket than there is room for") {
    std::int64_t seen = 0;
    std::vector<float> values;
    for (std::int64_t i = 0; i < kSize; ++i) {  // 15 % of the sample at -1, the others at +1
      values.push_back(is_sampled(i) ? (++seen % 20 < 3 ? -1.0F : 1.0F) : 0.2F * normal_at(i));
    }
    CHECK(check(kSize, [&](std::int64_t i) {
            return values[static_cast<std::size_t>(i)];
          }).num_missed == 1);
  }
}

TEST_CASE("a bracket that overflows a block's shared memory loses nothing") {
  // One unit of work holds everything that lies inside the brackets.
  const auto values = [](std::int64_t i) {
    if (i < 16384) return normal_at(i) * 1e-3F + (i % 2 == 0 ? 1.0F : -1.0F);
    return i % 10 < 3 ? -1.0F + normal_at(i) : 1.0F + normal_at(i);
  };
  check(kSize, values);
}

TEST_CASE("several tensors miss, others do not") {
  const std::vector<char> sampled = sampled_places(kSize);
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  std::vector<OwnedTensor> got, want;
  for (auto* tensors : {&got, &want}) {
    tensors->push_back(tensor_of(kSize, [&](std::int64_t i) {
      return sampled[static_cast<std::size_t>(i)] != 0 ? 9.0F : normal_at(i);
    }));
    tensors->push_back(tensor_of(300, normal_at));
    tensors->push_back(tensor_of(kSize, normal_at));
    tensors->push_back(tensor_of(70001, [](std::int64_t i) { return static_cast<float>(i % 5); }));
  }
  std::vector<StepTensor> got_views, want_views;
  for (OwnedTensor& t : got) got_views.push_back(t.view());
  for (OwnedTensor& t : want) want_views.push_back(t.view());
  EmulatedStep<Fibers> emulated(Fibers(Order::backward), {7, 64});
  CpuStep cpu;
  for (int step = 0; step < 2; ++step) {
    emulated.run(got_views.data(), 4, args);
    cpu.run(want_views.data(), 4, args, ParallelFor::serial());
    if (step == 0) CHECK(emulated.num_missed == 1);
    for (std::size_t t = 0; t < 4; ++t) {
      INFO("tensor " << t);
      CHECK(got_views[t].threshold == want_views[t].threshold);
      CHECK(got[t].mask == want[t].mask);
    }
    CHECK(emulated.histograms_clean());
  }
}

TEST_CASE("compact scores: ties, and a bracket that missed") {
  const std::vector<char> sampled = sampled_places(kSize);
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  bool misses = false;
  Values values;
  SECTION("a miss") {
    misses = true;
    values = [&](std::int64_t i) {
      return sampled[static_cast<std::size_t>(i)] != 0 ? 9.0F + normal_at(i) : normal_at(i);
    };
  }
  SECTION("negative") {
    values = [](std::int64_t i) { return -9.0F + normal_at(i); };
  }
  SECTION("few values") {
    values = [](std::int64_t i) { return static_cast<float>(i % 7) - 3.0F; };
  }
  std::vector<OwnedTensor> both(2, tensor_of(kSize, values));
  std::vector<StepTensor> views;
  for (OwnedTensor& t : both) {
    t.make_compact();
    t.seed = rounding_seed(0, 1);
    views.push_back(t.view());
  }
  EmulatedStep<Fibers> emulated(Fibers(Order::mixed), {5, 64});
  emulated.run(views.data(), 1, args);
  CpuStep cpu;
  cpu.run(views.data() + 1, 1, args, ParallelFor::serial());
  CHECK(emulated.num_missed == (misses ? 1 : 0));
  CHECK(views[0].threshold == views[1].threshold);
  CHECK(both[0].score_narrow == both[1].score_narrow);
  CHECK(both[0].mask == both[1].mask);
  CHECK(emulated.histograms_clean());
}

TEST_CASE("a gradient that is not finite skips the step before anything is written") {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  args.max_norm = 1;
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    OwnedTensor t = tensor_of(20000, normal_at);
    t.set_grad(19999, bad);
    const OwnedTensor before = t;
    StepTensor view = t.view();
    EmulatedStep<Fibers> emulated(Fibers(Order::forward), {3, 64});
    CHECK(emulated.run(&view, 1, args).skipped);
    CHECK(t.param == before.param);
    CHECK(t.score == before.score);
    CHECK(t.exp_avg == before.exp_avg);
    CHECK(t.mask == before.mask);
    t.set_grad(19999, 1.0F);  // and the next one is taken
    CHECK_FALSE(emulated.run(&view, 1, args).skipped);
    CHECK(t.param != before.param);
  }
}

TEST_CASE("what is missing is named before anything is written") {
  OwnedTensor t = tensor_of(100, normal_at);
  StepTensor view = t.view();
  view.score = nullptr;
  StepArgs args;
  args.mask = MaskKind::localized;
  EmulatedStep<Fibers> emulated(Fibers(Order::forward), {1, 32});
  CHECK_THROWS_WITH(emulated.run(&view, 1, args),
                    "alkn::kernel::CudaStep: expected a score, got null (tensor 0)");
  CHECK(t.exp_avg == std::vector<float>(100, 0.0F));
}

TEST_CASE("the emulation itself notices a thread that leaves") {
  struct Nothing {
    int unused;
  };
  const auto body = [](const FiberBlock& block, Nothing&) {
    if (block.thread() == 3) return;
    block.sync();
  };
  CHECK_THROWS_WITH(Fibers().run<Nothing>(1, 32, body),
                    "a thread left the block while others wait");
}
