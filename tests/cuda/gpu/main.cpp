// The tests of the emulation on a GPU, and what only a GPU can show. Without one: a message,
// and 77.
#define CATCH_CONFIG_RUNNER
#include <cstdio>
#include <cstring>
#include <exception>

#include "../../catch.hpp"
#include "device_step.hpp"

using namespace alkn_test;

namespace {

std::vector<OwnedTensor> many_tensors(int count) {
  Numbers numbers(21);
  std::vector<OwnedTensor> tensors;
  for (int k = 0; k < count; ++k) {
    const std::int64_t size = k % 3 == 0 ? numbers.below(70000) : numbers.below(3000);
    OwnedTensor t(size, DType::float32, DType::float32, k % 5 == 4 ? 1 : 0);
    for (std::int64_t i = 0; i < size; ++i) {
      t.param[t.at(i)] = numbers.normal(0.3F);
      t.set_grad(i, numbers.normal(0.05F));
      t.set_retain(i, numbers.normal(0.05F));
    }
    t.adamw = adamw_numbers(1, 1e-3, 0.01);
    tensors.push_back(std::move(t));
  }
  return tensors;
}

StepArgs localized() {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = true;
  args.max_norm = 1;
  return args;
}

StepResult step(DeviceStep& device, std::vector<OwnedTensor>& tensors) {
  std::vector<StepTensor> views;
  for (OwnedTensor& t : tensors) views.push_back(t.view());
  return device.run(views.data(), static_cast<std::int64_t>(views.size()), localized());
}

bool same(const std::vector<OwnedTensor>& a, const std::vector<OwnedTensor>& b) {
  for (std::size_t k = 0; k < a.size(); ++k) {
    if (a[k].param != b[k].param || a[k].mask != b[k].mask || a[k].score != b[k].score) {
      return false;
    }
  }
  return true;
}

}  // namespace

TEST_CASE("a hundred repetitions have the same bits", "[gpu]") {
  const auto start = many_tensors(20);
  std::vector<OwnedTensor> first;
  for (int repetition = 0; repetition < 100; ++repetition) {
    auto tensors = start;
    DeviceStep device;
    step(device, tensors);
    step(device, tensors);
    if (repetition == 0) first = tensors;
    CHECK(same(tensors, first));
  }
}

TEST_CASE("steps on two streams in turn have the bits of one", "[gpu]") {
  auto one = many_tensors(20), two = one;
  DeviceStep on_one, on_two;
  on_two.alternate_streams();
  for (int k = 0; k < 6; ++k) {
    step(on_one, one);
    step(on_two, two);
  }
  CHECK(same(one, two));
}

TEST_CASE("0 to 300 tensors have the bits of the CPU", "[gpu]") {
  DeviceStep device;
  for (const int count : {0, 1, 2, 31, 32, 33, 300}) {
    CAPTURE(count);
    auto got = many_tensors(count), want = got;
    const StepResult result = step(device, got);
    std::vector<StepTensor> views;
    for (OwnedTensor& t : want) views.push_back(t.view());
    CpuStep cpu;
    const StepResult expected = cpu.run(views.data(), count, localized(), ParallelFor::serial());
    CHECK(result.grad_norm == expected.grad_norm);
    CHECK(same(got, want));
  }
}

TEST_CASE("small: a step for the tools of compute-sanitizer", "[gpu][small]") {
  auto got = many_tensors(4), want = got;
  DeviceStep device;
  step(device, got);
  std::vector<StepTensor> views;
  for (OwnedTensor& t : want) views.push_back(t.view());
  CpuStep cpu;
  cpu.run(views.data(), 4, localized(), ParallelFor::serial());
  CHECK(same(got, want));
}

int main(int argc, char** argv) {
  try {
    std::printf("device: %s\n", device_name().c_str());
  } catch (const std::exception& e) {
    std::printf("gpu_kernels: %s; nothing was tested\n", e.what());
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
