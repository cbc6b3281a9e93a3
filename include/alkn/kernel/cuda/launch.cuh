// The kernels as CUDA sees them, and the class that launches a step. Compiled by nvcc alone; no
// LibTorch.
//
// Everything here has internal linkage: two libraries of one process, built for other
// architectures, each have their own kernels.
#pragma once

#if !defined(__CUDACC__)
#error "alkn: launch.cuh is compiled by nvcc; a C++ file links alkn::cuda instead of including it"
#endif

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include <alkn/kernel/cuda/norm.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/select.hpp>
#include <alkn/kernel/cuda/tuning_sm80.hpp>
#include <alkn/kernel/cuda/tuning_sm90.hpp>
#include <alkn/kernel/cuda/update.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {
namespace {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
using Tuning = TuningSm80;
#else
using Tuning = TuningSm90;
#endif

// --- kernels ---------------------------------------------------------------------------------

__global__ void __launch_bounds__(tuning::kNormThreads, Tuning::kNormBlocks)
    norm_launch(Table table) {
  __shared__ NormShared shared;
  norm_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kTensorBlocks)
    sample_launch(Table table) {
  __shared__ SampleShared shared;
  sample_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kScoreBlocks)
    score_launch(Table table) {
  __shared__ ScoreShared shared;
  score_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kTensorBlocks)
    select_launch(Table table) {
  __shared__ DigitShared shared;
  select_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kScoreBlocks)
    radix_launch(Table table, int pass) {
  __shared__ RadixShared shared;
  radix_kernel(Block(), shared, table, pass);
}
template <MaskKind kMask, bool kAdamW>
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kUpdateBlocks)
    update_launch(Table table) {
  __shared__ UpdateShared shared;
  update_kernel<kMask, kAdamW>(Block(), shared, table);
}

/// param = start - lambda (param - start), and its copy in 16 bits if there is one.
__global__ void __launch_bounds__(Tuning::kThreads)
    negate_launch(float* param, void* narrow, DType type, const float* start, std::int64_t size,
                  float lambda) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += stride) {
    const float x = negated(-lambda, param[i], start[i]);
    param[i] = x;
    if (narrow == nullptr) continue;
    static_cast<std::uint16_t*>(narrow)[i] =
        type == DType::bfloat16 ? float_to_bfloat16(x) : float_to_half(x);
  }
}

// --- host ------------------------------------------------------------------------------------

inline void check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("alkn::kernel::CudaStep: expected ") + call +
                           " to succeed, got \"" + cudaGetErrorString(error) + "\"");
}

/// Whether the running device has kernels in this program.
inline bool has_kernels() {
  cudaFuncAttributes attributes;
  const bool there = cudaFuncGetAttributes(&attributes, norm_launch) == cudaSuccess;
  if (!there) static_cast<void>(cudaGetLastError());
  return there;
}

/// Whose device memory a step works in, for example LibTorch's caching allocator.
struct Memory {
  void* (*allocate)(std::size_t bytes, cudaStream_t stream) = nullptr;
  void (*release)(void* data) = nullptr;
};

/// An array that grows and never shrinks.
class DeviceArray {
 public:
  explicit DeviceArray(const Memory& memory) : memory_(memory) {}
  ~DeviceArray() { release(); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  /// Room for `bytes`, zero if `clear` says so whenever it is new.
  void reserve(std::size_t bytes, bool clear, cudaStream_t stream) {
    if (bytes <= bytes_) return;
    release();
    data_ = memory_.allocate(bytes, stream);
    bytes_ = bytes;
    if (clear) check_cuda(cudaMemsetAsync(data_, 0, bytes, stream), "cudaMemsetAsync");
  }
  template <class T>
  T* get() const {
    return static_cast<T*>(data_);
  }

 private:
  void release() {
    if (data_ != nullptr) memory_.release(data_);
    data_ = nullptr, bytes_ = 0;
  }
  Memory memory_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Pinned host memory.
class PinnedArray {
 public:
  PinnedArray() = default;
  ~PinnedArray() { cudaFreeHost(data_); }
  PinnedArray(const PinnedArray&) = delete;
  PinnedArray& operator=(const PinnedArray&) = delete;
  void reserve(std::size_t bytes) {
    if (bytes <= bytes_) return;
    cudaFreeHost(data_);
    data_ = nullptr, bytes_ = 0;
    check_cuda(cudaHostAlloc(&data_, bytes, cudaHostAllocDefault), "cudaHostAlloc");
    bytes_ = bytes;
  }
  [[nodiscard]] char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Takes steps on one device. The bits are those of CpuStep.
///
/// enqueue() puts one copy and at most eight kernels on the stream and waits for nothing; with the
/// tensors' sizes of the last step it allocates nothing. Results stay on the device until report()
/// asks for them.
class CudaStep {
 public:
  explicit CudaStep(const Memory& memory)
      : inputs_(memory),
        chunks_(memory),
        control_(memory),
        states_(memory),
        sums_(memory),
        candidates_(memory),
        histograms_(memory) {}
  ~CudaStep() {
    for (Slot& slot : slots_) {
      if (slot.copied != nullptr) cudaEventDestroy(slot.copied);
    }
  }
  CudaStep(const CudaStep&) = delete;
  CudaStep& operator=(const CudaStep&) = delete;

  /// @throws std::invalid_argument for a missing pointer, std::runtime_error for an error of CUDA
  void enqueue(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    if (plan_.assign(tensors, num_tensors, args)) prepared_ = false;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    const bool capturing = capture != cudaStreamCaptureStatusNone;
    if (capturing && !prepared_) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected a step over the same tensors before the capture "
          "of a graph, got none");
    }
    if (!prepared_) prepare(stream);
    upload(stream, capturing);
    launch(stream);
  }

  /// Waits for the stream; thresholds, counts and deviations of the last step go into `tensors`
  /// unless it was skipped.
  StepResult report(StepTensor* tensors, std::int64_t num_tensors, cudaStream_t stream) {
    const std::size_t bytes = sizeof(TensorState) * static_cast<std::size_t>(num_tensors);
    results_.reserve(sizeof(Control) + bytes);
    check_cuda(cudaMemcpyAsync(results_.data(), control_.get<Control>(), sizeof(Control),
                               cudaMemcpyDeviceToHost, stream),
               "cudaMemcpyAsync");
    if (bytes > 0) {
      check_cuda(cudaMemcpyAsync(results_.data() + sizeof(Control), states_.get<TensorState>(),
                                 bytes, cudaMemcpyDeviceToHost, stream),
                 "cudaMemcpyAsync");
    }
    check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    Control control;
    std::memcpy(&control, results_.data(), sizeof(Control));
    StepResult result;
    result.grad_norm = control.grad_norm;
    result.clip_scale = control.clip_scale;
    result.skipped = control.skip != 0;
    if (result.skipped) return result;
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      TensorState state;
      std::memcpy(&state,
                  results_.data() + sizeof(Control) + static_cast<std::size_t>(t) * sizeof(state),
                  sizeof(state));
      tensors[t].threshold = state.threshold;
      tensors[t].num_unmasked = static_cast<std::int64_t>(state.num_unmasked);
      tensors[t].deviation = state.deviation;
    }
    return result;
  }

 private:
  /// A place in pinned memory for what a step copies; the host fills one while the other is on its
  /// way.
  struct Slot {
    PinnedArray memory;
    cudaEvent_t copied = nullptr;
  };

  [[nodiscard]] std::size_t input_bytes() const {
    return sizeof(Header) + plan_.tensors().size() * sizeof(Tensor);
  }

  void prepare(cudaStream_t stream) {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(
        cudaDeviceGetAttribute(&num_multiprocessors_, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
    int major = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
               "cudaDeviceGetAttribute");
    hopper_ = major >= 9;
    const WorkSizes& sizes = plan_.sizes();
    const auto bytes = [](std::int64_t count, std::size_t each) {
      return std::max<std::size_t>(static_cast<std::size_t>(count) * each, 16);
    };
    inputs_.reserve(input_bytes(), false, stream);
    chunks_.reserve(bytes(sizes.num_chunks, sizeof(Chunk)), false, stream);
    control_.reserve(sizeof(Control), true, stream);
    states_.reserve(bytes(sizes.num_tensors, sizeof(TensorState)), true, stream);
    sums_.reserve(bytes(3 * sizes.num_chunks, sizeof(double)), false, stream);
    candidates_.reserve(bytes(sizes.num_candidates, sizeof(std::uint32_t)), false, stream);
    histograms_.reserve(bytes(sizes.num_histograms * 2 * tuning::kRadixBins, sizeof(std::uint64_t)),
                        true, stream);
    if (sizes.num_chunks > 0) {  // from pageable memory: staged before the call returns
      check_cuda(
          cudaMemcpyAsync(chunks_.get<Chunk>(), plan_.chunks().data(),
                          plan_.chunks().size() * sizeof(Chunk), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync");
    }
    prepared_ = true;
  }

  void upload(cudaStream_t stream, bool capturing) {
    // A captured copy reads its place anew at every replay: it has one of its own.
    Slot& slot = slots_[capturing ? 2 : next_slot_];
    if (!capturing) {
      next_slot_ = 1 - next_slot_;
      if (slot.copied == nullptr) {
        check_cuda(cudaEventCreateWithFlags(&slot.copied, cudaEventDisableTiming),
                   "cudaEventCreateWithFlags");
      }
      check_cuda(cudaEventSynchronize(slot.copied),
                 "cudaEventSynchronize");  // of the step before the last
    }
    slot.memory.reserve(input_bytes());
    std::memcpy(slot.memory.data(), &plan_.header(), sizeof(Header));
    std::memcpy(slot.memory.data() + sizeof(Header), plan_.tensors().data(),
                plan_.tensors().size() * sizeof(Tensor));
    check_cuda(cudaMemcpyAsync(inputs_.get<char>(), slot.memory.data(), input_bytes(),
                               cudaMemcpyHostToDevice, stream),
               "cudaMemcpyAsync");
    if (!capturing) check_cuda(cudaEventRecord(slot.copied, stream), "cudaEventRecord");
  }

  [[nodiscard]] unsigned grid(std::int64_t work, int sm80, int sm90) const {
    const std::int64_t resident =
        static_cast<std::int64_t>(num_multiprocessors_) * (hopper_ ? sm90 : sm80);
    return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(work, resident)));
  }

  void launch(cudaStream_t stream) {
    const WorkSizes& sizes = plan_.sizes();
    const Table table{inputs_.get<Header>(),
                      reinterpret_cast<const Tensor*>(inputs_.get<char>() + sizeof(Header)),
                      chunks_.get<Chunk>(),
                      control_.get<Control>(),
                      states_.get<TensorState>(),
                      sums_.get<double>(),
                      candidates_.get<std::uint32_t>(),
                      histograms_.get<std::uint64_t>()};
    const int threads = hopper_ ? TuningSm90::kThreads : TuningSm80::kThreads;
    const std::int64_t num_units = sizes.num_chunks * tuning::kUnits;
    norm_launch<<<grid(sizes.num_chunks, TuningSm80::kNormBlocks, TuningSm90::kNormBlocks),
                  tuning::kNormThreads, 0, stream>>>(table);
    if (plan_.selects()) {
      const unsigned of_tensors =
          grid(sizes.num_tensors, TuningSm80::kTensorBlocks, TuningSm90::kTensorBlocks);
      const unsigned of_units = grid(num_units, TuningSm80::kScoreBlocks, TuningSm90::kScoreBlocks);
      const unsigned of_chunks =
          grid(sizes.num_chunks, TuningSm80::kScoreBlocks, TuningSm90::kScoreBlocks);
      sample_launch<<<of_tensors, threads, 0, stream>>>(table);
      score_launch<<<of_units, threads, 0, stream>>>(table);
      select_launch<<<of_tensors, threads, 0, stream>>>(table);
      for (int pass = 0; pass < 3; ++pass)
        radix_launch<<<of_chunks, threads, 0, stream>>>(table, pass);
    }
    const unsigned of_units = grid(num_units, TuningSm80::kUpdateBlocks, TuningSm90::kUpdateBlocks);
    const auto kernel = update_kernel_of(plan_.header().args);
    kernel<<<of_units, threads, 0, stream>>>(table);
    check_cuda(cudaGetLastError(), "the launch of a step");
  }

  using UpdateLaunch = void (*)(Table);
  static UpdateLaunch update_kernel_of(const StepArgs& args) {
    const bool adamw = args.update == Update::adamw;
    switch (args.mask) {
      case MaskKind::none:
        return adamw ? update_launch<MaskKind::none, true> : update_launch<MaskKind::none, false>;
      case MaskKind::given:
        return adamw ? update_launch<MaskKind::given, true> : update_launch<MaskKind::given, false>;
      default:
        return adamw ? update_launch<MaskKind::localized, true>
                     : update_launch<MaskKind::localized, false>;
    }
  }

  Plan plan_;
  bool prepared_ = false;  ///< the arrays below fit the plan
  int num_multiprocessors_ = 0;
  bool hopper_ = false;
  DeviceArray inputs_, chunks_, control_, states_, sums_, candidates_, histograms_;
  Slot slots_[3];
  int next_slot_ = 0;
  PinnedArray results_;
};

inline void negate(float* param, void* narrow, DType type, const float* start, std::int64_t size,
                   float lambda, cudaStream_t stream) {
  if (size == 0) return;
  const std::int64_t blocks =
      std::min<std::int64_t>((size + Tuning::kThreads - 1) / Tuning::kThreads, 4096);
  negate_launch<<<static_cast<unsigned>(blocks), Tuning::kThreads, 0, stream>>>(
      param, narrow, type, start, size, lambda);
  check_cuda(cudaGetLastError(), "the launch of a negation");
}

}  // namespace
}  // namespace alkn::kernel::cuda
