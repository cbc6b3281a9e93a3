// Takes a step on tensors: hands raw pointers to the kernels, tells autograd what was written.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/backend.hpp>
#include <alkn/compiled.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/step/cuda_state.hpp>
#include <alkn/step/slot.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace alkn::kernel {
class CpuStep;
struct PredictionCounts;
}  // namespace alkn::kernel

namespace alkn::detail {

/// Takes steps over a fixed list of slots. Holds the fused kernels' scratch memory and warm starts.
class StepRunner {
 public:
  StepRunner();
  ~StepRunner();
  StepRunner(const StepRunner&) = delete;
  StepRunner& operator=(const StepRunner&) = delete;

  /// Forgets the warm starts: the next step begins a task.
  void reset();

  /// How the CPU kernels' predictions of the thresholds have fared since then.
  [[nodiscard]] kernel::PredictionCounts predictions() const;

  /// One step; on return every written tensor's version counter has moved. Where the device goes on
  /// by itself the results are not there yet: pending() says so, and what is returned says that the
  /// step was taken.
  kernel::StepResult run(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                         Backend backend, StepMode mode = StepMode::run);

  /// Whether the current stream of the device is being captured in a CUDA graph.
  [[nodiscard]] bool capturing(at::Device device) const;

  /// Whether the step since start() had begun to write when it threw.
  [[nodiscard]] bool has_written() const { return written_; }
  void start() { written_ = false; }

  /// Whether the results of the last step are still to come.
  [[nodiscard]] bool pending() const { return pending_; }

  /// Waits for them; they go into `slots`, as many as the step had.
  kernel::StepResult settle(std::vector<StepSlot>& slots);

  /// For tests: results of the CPU's kernels come late, too, as if from a device.
  void report_late(bool late) { late_ = late; }
  /// For tests: a CUDA table that serves device -1, an emulation, steps and negates the CPU's
  /// tensors in place of the CPU's kernels.
  void emulate_cuda(bool emulate) { emulates_ = emulate; }

  /// out = start - lambda (tuned - start); all fp32 or double, of one shape; `out` may be `tuned`,
  /// `start` may be in host memory (pinned: the CUDA kernel reads it from there).
  void negate(const Tensor& out, const Tensor& tuned, const Tensor& start, double lambda,
              Backend backend);

 private:
  static bool reaches(const Tensor& start, const Tensor& out);

  [[nodiscard]] bool on_cuda(Backend backend) const;

  kernel::StepResult run_fused(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                               Backend backend, StepMode mode);

  /// A contiguous stand-in for `t`, kept alive for the step: `t` itself where a raw pointer can
  /// have it.
  const Tensor& contiguous(const Tensor& t);

  void bind(const StepSlot& slot, kernel::StepTensor& tensor, const kernel::StepArgs& args,
            std::int64_t index);

  static void take_results(StepSlot& slot, const kernel::StepTensor& tensor);

  /// Strided parameters and version counters, after the kernels.
  void publish(StepSlot& slot, const kernel::StepTensor& tensor, const kernel::StepArgs& args);

  std::unique_ptr<kernel::CpuStep> cpu_;
  CudaState cuda_;
  std::vector<kernel::StepTensor> tensors_;
  std::vector<Tensor> held_;
  /// The previous tensor's, cached: the next one usually has the same.
  kernel::AdamWNumbers numbers_;
  kernel::AdamWLanes<float> rounded_ = kernel::rounded(numbers_);
  bool pending_ = false, late_ = false, emulates_ = false, written_ = false;
  kernel::StepResult late_result_;
};

}  // namespace alkn::detail

#if ALKN_DEFINITIONS
#include <alkn/step/runner_definitions.hpp>
#endif
