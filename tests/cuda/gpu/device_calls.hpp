// What device_step.cu does on a GPU for the tests, which g++ compiles. C++17.
#pragma once

#include <alkn/kernel/cuda/history.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/rows/token_rows.hpp>
#include <alkn/kernel/step.hpp>
#include <cstdint>
#include <memory>
#include <string>

namespace alkn_test {

using namespace alkn::kernel;
namespace device = alkn::kernel::cuda;

/// Steps on the current device over tensors in host memory: up, step, down. Every array keeps its
/// alignment.
class DeviceStep {
 public:
  DeviceStep();
  ~DeviceStep();
  DeviceStep(DeviceStep&&) noexcept;
  StepResult run(StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args);
  /// Takes every other step on another stream.
  void alternate_streams();
  std::uint64_t num_missed() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

void device_token_forward(const TokenRows& rows);
void device_token_backward(const TokenRows& rows);
void device_negate(const device::Negation& negation, bool start_on_host);
void device_mask(const device::MaskWords& words);
/// The name of the device; throws where there is none.
std::string device_name();

}  // namespace alkn_test
