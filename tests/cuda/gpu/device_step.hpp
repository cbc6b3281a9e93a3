// The tests of the emulation on a GPU: the class EmulatedStep of emulated_step.hpp, and the
// launches of the kernels beside the step, by real kernels on mirrored memory. Used where
// ALKN_TEST_ON_DEVICE is defined.
#pragma once

#include <alkn/kernel/cuda/sample.hpp>
#include <cstdint>

#include "../../kernel/inputs.hpp"
#include "../emulation.hpp"
#include "device_calls.hpp"

namespace alkn_test {

struct Grid {
  std::int64_t blocks = 3;
  int threads = 64;
};

template <class Runner>
class EmulatedStep {
 public:
  EmulatedStep(Runner, Grid) {}
  StepResult run(StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    return done(step_.run(tensors, num_tensors, args));
  }
  std::uint64_t num_missed = 0;
  static bool histograms_clean() { return true; }  // seen by the steps that follow

 private:
  StepResult done(StepResult result) {
    num_missed = result.skipped ? 0 : step_.num_missed();
    return result;
  }
  DeviceStep step_;
};

}  // namespace alkn_test
