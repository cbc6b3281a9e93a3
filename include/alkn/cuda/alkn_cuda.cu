// The CUDA kernels of alkn with LibTorch's streams and memory. The target alkn::cuda compiles this
// file into whatever links it; it is included by nobody.
#include <c10/core/Device.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <alkn/detail/cuda_seam.hpp>
#include <alkn/kernel/cuda/launch.cuh>

#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>

namespace {

namespace device = alkn::kernel::cuda;
using alkn::kernel::DType;
using alkn::kernel::StepArgs;
using alkn::kernel::StepResult;
using alkn::kernel::StepTensor;

c10::Device cuda_device(int index) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}

void* allocate(std::size_t bytes, cudaStream_t stream) {
  return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(bytes, stream);
}
void release(void* data) { c10::cuda::CUDACachingAllocator::raw_delete(data); }

struct DeviceStep {
  explicit DeviceStep(int of) : index(of), step(device::Memory{allocate, release}) {}
  int index;
  device::CudaStep step;
};

bool supports(int index) {
  const c10::cuda::CUDAGuard guard(cuda_device(index));
  return device::has_kernels();
}

void* create(int index) {
  const c10::cuda::CUDAGuard guard(cuda_device(index));
  return new DeviceStep(index);
}

void destroy(void* state) {
  auto* step = static_cast<DeviceStep*>(state);
  const c10::cuda::CUDAGuard guard(cuda_device(step->index));
  delete step;
}

StepResult run(void* state, StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
  auto* step = static_cast<DeviceStep*>(state);
  const c10::cuda::CUDAGuard guard(cuda_device(step->index));
  const cudaStream_t stream =
      c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(step->index)).stream();
  step->step.enqueue(tensors, num_tensors, args, stream);
  return step->step.report(tensors, num_tensors, stream);
}

void negate(float* param, const float* start, std::int64_t size, float lambda, int index) {
  const c10::cuda::CUDAGuard guard(cuda_device(index));
  device::negate(param, nullptr, DType::float32, start, size, lambda,
                 c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(index)).stream());
}

alkn::detail::CudaTable table{
    alkn::detail::kCudaTableVersion, supports, create, destroy, run, negate, {nullptr}};

[[maybe_unused]] const bool added = (alkn::detail::add_cuda_table(table), true);

}  // namespace
