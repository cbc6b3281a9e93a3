// How the C++ library reaches the CUDA kernels without knowing CUDA: tables of functions, each set
// by a .cu.
//
// A program without alkn::cuda has none. A process may hold several, of shared libraries that were
// built for other architectures: the first that has kernels for a device serves it. C++17.
#pragma once

#include <alkn/kernel/rows/token_rows.hpp>
#include <alkn/kernel/step.hpp>

#include <atomic>
#include <cstdint>

namespace alkn::detail {

/// Changes with the layout of the table and of what its functions take; tables of other versions
/// are passed over.
inline constexpr int kCudaTableVersion = 5;

/// Everything runs on LibTorch's current stream of its device, in LibTorch's memory.
struct CudaTable {
  int version;
  /// Whether there are kernels for a device.
  bool (*supports)(int device);

  /// The state of steps on one device, and its end.
  void* (*create)(int device);
  void (*destroy)(void* state);
  /// One step; waits for nothing but, where the step is one of several processes, for their sums.
  void (*enqueue)(void* state, const kernel::StepTensor* tensors, std::int64_t num_tensors,
                  const kernel::StepArgs& args);
  /// One step of which each of several devices has a part: its norm is of all gradients. Waits for
  /// nothing.
  void (*enqueue_together)(void* const* states, const kernel::StepTensor* const* tensors,
                           const std::int64_t* num_tensors, int num_devices,
                           const kernel::StepArgs& args);
  /// Whether the device's current stream is being captured in a graph.
  bool (*capturing)(int device);
  /// There: the kernels of a step alone, for a graph that takes it when it is replayed.
  void (*capture)(void* state, const kernel::StepTensor* tensors, std::int64_t num_tensors,
                  const kernel::StepArgs& args);
  /// A step but its kernels: the replay of that graph comes next on the stream.
  void (*prepare)(void* state, const kernel::StepTensor* tensors, std::int64_t num_tensors,
                  const kernel::StepArgs& args);
  /// The results of the last step are on their way to the host; waits for nothing.
  void (*fetch)(void* state);
  /// Waits for the last fetch; its results go into `tensors`, unless the step was skipped.
  kernel::StepResult (*report)(void* state, kernel::StepTensor* tensors, std::int64_t num_tensors);

  /// param = start - lambda (param - start), fp32; start on the device or in pinned host memory.
  void (*negate)(float* param, const float* start, std::int64_t size, float lambda, int device);
  /// How many bits of mask are set, and of those in `other` if there is one. Waits for the count.
  std::int64_t (*count_bits)(const std::uint64_t* mask, const std::uint64_t* other,
                             std::int64_t num_words, int device);

  /// The token log-probability and its gradient, see kernel::TokenRows.
  void (*token_forward)(const kernel::TokenRows& rows, int device);
  void (*token_backward)(const kernel::TokenRows& rows, int device);

  mutable std::atomic<const CudaTable*> next;
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

/// While it lives, a table stands in front of the others: a static object of the shared library or
/// program that brings the table. Libraries are loaded and unloaded one at a time.
class CudaTableEntry {
 public:
  explicit CudaTableEntry(CudaTable& table) : table_(table) {
    table.next.store(cuda_tables.load());
    cuda_tables.store(&table, std::memory_order_release);
  }
  ~CudaTableEntry() {
    std::atomic<const CudaTable*>* link = &cuda_tables;
    while (link->load() != nullptr && link->load() != &table_) {
      link = &link->load()->next;
    }
    if (link->load() == &table_) link->store(table_.next.load());
  }
  CudaTableEntry(const CudaTableEntry&) = delete;
  CudaTableEntry& operator=(const CudaTableEntry&) = delete;

 private:
  CudaTable& table_;
};

}  // namespace alkn::detail
