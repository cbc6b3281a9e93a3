// The kernels of a step as CUDA sees them. Compiled by nvcc alone; no LibTorch.
#pragma once

#include <alkn/kernel/cuda/device.cuh>

#include <alkn/kernel/cuda/norm.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/radix.hpp>
#include <alkn/kernel/cuda/sample.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/select.hpp>
#include <alkn/kernel/cuda/update.hpp>

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

__global__ void __launch_bounds__(tuning::kNormThreads, tuning::kNormBlocks)
    norm_launch(Table table) {
  __shared__ NormShared shared;
  norm_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kNormThreads) combine_launch(Table table) {
  __shared__ NormShared shared;
  combine_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kThreads, tuning::kTensorBlocks)
    sample_launch(Table table) {
  __shared__ SampleShared shared;
  sample_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kThreads, tuning::kScoreBlocks)
    score_launch(Table table) {
  __shared__ ScoreShared shared;
  score_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kThreads, tuning::kTensorBlocks)
    select_launch(Table table) {
  __shared__ DigitShared shared;
  select_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kThreads, tuning::kScoreBlocks)
    radix_launch(Table table, int pass) {
  __shared__ RadixShared shared;
  radix_kernel(Block(), shared, table, pass);
}
template <MaskKind kMask, bool kAdamW>
__global__ void __launch_bounds__(tuning::kThreads, tuning::kUpdateBlocks)
    update_launch(Table table) {
  __shared__ UpdateShared shared;
  update_kernel<kMask, kAdamW>(Block(), shared, table);
}

/// Whether the running device has kernels in this program.
inline bool has_kernels() {
  cudaFuncAttributes attributes;
  const bool there = cudaFuncGetAttributes(&attributes, norm_launch) == cudaSuccess;
  if (!there) static_cast<void>(cudaGetLastError());
  return there;
}

using UpdateLaunch = void (*)(Table);
inline UpdateLaunch update_kernel_of(const Kernels& kernels) {
  const bool adamw = kernels.update == Update::adamw;
  switch (kernels.mask) {
    case MaskKind::none:
      return adamw ? update_launch<MaskKind::none, true> : update_launch<MaskKind::none, false>;
    case MaskKind::given:
      return adamw ? update_launch<MaskKind::given, true> : update_launch<MaskKind::given, false>;
    default:
      return adamw ? update_launch<MaskKind::localized, true>
                   : update_launch<MaskKind::localized, false>;
  }
}

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
