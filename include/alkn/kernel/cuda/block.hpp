// The thin interface between a kernel's body and what runs it: plain per-thread code in, a block of
// threads underneath.
//
// A body is a template over Block. On the GPU a Block is the class below; tests run the same bodies
// on the CPU, by fibers or by threads, and count the bytes that they load and store. What a Block
// offers:
//
//     thread(), num_threads()    this thread in its block; a multiple of 32
//     index(), num_blocks()      this block in its grid
//     sync()                     a barrier of the block's threads, also for what they wrote
//     load(p), store(p, x)       global memory; 16, 8, 4 or 2 bytes, aligned to their size
//     load_fresh(p)              the same for what other blocks of this launch have written
//     fence()                    other blocks see what this thread wrote before what it writes next
//     fetch_add(p, x)            atomically, global memory, 64 bits
//     fetch_add_shared(p, x)     atomically, shared memory, 32 bits
//     sum_shared(p, x)           adds x of every thread to *p; all threads take part; needs sync()
//                                to be read
//     gather_nibbles(x)          4 bits of each of 8 neighbouring threads, as one word; all threads
//                                take part
//     largest_of_warp(x)         the largest x of 32 neighbouring threads; all threads take part
#pragma once

#include <cstdint>

#include <alkn/kernel/math.hpp>

#if defined(__CUDACC__)
#define ALKN_DEVICE __device__
#define ALKN_CUDA_UNROLL _Pragma("unroll")  // arrays that it indexes stay in registers
#else
#define ALKN_DEVICE
#define ALKN_CUDA_UNROLL
#endif

namespace alkn::kernel::cuda {

/// 16 and 8 bytes that are loaded and stored at once.
struct alignas(16) Bytes16 {
  std::uint32_t words[4];
};
struct alignas(8) Bytes8 {
  std::uint32_t words[2];
};

#if defined(__CUDACC__)

class Block {
 public:
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int num_threads() const { return static_cast<int>(blockDim.x); }
  __device__ std::int64_t index() const { return blockIdx.x; }
  __device__ std::int64_t num_blocks() const { return gridDim.x; }
  __device__ void sync() const { __syncthreads(); }
  __device__ void fence() const { __threadfence(); }

  template <class T>
  __device__ T load(const T* p) const {
    return *p;
  }
  __device__ Bytes16 load(const Bytes16* p) const {
    const uint4 x = *reinterpret_cast<const uint4*>(p);
    return {{x.x, x.y, x.z, x.w}};
  }
  __device__ Bytes8 load(const Bytes8* p) const {
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    return {{x.x, x.y}};
  }
  template <class T>
  __device__ void store(T* p, T x) const {
    *p = x;
  }
  __device__ void store(Bytes16* p, Bytes16 x) const {
    *reinterpret_cast<uint4*>(p) = make_uint4(x.words[0], x.words[1], x.words[2], x.words[3]);
  }
  __device__ void store(Bytes8* p, Bytes8 x) const {
    *reinterpret_cast<uint2*>(p) = make_uint2(x.words[0], x.words[1]);
  }
  /// The same word for 8 neighbouring threads.
  __device__ std::uint32_t load_common(const std::uint32_t* p) const { return *p; }
  template <class T>
  __device__ T load_fresh(const T* p) const {
    return *const_cast<const volatile T*>(p);
  }

  __device__ std::uint64_t fetch_add(std::uint64_t* p, std::uint64_t x) const {
    static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t), "64 bits");
    return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x));
  }
  __device__ std::uint32_t fetch_add_shared(std::uint32_t* p, std::uint32_t x) const {
    return atomicAdd(p, x);
  }
  __device__ void sum_shared(std::uint32_t* p, std::uint32_t x) const {
    const std::uint32_t sum = __reduce_add_sync(0xFFFFFFFFU, x);
    if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(p, sum);
  }
  __device__ std::uint32_t gather_nibbles(std::uint32_t x) const {
    std::uint32_t word = x << (4 * (threadIdx.x % 8));
    for (int distance = 1; distance < 8; distance *= 2) {
      word |= __shfl_xor_sync(0xFFFFFFFFU, word, distance);
    }
    return word;
  }
  __device__ std::uint32_t largest_of_warp(std::uint32_t x) const {
    return __reduce_max_sync(0xFFFFFFFFU, x);
  }
};

#endif  // __CUDACC__

}  // namespace alkn::kernel::cuda
