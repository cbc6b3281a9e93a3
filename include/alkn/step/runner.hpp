// Takes a step on tensors: hands raw pointers to the kernels, tells autograd what was written.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/kernel/cpu/step.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/step/aten.hpp>
#include <alkn/step/choose.hpp>
#include <alkn/step/cuda_state.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/cuda_table.hpp>
#include <alkn/tensor/parallel.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <vector>

namespace alkn::detail {

inline kernel::DType kernel_dtype(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return kernel::DType::bfloat16;
    case at::kHalf:
      return kernel::DType::float16;
    default:
      return kernel::DType::float32;
  }
}

inline std::uint64_t* mask_words(const Tensor& words) {
  return words.defined() ? static_cast<std::uint64_t*>(words.data_ptr()) : nullptr;
}

/// A moment or a score, fp32 or bfloat16.
inline void* state_data(const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

inline float* float_data(const Tensor& t) {
  return t.defined() ? static_cast<float*>(t.data_ptr()) : nullptr;
}

/// Takes steps over a fixed list of slots. Holds the fused kernels' scratch memory and warm starts.
class StepRunner {
 public:
  /// Forgets the warm starts: the next step begins a task.
  void reset() { cpu_.reset(); }

  /// How the CPU kernels' predictions of the thresholds have fared since then.
  [[nodiscard]] kernel::PredictionCounts predictions() const { return cpu_.predictions(); }

  /// One step; on return every written tensor's version counter has moved. Where the device goes on
  /// by itself the results are not there yet: pending() says so, and what is returned says that the
  /// step was taken.
  kernel::StepResult run(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                         Backend backend, StepMode mode = StepMode::run) {
    TORCH_CHECK(mode == StepMode::run || on_cuda(backend),
                "alkn::StepRunner: expected the CUDA kernels for a step of a CUDA graph, got "
                "another backend");
    pending_ = false;
    if (backend == Backend::aten) return aten_step(slots, args, written_);
    return run_fused(slots, args, backend, mode);
  }

  /// Whether the current stream of the device is being captured in a CUDA graph.
  [[nodiscard]] bool capturing(at::Device device) const {
    if (!device.is_cuda() && !emulates_) return false;
    const CudaTable* table = find_cuda_table(device.index());
    return table != nullptr && table->capturing(device.index());
  }

  /// Whether the step since start() had begun to write when it threw.
  [[nodiscard]] bool has_written() const { return written_; }
  void start() { written_ = false; }

  /// Whether the results of the last step are still to come.
  [[nodiscard]] bool pending() const { return pending_; }

  /// Waits for them; they go into `slots`, as many as the step had.
  kernel::StepResult settle(std::vector<StepSlot>& slots) {
    pending_ = false;
    const kernel::StepResult result = late_ ? late_result_ : cuda_.report(tensors_.data());
    if (result.skipped) return result;
    for (std::size_t i = 0; i < slots.size(); ++i) take_results(slots[i], tensors_[i]);
    return result;
  }

  /// For tests: results of the CPU's kernels come late, too, as if from a device.
  void report_late(bool late) { late_ = late; }
  /// For tests: a CUDA table that serves device -1, an emulation, steps and negates the CPU's
  /// tensors in place of the CPU's kernels.
  void emulate_cuda(bool emulate) { emulates_ = emulate; }

  /// out = start - lambda (tuned - start); all fp32 or double, of one shape; `out` may be `tuned`,
  /// `start` may be in host memory (pinned: the CUDA kernel reads it from there).
  void negate(const Tensor& out, const Tensor& tuned, const Tensor& start, double lambda,
              Backend backend) {
    const bool fused =
        backend == Backend::cpu ? out.is_cpu() : backend == Backend::cuda && out.is_cuda();
    if (!fused || out.scalar_type() != at::kFloat || !out.is_contiguous() ||
        !start.is_contiguous() || !reaches(start, out)) {
      aten_negate(out, tuned, start.to(out.device()), lambda);
      return;
    }
    if (!out.is_same(tuned)) out.copy_(tuned);
    if (on_cuda(backend)) {
      need_cuda_table(out.device().index(), "StepRunner", "")
          .negate(out.data_ptr<float>(), start.const_data_ptr<float>(), out.numel(),
                  static_cast<float>(lambda), out.device().index());
      out.unsafeGetTensorImpl()->bump_version();
      return;
    }
    kernel::negate(out.data_ptr<float>(), start.data_ptr<float>(), out.numel(),
                   static_cast<float>(lambda), aten_parallel());
    out.unsafeGetTensorImpl()->bump_version();
  }

 private:
  static bool reaches(const Tensor& start, const Tensor& out) {
    return start.device() == out.device() || (out.is_cuda() && start.is_cpu() && start.is_pinned());
  }

  [[nodiscard]] bool on_cuda(Backend backend) const {
    return backend == Backend::cuda || (backend == Backend::cpu && emulates_);
  }

  kernel::StepResult run_fused(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                               Backend backend, StepMode mode) {
    tensors_.resize(slots.size());
    held_.clear();  // an exception may have left some
    for (std::size_t i = 0; i < slots.size(); ++i)
      bind(slots[i], tensors_[i], args, static_cast<std::int64_t>(i));
    TORCH_CHECK_VALUE(mode == StepMode::run || held_.empty(),
                      "alkn::StepRunner: expected contiguous parameters and gradients for a step "
                      "of a CUDA graph, got others");
    const auto count = static_cast<std::int64_t>(tensors_.size());
    kernel::StepResult result;
    if (!on_cuda(backend)) {
      result = cpu_.run(tensors_.data(), count, args, aten_parallel());
      pending_ = late_;
      written_ = true;
    } else {
      written_ = true;
      pending_ = cuda_.enqueue(slots, tensors_.data(), args, mode);
    }
    if (mode == StepMode::capture) return result;
    if (!result.skipped || pending_) {
      for (std::size_t i = 0; i < slots.size(); ++i) publish(slots[i], tensors_[i], args);
    }
    held_.clear();
    if (!pending_) {
      for (std::size_t i = 0; i < slots.size(); ++i) take_results(slots[i], tensors_[i]);
      return result;
    }
    late_result_ = result;
    return {};
  }

  /// A contiguous stand-in for `t`, kept alive for the step: `t` itself where a raw pointer can
  /// have it.
  const Tensor& contiguous(const Tensor& t) {
    if (has_plain_values(t)) return t;
    held_.push_back(plain_values(t));
    return held_.back();
  }

  void bind(const StepSlot& slot, kernel::StepTensor& tensor, const kernel::StepArgs& args,
            std::int64_t index) {
    tensor = kernel::StepTensor{};
    if (!slot.grad.defined()) return;  // size 0: keeps its place in the list, and its warm start
    tensor.size = slot.param->numel();
    tensor.type = kernel_dtype(slot.param->scalar_type());
    tensor.grad = contiguous(slot.grad).data_ptr();
    tensor.param = contiguous(slot.param).data_ptr();
    tensor.master = float_data(slot.master);
    if (args.update == kernel::Update::adamw) {
      tensor.exp_avg = state_data(slot.exp_avg);
      tensor.exp_avg_sq = state_data(slot.exp_avg_sq);
      if (slot.adamw != numbers_) rounded_ = kernel::rounded(numbers_ = slot.adamw);
      tensor.adamw = rounded_;
    } else {
      tensor.grad_out = contiguous(slot.grad_out).data_ptr<float>();
    }
    const Tensor& state = slot.exp_avg.defined() ? *slot.exp_avg : *slot.score;
    if (state.defined() && state.scalar_type() == at::kBFloat16) {
      tensor.state_type = kernel::DType::bfloat16;
      tensor.rounding_seed = kernel::rounding_seed(index, slot.adamw.step);
    }
    tensor.mask = mask_words(slot.mask);
    tensor.used = mask_words(slot.used);
    if (args.mask == kernel::MaskKind::localized) {
      tensor.retain = slot.retain->data_ptr();
      tensor.retain_type = kernel_dtype(slot.retain->scalar_type());
      tensor.score = state_data(slot.score);
      tensor.learns_threshold = slot.learns_threshold;
      tensor.threshold = static_cast<float>(slot.threshold);
    }
  }

  static void take_results(StepSlot& slot, const kernel::StepTensor& tensor) {
    if (tensor.size == 0) return;
    slot.num_unmasked = tensor.num_unmasked;
    slot.deviation = static_cast<double>(tensor.deviation);
    slot.threshold = static_cast<double>(tensor.threshold);
  }

  /// Strided parameters and version counters, after the kernels.
  void publish(StepSlot& slot, const kernel::StepTensor& tensor, const kernel::StepArgs& args) {
    if (!slot.grad.defined()) return;
    const Tensor& target = args.update == kernel::Update::adamw ? *slot.param : *slot.grad_out;
    if (has_plain_values(target)) {
      target.unsafeGetTensorImpl()->bump_version();
      return;
    }
    void* written =
        args.update == kernel::Update::adamw ? tensor.param : static_cast<void*>(tensor.grad_out);
    for (const Tensor& copy : held_) {
      if (copy.data_ptr() == written) target.copy_(copy);
    }
  }

  kernel::CpuStep cpu_;
  CudaState cuda_;
  std::vector<kernel::StepTensor> tensors_;
  std::vector<Tensor> held_;
  kernel::AdamWNumbers
      numbers_;  ///< the previous tensor's, cached: the next one usually has the same
  kernel::AdamWLanes<float> rounded_ = kernel::rounded(numbers_);
  bool pending_ = false, late_ = false, emulates_ = false, written_ = false;
  kernel::StepResult late_result_;
};

}  // namespace alkn::detail
