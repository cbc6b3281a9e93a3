// A parallel loop as the kernels see it: a non-owning reference to somebody else's thread pool.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace alkn::kernel {

namespace detail {

template <class Signature>
class FunctionRef;

/// A non-owning reference to a callable; valid as long as the callable lives.
template <class... Args>
class FunctionRef<void(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  FunctionRef(F&& f) noexcept  // NOLINT(google-explicit-constructor): as std::function_ref
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, Args... args) {
          (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}
  void operator()(Args... args) const { call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  void (*call_)(void*, Args...);
};

}  // namespace detail

/// What runs in parallel: the items begin <= i < end. It does not throw.
using RangeBody = detail::FunctionRef<void(std::int64_t begin, std::int64_t end)>;

/// Calls `body` on ranges that together cover 0 <= i < num_items, each item once, on any threads,
/// and returns when all are done. Results of the kernels do not depend on how the items are split.
///
/// The referred callable takes (int64 num_items, RangeBody body) and must outlive this object. With
/// LibTorch:
///
///     auto pool = [](std::int64_t n, alkn::kernel::RangeBody body) {
///       at::parallel_for(0, n, 1, body);
///     };
///     alkn::kernel::ParallelFor parallel(pool, at::get_num_threads());
class ParallelFor {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, ParallelFor>>>
  ParallelFor(F& run, std::int64_t num_threads) noexcept
      : run_(run), num_threads_(num_threads < 1 ? 1 : num_threads) {}

  /// All items on the calling thread.
  static ParallelFor serial() noexcept {
    static constexpr auto kRun = [](std::int64_t num_items, RangeBody body) {
      if (num_items > 0) body(0, num_items);
    };
    return ParallelFor(kRun, 1);
  }

  void operator()(std::int64_t num_items, RangeBody body) const {
    if (num_items > 0) run_(num_items, body);
  }
  /// How many threads may run bodies at the same time; sizes the scratch, nothing else.
  [[nodiscard]] std::int64_t num_threads() const noexcept { return num_threads_; }

 private:
  detail::FunctionRef<void(std::int64_t, RangeBody)> run_;
  std::int64_t num_threads_;
};

}  // namespace alkn::kernel
