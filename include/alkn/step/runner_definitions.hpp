// The definitions of runner.hpp, with the CPU's kernels.
#pragma once

#include <alkn/definitions.hpp>

#include <alkn/kernel/cpu/step.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/step/aten.hpp>
#include <alkn/step/choose.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/tensor/cuda_table.hpp>
#include <alkn/tensor/parallel.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <cstddef>
#include <cstdint>
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

ALKN_COMPILED_INLINE StepRunner::StepRunner() : cpu_(std::make_unique<kernel::CpuStep>()) {}
ALKN_COMPILED_INLINE StepRunner::~StepRunner() = default;

ALKN_COMPILED_INLINE void StepRunner::reset() { cpu_->reset(); }

ALKN_COMPILED_INLINE kernel::PredictionCounts StepRunner::predictions() const {
  return cpu_->predictions();
}

ALKN_COMPILED_INLINE kernel::StepResult StepRunner::run(std::vector<StepSlot>& slots,
                                                        const kernel::StepArgs& args,
                                                        Backend backend, StepMode mode) {
  TORCH_CHECK(mode == StepMode::run || on_cuda(backend),
              "alkn::StepRunner: expected the CUDA kernels for a step of a CUDA graph, got "
              "another backend");
  pending_ = false;
  if (backend == Backend::aten) return aten_step(slots, args, written_);
  return run_fused(slots, args, backend, mode);
}

ALKN_COMPILED_INLINE bool StepRunner::capturing(at::Device device) const {
  if (!device.is_cuda() && !emulates_) return false;
  const CudaTable* table = find_cuda_table(device.index());
  return table != nullptr && table->capturing(device.index());
}

ALKN_COMPILED_INLINE kernel::StepResult StepRunner::settle(std::vector<StepSlot>& slots) {
  pending_ = false;
  const kernel::StepResult result = late_ ? late_result_ : cuda_.report(tensors_.data());
  if (result.skipped) return result;
  for (std::size_t i = 0; i < slots.size(); ++i) take_results(slots[i], tensors_[i]);
  return result;
}

ALKN_COMPILED_INLINE void StepRunner::negate(const Tensor& out, const Tensor& tuned,
                                             const Tensor& start, double lambda, Backend backend) {
  const bool fused =
      backend == Backend::cpu ? out.is_cpu() : backend == Backend::cuda && out.is_cuda();
  if (!fused || out.scalar_type() != at::kFloat || !out.is_contiguous() || !start.is_contiguous() ||
      !reaches(start, out)) {
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

ALKN_COMPILED_INLINE bool StepRunner::reaches(const Tensor& start, const Tensor& out) {
  return start.device() == out.device() || (out.is_cuda() && start.is_cpu() && start.is_pinned());
}

ALKN_COMPILED_INLINE bool StepRunner::on_cuda(Backend backend) const {
  return backend == Backend::cuda || (backend == Backend::cpu && emulates_);
}

ALKN_COMPILED_INLINE kernel::StepResult StepRunner::run_fused(std::vector<StepSlot>& slots,
                                                              const kernel::StepArgs& args,
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
    result = cpu_->run(tensors_.data(), count, args, aten_parallel());
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

ALKN_COMPILED_INLINE const Tensor& StepRunner::contiguous(const Tensor& t) {
  if (has_plain_values(t)) return t;
  held_.push_back(plain_values(t));
  return held_.back();
}

ALKN_COMPILED_INLINE void StepRunner::bind(const StepSlot& slot, kernel::StepTensor& tensor,
                                           const kernel::StepArgs& args, std::int64_t index) {
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

ALKN_COMPILED_INLINE void StepRunner::take_results(StepSlot& slot,
                                                   const kernel::StepTensor& tensor) {
  if (tensor.size == 0) return;
  slot.num_trained = tensor.num_trained;
  slot.deviation = static_cast<double>(tensor.deviation);
  slot.threshold = static_cast<double>(tensor.threshold);
}

ALKN_COMPILED_INLINE void StepRunner::publish(StepSlot& slot, const kernel::StepTensor& tensor,
                                              const kernel::StepArgs& args) {
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

}  // namespace alkn::detail
