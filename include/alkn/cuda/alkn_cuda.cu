// The CUDA kernels of alkn with LibTorch's streams and memory. The target alkn::cuda compiles this
// file into whatever links it; it is included by nobody.
#include <c10/core/Device.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <alkn/kernel/cuda/launch.cuh>
#include <alkn/kernel/cuda/launch_rows.cuh>
#include <alkn/tensor/cuda_table.hpp>

#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

namespace device = alkn::kernel::cuda;
using alkn::kernel::StepArgs;
using alkn::kernel::StepResult;
using alkn::kernel::StepTensor;
using alkn::kernel::TokenRows;

c10::Device cuda_device(int index) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}
c10::cuda::CUDAStream current_stream(int index) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index));
}

void* allocate(std::size_t bytes, cudaStream_t stream) {
  return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream);
}
void release(void* data) { c10::cuda::CUDACachingAllocator::raw_delete(data); }
/// As record_stream: the allocator hands the memory out again only after the other stream's work.
void share(void* data, cudaStream_t) {
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  int index = 0;
  device::check_cuda(cudaGetDevice(&index), "cudaGetDevice");
  c10::DataPtr view(data, data, allocator->raw_deleter(), cuda_device(index));
  c10::cuda::CUDACachingAllocator::recordStream(view, current_stream(index));
  view.release_context();
}

/// Calls f(stream) with the device as the current one.
template <class F>
auto on_device(int index, F&& f) {
  const c10::cuda::CUDAGuard guard(cuda_device(index));
  return std::forward<F>(f)(current_stream(index).stream());
}

struct DeviceStep {
  explicit DeviceStep(int of) : index(of), step(device::Memory{allocate, release, share}) {}
  int index;
  device::CudaStep step;
};

bool supports(int index) {
  static std::atomic<signed char> known[64];  // 0: not asked yet
  const bool kept = index >= 0 && index < 64;
  if (kept && known[index] != 0) return known[index] > 0;
  const bool there = on_device(index, [](cudaStream_t) { return device::has_kernels(); });
  if (kept) known[index] = there ? 1 : -1;
  return there;
}

void* create(int index) {
  return on_device(index, [&](cudaStream_t) { return new DeviceStep(index); });
}

void destroy(void* state) {
  auto* step = static_cast<DeviceStep*>(state);
  on_device(step->index, [&](cudaStream_t) { delete step; });
}

void enqueue(void* state, const StepTensor* tensors, std::int64_t num_tensors,
             const StepArgs& args) {
  auto* step = static_cast<DeviceStep*>(state);
  on_device(step->index, [&](cudaStream_t stream) {
    TORCH_CHECK(!device::is_capturing(stream),
                "alkn::StepRunner: expected a step before the capture of a CUDA graph, got none");
    step->step.enqueue(tensors, num_tensors, args, stream);
  });
}

void enqueue_together(void* const* states, const StepTensor* const* tensors,
                      const std::int64_t* num_tensors, int num_devices, const StepArgs& args) {
  std::vector<device::CudaStep*> all;
  for (int d = 0; d < num_devices; ++d) {
    all.push_back(&static_cast<DeviceStep*>(states[d])->step);
  }
  const auto each = [&](auto call) {
    for (int d = 0; d < num_devices; ++d) {
      on_device(static_cast<DeviceStep*>(states[d])->index,
                [&](cudaStream_t stream) { call(d, stream); });
    }
  };
  each([&](int d, cudaStream_t stream) {
    all[d]->enqueue_sums(tensors[d], num_tensors[d], args, d, num_devices, stream);
  });
  each([&](int d, cudaStream_t stream) { all[d]->gather(all, stream); });
  each([&](int d, cudaStream_t stream) { all[d]->enqueue_rest(all, stream); });
}

bool capturing(int index) {
  return on_device(index, [](cudaStream_t stream) { return device::is_capturing(stream); });
}

void capture(void* state, const StepTensor* tensors, std::int64_t num_tensors,
             const StepArgs& args) {
  auto* step = static_cast<DeviceStep*>(state);
  on_device(step->index,
            [&](cudaStream_t stream) { step->step.capture(tensors, num_tensors, args, stream); });
}

void prepare(void* state, const StepTensor* tensors, std::int64_t num_tensors,
             const StepArgs& args) {
  auto* step = static_cast<DeviceStep*>(state);
  on_device(step->index,
            [&](cudaStream_t stream) { step->step.prepare(tensors, num_tensors, args, stream); });
}

void fetch(void* state) {
  auto* step = static_cast<DeviceStep*>(state);
  on_device(step->index, [&](cudaStream_t) { step->step.fetch(step->step.stream()); });
}

StepResult report(void* state, StepTensor* tensors, std::int64_t num_tensors) {
  const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
  return static_cast<DeviceStep*>(state)->step.report(tensors, num_tensors);
}

void negate(float* param, const float* start, std::int64_t size, float lambda, int index) {
  device::Negation negation;
  negation.param = param, negation.start = start, negation.size = size, negation.lambda = lambda;
  on_device(index, [&](cudaStream_t stream) { device::negate(negation, stream); });
}

std::int64_t count_bits(const std::uint64_t* mask, const std::uint64_t* other,
                        std::int64_t num_words, int index) {
  return on_device(index, [&](cudaStream_t stream) {
    device::DeviceArray count(device::Memory{allocate, release, share});
    count.reserve(sizeof(std::uint64_t), true, stream);
    device::MaskWords words{mask, other, num_words, count.get<std::uint64_t>()};
    device::count_bits(words, stream);
    std::uint64_t result = 0;
    device::check_cuda(
        cudaMemcpyAsync(&result, words.count, sizeof(result), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
    device::check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    return static_cast<std::int64_t>(result);
  });
}

void token_forward(const TokenRows& rows, int index) {
  on_device(index, [&](cudaStream_t stream) { device::token_forward(rows, stream); });
}
void token_backward(const TokenRows& rows, int index) {
  on_device(index, [&](cudaStream_t stream) { device::token_backward(rows, stream); });
}

alkn::detail::CudaTable table{alkn::detail::kCudaTableVersion,
                              supports,
                              create,
                              destroy,
                              enqueue,
                              enqueue_together,
                              capturing,
                              capture,
                              prepare,
                              fetch,
                              report,
                              negate,
                              count_bits,
                              token_forward,
                              token_backward,
                              {nullptr}};

const alkn::detail::CudaTableEntry entry(table);

}  // namespace
