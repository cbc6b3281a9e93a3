// Memory for the arrays that the library owns: aligned to cache lines, staggered, on huge pages
// where there are any.
//
// A step reads and writes up to seven arrays at the same index. Were they all aligned to pages,
// they would cross page boundaries together and their cache lines would compete for the same sets;
// here each starts at another offset.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace alkn::kernel {

/// Hands out zeroed blocks that live as long as the arena. Not thread-safe, does not move.
class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  /// A block of zeros, aligned to 64 bytes; each large block starts at another offset of a page.
  /// @throws std::bad_alloc
  void* allocate(std::size_t bytes) {
    std::size_t begin = round_up(used_, kAlignment);
    if (bytes >= kLarge) {
      begin = round_up(begin, kPage) + kStagger * (num_staggered_ % (kPage / kStagger));
    }
    if (slabs_.empty() || begin + bytes > slabs_.back().bytes) {
      grow(bytes + 2 * kPage);
      begin = bytes >= kLarge ? kStagger * (num_staggered_ % (kPage / kStagger)) : 0;
    }
    if (bytes >= kLarge) ++num_staggered_;
    used_ = begin + bytes;
    total_ += bytes;
    return static_cast<char*>(slabs_.back().data) + begin;
  }

  /// `count` zeros of a trivial type.
  template <class T>
  T* allocate_array(std::int64_t count) {
    static_assert(alignof(T) <= kAlignment, "cache lines at most");
    return static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }

  /// Makes room for `bytes` in one piece, so that the next blocks lie together.
  void reserve(std::size_t bytes) {
    if (slabs_.empty() || used_ + bytes > slabs_.back().bytes) grow(bytes + bytes / 32 + 2 * kPage);
  }

  /// Frees everything; what was handed out is gone.
  void release() noexcept {
    for (const Slab& slab : slabs_) unmap(slab);
    slabs_.clear();
    used_ = total_ = num_staggered_ = 0;
  }

  /// Bytes handed out.
  [[nodiscard]] std::size_t size_bytes() const noexcept { return total_; }

 private:
  static constexpr std::size_t kPage = 4096;
  /// From here on blocks are staggered, which costs up to two pages each.
  static constexpr std::size_t kLarge = std::size_t{256} << 10U;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20U;
  static constexpr std::size_t kStagger =
      576;  // nine cache lines: blocks differ in their sets of the first-level cache, too

  struct Slab {
    void* data = nullptr;
    std::size_t bytes = 0;
  };

  static std::size_t round_up(std::size_t x, std::size_t to) { return (x + to - 1) / to * to; }

  void grow(std::size_t at_least) {
    slabs_.reserve(slabs_.size() + 1);
    Slab slab;
    slab.bytes = round_up(at_least, at_least < kHugePage ? kPage : kHugePage);
#if defined(__linux__)
    slab.data = map_aligned(slab.bytes);
#else
    slab.data = std::aligned_alloc(kPage, slab.bytes);
    if (slab.data == nullptr) throw std::bad_alloc();
    std::memset(slab.data, 0, slab.bytes);
#endif
    slabs_.push_back(slab);
    used_ = 0;
  }

#if defined(__linux__)
  /// Anonymous pages, from a huge page's boundary on where they fill one.
  static void* map_aligned(std::size_t bytes) {
    const std::size_t extra = bytes >= kHugePage ? kHugePage : 0;
    void* raw =
        ::mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) throw std::bad_alloc();
    if (extra == 0) return raw;
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    const std::size_t before = round_up(address, kHugePage) - address;
    char* data = static_cast<char*>(raw) + before;
    if (before > 0) ::munmap(raw, before);
    if (extra > before) ::munmap(data + bytes, extra - before);
    ::madvise(data, bytes, MADV_HUGEPAGE);  // a hint: without huge pages all works as well
    return data;
  }
  static void unmap(const Slab& slab) noexcept { ::munmap(slab.data, slab.bytes); }
#else
  static void unmap(const Slab& slab) noexcept { std::free(slab.data); }
#endif

  std::vector<Slab> slabs_;
  std::size_t used_ = 0;  // of the last slab
  std::size_t total_ = 0;
  std::size_t num_staggered_ = 0;
};

}  // namespace alkn::kernel
