// Takes a step on tensors: chooses the backend, hands it raw pointers, tells autograd what was
// written.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <alkn/detail/aten_backend.hpp>
#include <alkn/detail/backend.hpp>
#include <alkn/detail/cuda_seam.hpp>
#include <alkn/kernel/cpu.hpp>
#include <alkn/kernel/step.hpp>

#include <string_view>
#include <vector>

#if !defined(_OPENMP)
#error \
    "alkn: compile with -fopenmp, as LibTorch was: without it at::parallel_for is silently serial"
#endif

namespace alkn::detail {

/// LibTorch's own thread pool, as the kernels see it.
inline kernel::ParallelFor aten_parallel() {
  static constexpr auto kRun = [](std::int64_t num_items, kernel::RangeBody body) {
    at::parallel_for(0, num_items, 1, body);
  };
  return {kRun, at::get_num_threads()};
}

/// The kernels for a CUDA device; throws where the program has none.
inline const CudaTable& need_cuda_table(int device, std::string_view owner, std::string_view name) {
  TORCH_CHECK_VALUE(
      has_cuda_table(), "alkn::", owner,
      ": expected the program to link alkn::cuda for CUDA tensors, or Backend::aten, got "
      "neither (parameter \"",
      name, "\")");
  const CudaTable* table = find_cuda_table(device);
  TORCH_CHECK_VALUE(table != nullptr, "alkn::", owner,
                    ": expected alkn::cuda to be compiled for the architecture of cuda:", device,
                    " (CMAKE_CUDA_ARCHITECTURES), or Backend::aten, got neither (parameter \"",
                    name, "\")");
  return *table;
}

/// The backend that will step `param`; throws where the asked one cannot.
/// @param owner, name for the error's text
inline Backend resolve_backend(Backend asked, const Tensor& param, std::string_view owner,
                               std::string_view name) {
  if (asked == Backend::aten) return Backend::aten;
  if (asked == Backend::cpu) {
    TORCH_CHECK_VALUE(fused_on_cpu(param), "alkn::", owner,
                      ": expected CPU tensors of float, bfloat16 or half for Backend::cpu, got ",
                      param.scalar_type(), " on ", param.device(), " (parameter \"", name, "\")");
    return Backend::cpu;
  }
  if (asked == Backend::cuda) {
    TORCH_CHECK_VALUE(fused_on_cuda(param), "alkn::", owner,
                      ": expected CUDA tensors of float, bfloat16 or half for Backend::cuda, got ",
                      param.scalar_type(), " on ", param.device(), " (parameter \"", name, "\")");
  }
  if (fused_on_cuda(param)) {
    need_cuda_table(param.device().index(), owner, name);
    return Backend::cuda;
  }
  return fused_on_cpu(param) ? Backend::cpu : Backend::aten;
}

/// The one backend of a step over several parameters: that of each, or `aten` where one needs it.
class CommonBackend {
 public:
  CommonBackend(Backend asked, std::string_view owner) : asked_(asked), owner_(owner) {}

  /// Throws where the fused kernels would have to cross devices.
  void add(const Tensor& param, std::string_view name) {
    const Backend backend = resolve_backend(asked_, param, owner_, name);
    if (common_ == Backend::automatic) {
      common_ = backend;
      device_ = param.device();
    } else if (backend == Backend::aten || common_ == Backend::aten) {
      common_ = Backend::aten;
    } else {
      TORCH_CHECK_VALUE(param.device() == device_, "alkn::", owner_,
                        ": expected parameters on one device, or Backend::aten, got ", device_,
                        " and ", param.device(), " (parameter \"", name, "\")");
    }
  }
  [[nodiscard]] Backend get() const {
    return common_ == Backend::automatic ? Backend::cpu : common_;
  }

 private:
  Backend asked_;
  std::string_view owner_;
  Backend common_ = Backend::automatic;
  c10::Device device_{c10::DeviceType::CPU};
};

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
  return words.defined() ? reinterpret_cast<std::uint64_t*>(words.data_ptr<std::int64_t>())
                         : nullptr;
}

inline float* float_data(const Tensor& t) { return t.defined() ? t.data_ptr<float>() : nullptr; }

/// What the CUDA kernels keep from step to step, on the device of the parameters.
class CudaState {
 public:
  CudaState() = default;
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;
  ~CudaState() { release(); }

  kernel::StepResult run(const std::vector<StepSlot>& slots, kernel::StepTensor* tensors,
                         std::int64_t num_tensors, const kernel::StepArgs& args) {
    const int device = slots.empty() ? 0 : slots.front().param.device().index();
    if (state_ == nullptr || device != device_) {
      release();
      table_ = &need_cuda_table(device, "StepRunner", "");
      state_ = table_->create(device);
      device_ = device;
    }
    return table_->run(state_, tensors, num_tensors, args);
  }

 private:
  void release() {
    if (state_ != nullptr) table_->destroy(state_);
    state_ = nullptr;
  }
  const CudaTable* table_ = nullptr;
  void* state_ = nullptr;
  int device_ = -1;
};

/// Takes steps over a fixed list of slots. Holds the fused kernels' scratch memory and warm starts.
class StepRunner {
 public:
  /// Forgets the warm starts: the next step begins a task.
  void reset() { cpu_.reset(); }

  /// One step; on return every written tensor's version counter has moved.
  kernel::StepResult run(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                         Backend backend) {
    if (backend == Backend::aten) return aten_step(slots, args);
    return run_fused(slots, args, backend);
  }

  /// out = start - lambda (tuned - start); all fp32 or double, of one shape; `out` may be `tuned`.
  void negate(const Tensor& out, const Tensor& tuned, const Tensor& start, double lambda,
              Backend backend) {
    const bool fused =
        backend == Backend::cpu ? out.is_cpu() : backend == Backend::cuda && out.is_cuda();
    if (!fused || out.scalar_type() != at::kFloat || !out.is_contiguous() ||
        start.device() != out.device()) {
      aten_negate(out, tuned, start, lambda);
      return;
    }
    if (!out.is_same(tuned)) out.copy_(tuned);
    if (backend == Backend::cuda) {
      need_cuda_table(out.device().index(), "StepRunner", "")
          .negate(out.data_ptr<float>(), start.data_ptr<float>(), out.numel(),
                  static_cast<float>(lambda), out.device().index());
      out.unsafeGetTensorImpl()->bump_version();
      return;
    }
    kernel::negate(out.data_ptr<float>(), start.data_ptr<float>(), out.numel(),
                   static_cast<float>(lambda), aten_parallel());
    out.unsafeGetTensorImpl()->bump_version();
  }

 private:
  kernel::StepResult run_fused(std::vector<StepSlot>& slots, const kernel::StepArgs& args,
                               Backend backend) {
    tensors_.resize(slots.size());
    held_.clear();  // an exception may have left some
    for (std::size_t i = 0; i < slots.size(); ++i) bind(slots[i], tensors_[i], args);
    const auto count = static_cast<std::int64_t>(tensors_.size());
    const kernel::StepResult result = backend == Backend::cpu
                                          ? cpu_.run(tensors_.data(), count, args, aten_parallel())
                                          : cuda_.run(slots, tensors_.data(), count, args);
    if (!result.skipped) {
      for (std::size_t i = 0; i < slots.size(); ++i) publish(slots[i], tensors_[i], args);
    }
    held_.clear();
    return result;
  }

  /// A contiguous stand-in for `t`, kept alive for the step: `t` itself where it is contiguous.
  Tensor contiguous(const Tensor& t) {
    if (t.is_contiguous()) return t;
    held_.push_back(t.contiguous());
    return held_.back();
  }

  void bind(const StepSlot& slot, kernel::StepTensor& tensor, const kernel::StepArgs& args) {
    tensor = kernel::StepTensor{};
    if (!slot.grad.defined()) return;  // size 0: keeps its place in the list, and its warm start
    tensor.size = slot.param.numel();
    tensor.type = kernel_dtype(slot.param.scalar_type());
    tensor.grad = contiguous(slot.grad).data_ptr();
    tensor.param = contiguous(slot.param).data_ptr();
    tensor.master = float_data(slot.master);
    if (args.update == kernel::Update::adamw) {
      tensor.exp_avg = float_data(slot.exp_avg);
      tensor.exp_avg_sq = float_data(slot.exp_avg_sq);
      tensor.adamw = slot.adamw.rounded();
    } else {
      tensor.grad_out = contiguous(slot.grad_out).data_ptr<float>();
    }
    tensor.mask = mask_words(slot.mask);
    tensor.used = mask_words(slot.used);
    if (args.mask == kernel::MaskKind::localized) {
      tensor.retain = slot.retain.data_ptr();
      tensor.retain_type = kernel_dtype(slot.retain.scalar_type());
      tensor.score = float_data(slot.score);
      tensor.learns_threshold = slot.learns_threshold;
      tensor.threshold = static_cast<float>(slot.threshold);
    }
  }

  /// Results, strided parameters and version counters, after the kernels have run.
  void publish(StepSlot& slot, const kernel::StepTensor& tensor, const kernel::StepArgs& args) {
    if (!slot.grad.defined()) return;
    slot.num_unmasked = tensor.num_unmasked;
    slot.deviation = static_cast<double>(tensor.deviation);
    slot.threshold = static_cast<double>(tensor.threshold);
    const Tensor& target = args.update == kernel::Update::adamw ? slot.param : slot.grad_out;
    if (target.is_contiguous()) {
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
};

}  // namespace alkn::detail
