// The CUDA kernels as the C++ library reaches them, on the CPU: a table whose kernels run block by
// block, for tensors of device -1.
#pragma once

#include <cstdint>
#include <vector>

#include <alkn/detail/cuda_seam.hpp>
#include <alkn/kernel/cuda/history.hpp>

#include "emulated_step.hpp"

namespace alkn_test {

/// Serves device -1 while it lives; one at a time.
class EmulatedTable {
 public:
  EmulatedTable() : entry_(table_) { num_steps = num_negations = 0; }

  static inline std::int64_t num_steps = 0, num_negations = 0;

 private:
  using Table = alkn::detail::CudaTable;
  struct State {
    EmulatedStep<Fibers> step{Fibers(Order::mixed), Grid{}};
    std::vector<StepTensor> tensors;
    StepResult result;
  };
  struct Nothing {};

  static void enqueue(void* state, const StepTensor* tensors, std::int64_t num_tensors,
                      const StepArgs& args) {
    auto& s = *static_cast<State*>(state);
    s.tensors.assign(tensors, tensors + num_tensors);
    s.result = s.step.run(s.tensors.data(), num_tensors, args);
    num_steps += 1;
  }
  static StepResult report(void* state, StepTensor* tensors, std::int64_t num_tensors) {
    const auto& s = *static_cast<State*>(state);
    if (!s.result.skipped) std::copy_n(s.tensors.begin(), num_tensors, tensors);
    return s.result;
  }
  static void negate(float* param, const float* start, std::int64_t size, float lambda, int) {
    device::Negation negation;
    negation.param = param, negation.start = start, negation.size = size, negation.lambda = lambda;
    Fibers(Order::backward).run<Nothing>(3, 64, [&](const auto& block, Nothing&) {
      device::negate_kernel(block, negation);
    });
    num_negations += 1;
  }

  Table table_{alkn::detail::kCudaTableVersion,
               [](int index) { return index == -1; },
               [](int) -> void* { return new State; },
               [](void* state) { delete static_cast<State*>(state); },
               enqueue,
               [](void*) {},
               report,
               negate,
               nullptr,
               nullptr,
               nullptr,
               {nullptr}};
  alkn::detail::CudaTableEntry entry_;
};

}  // namespace alkn_test
