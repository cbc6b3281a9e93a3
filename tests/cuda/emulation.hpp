// Blocks of threads on the CPU: the same kernel bodies as on the GPU, by fibers or by threads.
//
// Fibers are fast and run in any order that a test asks for; a thread of the block that leaves
// while others wait is an error. Threads meet at a barrier, so that a thread sanitizer names a
// missing one. Both check the alignment of every access and count the bytes.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include <alkn/kernel/cuda/block.hpp>

namespace alkn_test {

/// Bytes of global memory that kernels load and store.
struct Traffic {
  std::int64_t loaded = 0, stored = 0;
};

/// What all emulated blocks share: everything but the meeting of their threads.
template <class Derived>
class EmulatedBlock {
 public:
  struct Shared {
    std::int64_t index = 0, num_blocks = 1;
    int num_threads = 32;
    std::vector<std::uint32_t> nibbles;  ///< what threads of a warp exchange
    Traffic* traffic = nullptr;
  };
  EmulatedBlock(Shared& shared, int thread) : shared_(&shared), thread_(thread) {}

  int thread() const { return thread_; }
  int num_threads() const { return shared_->num_threads; }
  std::int64_t index() const { return shared_->index; }
  std::int64_t num_blocks() const { return shared_->num_blocks; }
  void fence() const { std::atomic_thread_fence(std::memory_order_seq_cst); }

  template <class T>
  T load(const T* p) const {
    check(p, sizeof(T));
    count(&Traffic::loaded, sizeof(T));
    T x;
    std::memcpy(&x, p, sizeof(T));
    return x;
  }
  template <class T>
  void store(T* p, T x) const {
    check(p, sizeof(T));
    count(&Traffic::stored, sizeof(T));
    std::memcpy(p, &x, sizeof(T));
  }
  std::uint32_t load_common(const std::uint32_t* p) const {
    check(p, sizeof(*p));
    if (thread_ % 8 == 0) count(&Traffic::loaded, sizeof(*p));
    return *p;
  }
  template <class T>
  T load_fresh(const T* p) const {
    return load(p);
  }
  std::uint64_t fetch_add(std::uint64_t* p, std::uint64_t x) const {
    return __atomic_fetch_add(p, x, __ATOMIC_ACQ_REL);
  }
  std::uint32_t fetch_add_shared(std::uint32_t* p, std::uint32_t x) const {
    return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
  }
  void sum_shared(std::uint32_t* p, std::uint32_t x) const { fetch_add_shared(p, x); }
  std::uint32_t gather_nibbles(std::uint32_t x) const {
    shared_->nibbles[static_cast<std::size_t>(thread_)] = x;
    static_cast<const Derived*>(this)->sync();
    std::uint32_t word = 0;
    for (int k = 0; k < 8; ++k) {
      word |= shared_->nibbles[static_cast<std::size_t>(thread_ / 8 * 8 + k)] << (4 * k);
    }
    static_cast<const Derived*>(this)->sync();
    return word;
  }
  std::uint32_t largest_of_warp(std::uint32_t x) const {
    shared_->nibbles[static_cast<std::size_t>(thread_)] = x;
    static_cast<const Derived*>(this)->sync();
    std::uint32_t largest = 0;
    for (int k = 0; k < 32; ++k) {
      largest =
          std::max(largest, shared_->nibbles[static_cast<std::size_t>(thread_ / 32 * 32 + k)]);
    }
    static_cast<const Derived*>(this)->sync();
    return largest;
  }

 protected:
  static void check(const void* p, std::size_t bytes) {
    if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) std::abort();  // a GPU would fault
  }
  void count(std::int64_t Traffic::*which, std::size_t bytes) const {
    if (shared_->traffic == nullptr) return;
    __atomic_fetch_add(&(shared_->traffic->*which), static_cast<std::int64_t>(bytes),
                       __ATOMIC_RELAXED);
  }

  Shared* shared_;
  int thread_;
};

/// The order in which fibers take their turns between two barriers.
enum class Order { forward, backward, mixed };

class FiberBlock : public EmulatedBlock<FiberBlock> {
 public:
  struct State : Shared {
    ucontext_t scheduler{};
    std::vector<ucontext_t> fibers;
  };
  FiberBlock(State& state, int thread) : EmulatedBlock(state, thread), state_(&state) {}
  void sync() const {
    swapcontext(&state_->fibers[static_cast<std::size_t>(thread_)], &state_->scheduler);
  }

 private:
  State* state_;
};

/// Runs kernels by fibers.
class Fibers {
 public:
  explicit Fibers(Order order = Order::forward, Traffic* traffic = nullptr)
      : order_(order), traffic_(traffic) {}

  /// body(block, shared) for every thread of every block, blocks one after another in the chosen
  /// order.
  template <class Memory, class Body>
  void run(std::int64_t num_blocks, int num_threads, Body body) {
    const auto memory = std::make_unique<Memory>();
    FiberBlock::State state;
    state.num_blocks = num_blocks;
    state.num_threads = num_threads;
    state.nibbles.resize(static_cast<std::size_t>(num_threads));
    state.traffic = traffic_;
    for (std::int64_t k = 0; k < num_blocks; ++k) {
      state.index = order_ == Order::forward ? k : num_blocks - 1 - k;
      std::memset(static_cast<void*>(memory.get()), 0xA5,
                  sizeof(Memory));  // nobody may count on zeros
      run_block(state, num_threads, [&](int thread) {
        const FiberBlock block(state, thread);
        body(block, *memory);
      });
    }
  }

 private:
  static constexpr std::size_t kStack = 64 << 10;
  struct Start {
    std::function<void(int)> body;
    std::vector<char> done;
  };
  static void enter(unsigned high, unsigned low, int thread) {
    auto* start = reinterpret_cast<Start*>((static_cast<std::uintptr_t>(high) << 32U) | low);
    start->body(thread);
    start->done[static_cast<std::size_t>(thread)] = 1;
  }

  /// Apart, because getcontext may return twice as far as the compiler knows.
  [[gnu::noinline]] static void prepare(ucontext_t& fiber, char* stack, ucontext_t* next,
                                        Start* start, int thread) {
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = stack;
    fiber.uc_stack.ss_size = kStack;
    fiber.uc_link = next;
    makecontext(&fiber, reinterpret_cast<void (*)()>(enter), 3,
                static_cast<unsigned>(address >> 32U), static_cast<unsigned>(address), thread);
  }

  void run_block(FiberBlock::State& state, int num_threads, std::function<void(int)> body) {
    const auto count = static_cast<std::size_t>(num_threads);
    Start start{std::move(body), std::vector<char>(count, 0)};
    stacks_.resize(count * kStack);
    state.fibers.assign(count, ucontext_t{});
    for (std::size_t t = 0; t < count; ++t) {
      prepare(state.fibers[t], stacks_.data() + t * kStack, &state.scheduler, &start,
              static_cast<int>(t));
    }
    for (std::size_t round = 0;; ++round) {
      for (std::size_t k = 0; k < count; ++k)
        swapcontext(&state.scheduler, &state.fibers[turn(k, count, round)]);
      std::size_t num_done = 0;
      for (const char done : start.done) num_done += static_cast<std::size_t>(done);
      if (num_done == count) return;
      if (num_done != 0) throw std::runtime_error("a thread left the block while others wait");
    }
  }
  std::size_t turn(std::size_t k, std::size_t count, std::size_t round) const {
    if (order_ == Order::forward) return k;
    if (order_ == Order::backward) return count - 1 - k;
    return (k * 5 + round * 7) % count;  // count is a power of two
  }

  Order order_;
  Traffic* traffic_;
  std::vector<char> stacks_;
};

class ThreadBlock : public EmulatedBlock<ThreadBlock> {
 public:
  ThreadBlock(Shared& shared, std::barrier<>& barrier, int thread)
      : EmulatedBlock(shared, thread), barrier_(&barrier) {}
  void sync() const { barrier_->arrive_and_wait(); }

 private:
  std::barrier<>* barrier_;
};

/// Runs kernels by threads: slow, and what a thread sanitizer can see.
class RealThreads {
 public:
  template <class Memory, class Body>
  void run(std::int64_t num_blocks, int num_threads, Body body) {
    const auto memory = std::make_unique<Memory>();
    for (std::int64_t k = 0; k < num_blocks; ++k) {
      ThreadBlock::Shared shared;
      shared.index = k, shared.num_blocks = num_blocks, shared.num_threads = num_threads;
      shared.nibbles.resize(static_cast<std::size_t>(num_threads));
      std::barrier<> barrier(num_threads);
      std::vector<std::thread> threads;
      for (int t = 0; t < num_threads; ++t) {
        threads.emplace_back([&, t] {
          const ThreadBlock block(shared, barrier, t);
          body(block, *memory);
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
  }
};

}  // namespace alkn_test
