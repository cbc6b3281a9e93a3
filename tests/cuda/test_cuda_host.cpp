// The host's part of a CUDA step without CUDA: the plan, the places of pointers, steps that a graph
// replays, and the list of tables.
#include <cmath>
#include <limits>
#include <vector>

#include <alkn/kernel/cuda/places.hpp>
#include <alkn/tensor/cuda_table.hpp>

#include "catch.hpp"
#if defined(ALKN_TEST_ON_DEVICE)
#include "gpu/device_step.hpp"
#else
#include "emulated_step.hpp"
#endif

using namespace alkn_test;

namespace {

std::vector<OwnedTensor> tensors_of(std::initializer_list<std::int64_t> sizes) {
  Numbers numbers(4);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : sizes) {
    OwnedTensor t(size, DType::float32, DType::float32);
    for (std::int64_t i = 0; i < size; ++i) {
      t.param[t.at(i)] = numbers.normal(0.3F);
      t.set_retain(i, numbers.normal(0.05F));
    }
    tensors.push_back(std::move(t));
  }
  return tensors;
}
std::vector<StepTensor> views_of(std::vector<OwnedTensor>& tensors) {
  std::vector<StepTensor> views;
  for (OwnedTensor& t : tensors) views.push_back(t.view());
  return views;
}

StepArgs localized() {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  args.max_norm = 1;
  return args;
}

}  // namespace

TEST_CASE("a plan asks for memory once, whether thresholds are due or not") {
  auto tensors = tensors_of({20000, 300, 5});
  auto views = views_of(tensors);
  device::Plan plan;
  StepArgs args = localized();
  device::PlanChange change = plan.assign(views.data(), 3, args);
  CHECK((change.chunks && change.sizes));
  const device::WorkSizes sizes = plan.sizes();
  for (const bool due : {false, true, false, true}) {
    args.threshold_due = due;
    change = plan.assign(views.data(), 3, args);
    CHECK_FALSE(change.chunks);
    CHECK_FALSE(change.sizes);
    CHECK(plan.selects() == due);
  }
  CHECK(plan.sizes().num_candidates == sizes.num_candidates);
  views[1].size = 0;  // a parameter without a gradient
  change = plan.assign(views.data(), 3, args);
  CHECK((change.chunks && !change.sizes));
}

TEST_CASE("a pointer to another place is named before anything is enqueued") {
  auto tensors = tensors_of({100, 50});
  auto views = views_of(tensors);
  device::KnownPlaces known;
  int asked = 0, place = 0;
  const void* host = nullptr;
  const auto place_of = [&](const void* p) {
    ++asked;
    return p == host ? device::kHostPlace : place;
  };
  device::check_places(views.data(), 2, localized(), 0, place_of, known);
  CHECK(asked == 2 * 7);
  device::check_places(views.data(), 2, localized(), 0, place_of, known);
  CHECK(asked == 2 * 7);  // nothing has moved
  std::vector<float> moved(50);
  views[1].score = moved.data();
  host = moved.data();
  for (int again = 0; again < 2; ++again) {
    CHECK_THROWS_WITH(device::check_places(views.data(), 2, localized(), 0, place_of, known),
                      "alkn::kernel::CudaStep: expected a score on cuda:0, got a host pointer "
                      "(tensor 1)");
  }
  host = nullptr, place = 1;
  CHECK_THROWS_WITH(device::check_places(views.data(), 2, localized(), 0, place_of, known),
                    "alkn::kernel::CudaStep: expected a score on cuda:0, got one on cuda:1 "
                    "(tensor 1)");
}

TEST_CASE("a parameter that moved between two captures is named, a gradient may move") {
  auto tensors = tensors_of({100, 50});
  auto views = views_of(tensors);
  device::CapturedPlaces captured;
  device::check_captured(views.data(), 2, localized(), captured);
  std::vector<float> moved(100);
  views[0].grad = moved.data();
  device::check_captured(views.data(), 2, localized(), captured);
  views[0].param = moved.data();
  CHECK_THROWS_WITH(device::check_captured(views.data(), 2, localized(), captured),
                    "alkn::kernel::CudaStep: expected the parameter where the last captured graph "
                    "has it, got another place (tensor 0); call forget_captures() once no captured "
                    "graph will be replayed");
}

TEST_CASE("a capture without schedules is refused") {
  auto tensors = tensors_of({100});
  auto views = views_of(tensors);
  device::Plan plan;
  device::Replay replay;
  CHECK_THROWS_WITH(plan.assign(views.data(), 1, localized(), &replay),
                    "alkn::kernel::CudaStep: expected AdamW's schedules for a step that is "
                    "captured, got none");
  AdamWSchedule schedule;
  replay.tensors = &schedule;
  replay.step.threshold_every = 0;
  CHECK_THROWS_WITH(plan.assign(views.data(), 1, localized(), &replay),
                    "alkn::kernel::CudaStep: expected threshold_every >= 1, announced >= 0 and "
                    "done >= 0 of a step that is captured, got 0, 0 and 0");
}

TEST_CASE("powers and schedules of the device are those of the formulas") {
  for (const std::int64_t n : {0, 1, 2, 3, 7, 64, 1000, 123457}) {
    CHECK(power(0.999, n) ==
          Approx(std::pow(0.999, static_cast<double>(n))).epsilon(1e-13).margin(1e-15));
  }
  const double want[] = {.8, .8, .733333, .733333, .666667, .666667,
                         .6, .6, .533333, .533333, .466667, .466667};  // spec, section 10
  for (std::int64_t done = 0; done < 12; ++done) {
    CHECK(unmask_ratio_after(0.8, done, 12) == Approx(want[done]).epsilon(1e-5));
  }
  CHECK(unmask_ratio_after(0.8, 0, 1) == 0.8);
  CHECK(unmask_ratio_after(0.8, 2, 3) == Approx(0.8 - 0.4 * 2 / 3));  // a stride a step
}

TEST_CASE("a replayed step goes on by itself: step, thresholds, rho, and steps that are skipped") {
  constexpr std::int64_t kSteps = 8;
  auto got = tensors_of({20000, 300, 5}), want = tensors_of({20000, 300, 5});
  auto got_views = views_of(got), want_views = views_of(want);
  AdamWSchedule schedule;
  schedule.lr = 3e-3, schedule.lr_used = 1e-3, schedule.weight_decay = 0.01;
  StepArgs args = localized();
  args.unmask_ratio = 0.8;
  EmulatedStep<Fibers> emulated(Fibers(Order::mixed), {3, 64});
  CpuStep cpu;
  const std::vector<AdamWSchedule> schedules(3, schedule);
  device::Replay replay;
  replay.tensors = schedules.data();
  replay.step.announced = kSteps;
  replay.step.threshold_every = 2;
  replay.step.unmask_ratio = 0.8;
  std::int64_t taken = 0;
  for (std::int64_t done = 0; done < kSteps; ++done) {
    CAPTURE(done);
    for (auto* tensors : {&got, &want}) {
      Numbers numbers(100 + static_cast<std::uint64_t>(done));
      for (OwnedTensor& t : *tensors) {
        for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, numbers.normal(0.05F));
      }
      if (done == 0 || done == 3) (*tensors)[0].set_grad(11, std::nanf(""));
    }
    for (StepTensor& t : want_views) t.adamw = adamw_numbers(schedule, taken + 1);
    args.threshold_due = done % 2 == 0;
    args.unmask_ratio = unmask_ratio_after(0.8, done, kSteps);
    const StepResult expected = cpu.run(want_views.data(), 3, args, ParallelFor::serial());
    StepArgs captured = localized();
    const StepResult result = done == 0 ? emulated.capture(got_views.data(), 3, captured, replay)
                                        : emulated.replay(got_views.data(), 3);
    CHECK(result.skipped == expected.skipped);
    CHECK(result.skipped == (done == 0 || done == 3));
    CHECK(emulated.num_launches == 8);
    taken += result.skipped ? 0 : 1;
    for (std::size_t t = 0; t < 3; ++t) {
      CAPTURE(t);
      CHECK(got[t].param == want[t].param);
      CHECK(got[t].mask == want[t].mask);
      CHECK(got_views[t].threshold == want_views[t].threshold);
    }
  }
}

TEST_CASE("the tables of shared libraries come and go") {
  using alkn::detail::CudaTable;
  using alkn::detail::find_cuda_table;
  const auto make = [](int version, bool (*supports)(int)) {
    return CudaTable{version, supports, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                     nullptr, nullptr,  nullptr, nullptr, nullptr, nullptr, nullptr, {nullptr}};
  };
  constexpr int kVersion = alkn::detail::kCudaTableVersion;
  CudaTable all = make(kVersion, [](int) { return true; });
  CudaTable first = make(kVersion, [](int device) { return device == 1; });
  CudaTable old = make(kVersion - 1, [](int) { return true; });
  CHECK(find_cuda_table(0) == nullptr);
  {
    const alkn::detail::CudaTableEntry of_all(all);
    {
      const alkn::detail::CudaTableEntry of_first(first);
      const alkn::detail::CudaTableEntry of_old(old);
      CHECK(find_cuda_table(0) == &all);
      CHECK(find_cuda_table(1) == &first);
    }
    CHECK(find_cuda_table(1) == &all);
  }
  CHECK_FALSE(alkn::detail::has_cuda_table());
}
