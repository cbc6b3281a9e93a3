// Takes a step on tensors: chooses the backend, hands it raw pointers, tells autograd what was
// written.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <alkn/kernel/cpu/step.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/step/aten.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/cuda_table.hpp>
#include <alkn/tensor/parallel.hpp>
#include <alkn/tensor/plain_values.hpp>

#include <string_view>
#include <vector>

namespace alkn::detail {

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

  /// Throws where the fused kernels would have to be on the CPU and on CUDA.
  void add(const Tensor& param, std::string_view name) {
    const Backend backend = resolve_backend(asked_, param, owner_, name);
    if (common_ == Backend::automatic) {
      common_ = backend;
      device_ = param.device();
    } else if (backend == Backend::aten || common_ == Backend::aten) {
      common_ = Backend::aten;
    } else {
      TORCH_CHECK_VALUE(backend == common_, "alkn::", owner_,
                        ": expected parameters on CUDA devices or on the CPU, or Backend::aten, "
                        "got some on ",
                        device_, " and on ", param.device(), " (parameter \"", name, "\")");
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
  return words.defined() ? static_cast<std::uint64_t*>(words.data_ptr()) : nullptr;
}

/// A moment or a score, fp32 or bfloat16.
inline void* state_data(const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

inline float* float_data(const Tensor& t) {
  return t.defined() ? static_cast<float*>(t.data_ptr()) : nullptr;
}

/// What the CUDA kernels keep from step to step, on each device that has parameters.
class CudaState {
 public:
  CudaState() = default;
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;
  ~CudaState() {
    for (const OnDevice& on : devices_) on.table->destroy(on.state);
  }

  /// One step; waits for nothing. Returns whether there are results to be reported.
  bool enqueue(const std::vector<StepSlot>& slots, const kernel::StepTensor* tensors,
               const kernel::StepArgs& args, StepMode mode) {
    split(slots, tensors);
    TORCH_CHECK(mode == StepMode::run || active_.size() <= 1,
                "alkn::StepRunner: expected parameters on one device for a step of a CUDA graph, "
                "got some on ",
                active_.size());
    const bool results = has_results(args) && mode != StepMode::capture;
    if (results && active_.size() > 1) {
      enqueue_together(args);
    } else {
      for (const OnDevice* on : active_) {
        const auto part = mode == StepMode::run       ? on->table->enqueue
                          : mode == StepMode::capture ? on->table->capture
                                                      : on->table->prepare;
        part(on->state, on->tensors.data(), on->size(), args);
      }
    }
    if (!results) active_.clear();
    to_fetch_ = mode == StepMode::prepare;
    if (!to_fetch_) fetch();
    return !active_.empty();
  }
  /// Waits for the results of the last step.
  kernel::StepResult report(kernel::StepTensor* tensors) {
    if (to_fetch_) fetch();  // the replay is enqueued by now
    to_fetch_ = false;
    kernel::StepResult result;
    for (OnDevice* on : active_) {
      result = on->table->report(on->state, on->tensors.data(), on->size());
      for (std::size_t i = 0; i < on->tensors.size(); ++i) tensors[on->places[i]] = on->tensors[i];
    }
    return result;
  }

 private:
  struct OnDevice {
    int device;
    const CudaTable* table;
    void* state;
    std::vector<kernel::StepTensor> tensors;  ///< of the step
    std::vector<std::size_t> places;          ///< of them in the step's list
    [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(tensors.size()); }
  };

  /// The part of the step that each device has.
  void split(const std::vector<StepSlot>& slots, const kernel::StepTensor* tensors) {
    for (OnDevice& on : devices_) on.tensors.clear(), on.places.clear();
    for (std::size_t i = 0; i < slots.size(); ++i) {
      OnDevice& on = at(slots[i].param->device().index());
      on.tensors.push_back(tensors[i]);
      on.places.push_back(i);
    }
    active_.clear();
    for (OnDevice& on : devices_) {
      if (!on.tensors.empty()) active_.push_back(&on);
    }
  }

  /// A step with results on several devices: their norm is one, and so is the decision to skip.
  void enqueue_together(const kernel::StepArgs& args) {
    std::vector<void*> states;
    std::vector<const kernel::StepTensor*> tensors;
    std::vector<std::int64_t> counts;
    for (const OnDevice* on : active_) {
      TORCH_CHECK(on->table == active_[0]->table,
                  "alkn::StepRunner: expected one library's kernels on all devices of a step, got "
                  "those of several");
      states.push_back(on->state);
      tensors.push_back(on->tensors.data());
      counts.push_back(on->size());
    }
    active_[0]->table->enqueue_together(states.data(), tensors.data(), counts.data(),
                                        static_cast<int>(states.size()), args);
  }
  void fetch() {
    for (const OnDevice* on : active_) on->table->fetch(on->state);
  }

  /// Whether the host has to know what came of the step: it may have been skipped, or has counts.
  static bool has_results(const kernel::StepArgs& args) {
    return args.check_finite || args.max_norm > 0 || args.mask == kernel::MaskKind::localized;
  }
  OnDevice& at(int device) {
    for (OnDevice& on : devices_) {
      if (on.device == device) return on;
    }
    const CudaTable& table = need_cuda_table(device, "StepRunner", "");
    devices_.push_back({device, &table, table.create(device), {}, {}});
    return devices_.back();
  }
  std::vector<OnDevice> devices_;
  std::vector<OnDevice*> active_;  ///< those of the step; after it, those that have results
  bool to_fetch_ = false;
};

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
      if (slot.adamw != scalars_) rounded_ = (scalars_ = slot.adamw).rounded();
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
  AdamWScalars scalars_;  ///< of the tensor before: mostly those of the next one, too
  kernel::AdamWNumbers rounded_ = scalars_.rounded();
  bool pending_ = false, late_ = false, emulates_ = false, written_ = false;
  kernel::StepResult late_result_;
};

}  // namespace alkn::detail
