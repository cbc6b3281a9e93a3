// What every launch needs: errors of CUDA as exceptions, memory, and the namespace of the kernels.
// Compiled by nvcc alone; no LibTorch.
#pragma once

#if !defined(__CUDACC__)
#error "alkn: .cuh files are compiled by nvcc; a C++ file links alkn::cuda instead of including one"
#endif

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/tuning.hpp>

// The kernels' namespace names the architectures that they were compiled for (archs_800_900_0_
// ...), and everything inside has internal linkage: two libraries of one process that were built
// for different architectures share no kernel, not even by name.
#define ALKN_ARCHS_JOIN_(a, b, c, d, e, f, g, h, ...) \
  archs_##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h
#define ALKN_ARCHS_(...) ALKN_ARCHS_JOIN_(__VA_ARGS__)
#if defined(__CUDA_ARCH_LIST__)
#define ALKN_CUDA_ARCHS ALKN_ARCHS_(__CUDA_ARCH_LIST__, 0, 0, 0, 0, 0, 0, 0, 0)
#else
#define ALKN_CUDA_ARCHS archs_unknown
#endif

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

inline void check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string("alkn::kernel::cuda: expected ") + call +
                           " to succeed, got \"" + cudaGetErrorString(error) + "\"");
}

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
  return capture != cudaStreamCaptureStatusNone;
}

/// The allocator of the kernels' device memory, for example LibTorch's caching allocator.
struct Memory {
  /// Memory that `stream` uses first. Throws where there is none.
  void* (*allocate)(std::size_t bytes, cudaStream_t stream) = nullptr;
  void (*release)(void* data) = nullptr;
  /// Another stream uses it from now on: it must not be handed out again before that stream's work
  /// is done.
  void (*share)(void* data, cudaStream_t stream) = nullptr;
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
  void share(cudaStream_t stream) const {
    if (data_ != nullptr) memory_.share(data_, stream);
  }
  template <class T>
  [[nodiscard]] T* get() const {
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

/// Pinned host memory that grows and never shrinks. Growing waits for the device; not while a
/// stream is captured.
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
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// An event without a time, made when it is first recorded.
class Event {
 public:
  Event() = default;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) {
    if (event_ == nullptr) {
      check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming),
                 "cudaEventCreateWithFlags");
    }
    check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  /// The host waits; at once if nothing was recorded.
  void synchronize() const {
    if (event_ != nullptr) check_cuda(cudaEventSynchronize(event_), "cudaEventSynchronize");
  }
  /// The stream waits, the host does not.
  void hold(cudaStream_t stream) const {
    if (event_ != nullptr)
      check_cuda(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// How many multiprocessors a device has, by which launches choose their grids.
struct DeviceNumbers {
  int num_multiprocessors = 1;

  static DeviceNumbers of_current() {
    int device = 0;
    DeviceNumbers n;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(
        cudaDeviceGetAttribute(&n.num_multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
    return n;
  }
  /// Blocks of a persistent grid: as many as are resident at once, and no more than there is work.
  /// @param blocks resident blocks a multiprocessor
  [[nodiscard]] unsigned grid(std::int64_t work, int blocks) const {
    const std::int64_t resident = static_cast<std::int64_t>(num_multiprocessors) * blocks;
    return static_cast<unsigned>(std::max<std::int64_t>(1, std::min(work, resident)));
  }
};

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
