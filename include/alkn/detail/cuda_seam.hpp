// How the C++ library reaches the CUDA kernels without knowing CUDA: tables of functions, each set
// by a .cu.
//
// A program without alkn::cuda has none. A process may hold several, of shared libraries that were
// built for other architectures: the first that has kernels for a device serves it. C++17.
#pragma once

#include <alkn/kernel/step.hpp>

#include <atomic>
#include <cstdint>

namespace alkn::detail {

/// Changes with the layout of the table and of what its functions take; tables of other versions
/// are passed over.
inline constexpr int kCudaTableVersion = 1;

struct CudaTable {
  int version;
  /// Whether there are kernels for a device.
  bool (*supports)(int device);
  /// The state of steps on one device, and its end.
  void* (*create)(int device);
  void (*destroy)(void* state);
  /// One step on LibTorch's current stream of the device; reads the results back.
  kernel::StepResult (*run)(void* state, kernel::StepTensor* tensors, std::int64_t num_tensors,
                            const kernel::StepArgs& args);
  /// param = start - lambda (param - start), fp32, on the current stream.
  void (*negate)(float* param, const float* start, std::int64_t size, float lambda, int device);
  std::atomic<const CudaTable*> next;
};

inline std::atomic<const CudaTable*> cuda_tables{nullptr};

inline bool has_cuda_table() { return cuda_tables.load(std::memory_order_acquire) != nullptr; }

/// The table that serves a device; null if there is none.
inline const CudaTable* find_cuda_table(int device) {
  for (const CudaTable* table = cuda_tables.load(std::memory_order_acquire); table != nullptr;
       table = table->next.load(std::memory_order_acquire)) {
    if (table->version == kCudaTableVersion && table->supports(device)) return table;
  }
  return nullptr;
}

/// Puts a table in front of the others. For static initialisation; the table lives as long as the
/// program.
inline void add_cuda_table(CudaTable& table) {
  const CudaTable* first = cuda_tables.load();
  do {
    table.next.store(first);
  } while (!cuda_tables.compare_exchange_weak(first, &table));
}

}  // namespace alkn::detail
