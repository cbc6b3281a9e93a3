// The arrays of a step in device memory. Compiled by nvcc alone; no LibTorch.
#pragma once

#include <alkn/kernel/cuda/device.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

struct StepArrays {
  explicit StepArrays(const Memory& memory)
      : inputs(memory),
        chunks(memory),
        control(memory),
        states(memory),
        sums(memory),
        candidates(memory),
        histograms(memory),
        squares(memory) {}

  /// The header and the tensors behind it.
  [[nodiscard]] static std::size_t input_bytes(std::int64_t num_tensors) {
    return sizeof(Header) + static_cast<std::size_t>(num_tensors) * sizeof(Tensor);
  }

  /// Waits for nothing; what the arrays held is lost.
  void grow(const WorkSizes& sizes, cudaStream_t stream) {
    const auto bytes = [](std::int64_t count, std::size_t each) {
      return std::max<std::size_t>(static_cast<std::size_t>(count) * each, 16);
    };
    inputs.reserve(input_bytes(sizes.num_tensors), false, stream);
    chunks.reserve(bytes(sizes.num_chunks, sizeof(Chunk)), false, stream);
    control.reserve(sizeof(Control), true, stream);
    states.reserve(bytes(sizes.num_tensors, sizeof(TensorState)), true, stream);
    sums.reserve(bytes(3 * sizes.num_chunks, sizeof(double)), false, stream);
    candidates.reserve(bytes(sizes.num_candidates, sizeof(std::uint32_t)), false, stream);
    histograms.reserve(bytes(sizes.num_histograms * 2 * tuning::kRadixBins, sizeof(std::uint64_t)),
                       true, stream);
  }

  /// Another stream uses them from now on.
  void share(cudaStream_t stream) const {
    for (const DeviceArray* array :
         {&inputs, &chunks, &control, &states, &sums, &candidates, &histograms, &squares}) {
      array->share(stream);
    }
  }

  /// What the kernels take.
  [[nodiscard]] Table table() const {
    return {inputs.get<Header>(),
            reinterpret_cast<const Tensor*>(inputs.get<char>() + sizeof(Header)),
            chunks.get<Chunk>(),
            control.get<Control>(),
            states.get<TensorState>(),
            sums.get<double>(),
            candidates.get<std::uint32_t>(),
            histograms.get<std::uint64_t>(),
            squares.get<double>()};
  }

  DeviceArray inputs, chunks, control, states, sums, candidates, histograms;
  DeviceArray squares;  ///< of a step on several devices or processes, which reserves it
};

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
