// The CUDA kernels as the C++ library reaches them, on the CPU: a table whose kernels run block by
// block, for tensors of device -1 (the CPU's), 0 and 1.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include <alkn/kernel/cuda/history.hpp>
#include <alkn/tensor/cuda_table.hpp>

#include "emulated_step.hpp"

namespace alkn_test {

/// Serves the devices while it lives; one at a time.
class EmulatedTable {
 public:
  EmulatedTable() : entry_(table_) { num_steps = num_negations = 0; }

  static inline std::atomic<std::int64_t> num_steps = 0, num_negations = 0;

  /// A graph that is being captured, as if by the current stream.
  static inline bool captures = false;
  /// Launches the graph of the last optimizer that was asked to prepare it.
  static void replay() {
    auto& s = *prepared_;
    s.result =
        s.step.replay_prepared(s.tensors.data(), static_cast<std::int64_t>(s.tensors.size()));
    num_steps += 1;
  }

 private:
  using Table = alkn::detail::CudaTable;
  struct State {
    EmulatedStep<Fibers> step{Fibers(Order::mixed), Grid{}};
    std::vector<StepTensor> tensors, fetched;
    StepResult result, fetched_result;
  };
  struct Nothing {};

  static inline State* prepared_ = nullptr;

  static void enqueue(void* state, const StepTensor* tensors, std::int64_t num_tensors,
                      const StepArgs& args) {
    auto& s = *static_cast<State*>(state);
    s.tensors.assign(tensors, tensors + num_tensors);
    s.result = s.step.run(s.tensors.data(), num_tensors, args);
    num_steps += 1;
  }
  static void enqueue_together(void* const* states, const StepTensor* const* tensors,
                               const std::int64_t* num_tensors, int num_devices,
                               const StepArgs& args) {
    std::vector<EmulatedStep<Fibers>*> all;
    for (int d = 0; d < num_devices; ++d) {
      auto& s = *static_cast<State*>(states[d]);
      s.tensors.assign(tensors[d], tensors[d] + num_tensors[d]);
      s.step.run_sums(s.tensors.data(), num_tensors[d], args, d, num_devices);
      all.push_back(&s.step);
    }
    for (auto* step : all) step->gather(all);
    for (int d = 0; d < num_devices; ++d) {
      auto& s = *static_cast<State*>(states[d]);
      s.result = s.step.run_rest(s.tensors.data(), num_tensors[d]);
    }
    num_steps += 1;
  }
  static void capture(void* state, const StepTensor* tensors, std::int64_t num_tensors,
                      const StepArgs& args) {
    static_cast<State*>(state)->step.capture(tensors, num_tensors, args);
  }
  static void prepare(void* state, const StepTensor* tensors, std::int64_t num_tensors,
                      const StepArgs& args) {
    prepared_ = static_cast<State*>(state);
    prepared_->step.prepare(tensors, num_tensors, args);
    prepared_->tensors.assign(tensors, tensors + num_tensors);
  }
  static StepResult report(void* state, StepTensor* tensors, std::int64_t num_tensors) {
    const auto& s = *static_cast<State*>(state);
    if (!s.fetched_result.skipped) std::copy_n(s.fetched.begin(), num_tensors, tensors);
    return s.fetched_result;
  }
  static void fetch(void* state) {
    auto& s = *static_cast<State*>(state);
    s.fetched = s.tensors;
    s.fetched_result = s.result;
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
               [](int index) { return index >= -1 && index < 2; },
               [](int) -> void* { return new State; },
               [](void* state) { delete static_cast<State*>(state); },
               enqueue,
               enqueue_together,
               [](int) { return captures; },
               capture,
               prepare,
               fetch,
               report,
               negate,
               nullptr,
               nullptr,
               nullptr,
               {nullptr}};
  alkn::detail::CudaTableEntry entry_;
};

}  // namespace alkn_test
