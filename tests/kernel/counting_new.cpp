// operator new that counts, for the test that a step allocates nothing, and that fails where it is
// told to. Sanitizers bring an operator new of their own: under them nothing is counted or fails.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::int64_t> count{0};
std::atomic<std::int64_t> failing{0};  // the failing-th call from now on fails; below 1: none

}  // namespace

namespace alkn_test {

/// Counts an allocation towards the one that fails; whether it is that one.
bool count_allocation() { return failing.load() > 0 && failing.fetch_sub(1) == 1; }

}  // namespace alkn_test

namespace {

[[maybe_unused]] void* counted(void* memory) {
  count.fetch_add(1, std::memory_order_relaxed);
  if (alkn_test::count_allocation()) {
    std::free(memory);
    throw std::bad_alloc();
  }
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

namespace alkn_test {

std::int64_t num_allocations() { return count.load(); }
void fail_allocation(std::int64_t number) { failing.store(number); }
bool allocation_is_to_fail() { return failing.load() > 0; }

}  // namespace alkn_test

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ALKN_TEST_KEEPS_OPERATOR_NEW
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define ALKN_TEST_KEEPS_OPERATOR_NEW
#endif
#endif

#if !defined(ALKN_TEST_KEEPS_OPERATOR_NEW)
void* operator new(std::size_t size) { return counted(std::malloc(size > 0 ? size : 1)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto a = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(a, (size + a - 1) / a * a));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
#endif
