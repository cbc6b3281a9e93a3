// The host's part of a CUDA step without CUDA: the plan, the places of pointers, and the list of
// tables.
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
