// Memory for what the library keeps beside the model, from step to step: moments, scores, masks.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <alkn/kernel/cpu/arena.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>

namespace alkn::detail {

/// Makes zeroed tensors that are needed together. On the CPU they lie in one arena, staggered and
/// on huge pages, which is freed with the last of them; on other devices they are LibTorch's own.
class StateArrays {
 public:
  /// The next arrays, of `bytes` in all, begin an arena with room for `bytes_on_cpu` in one piece.
  void renew(std::size_t bytes, std::size_t bytes_on_cpu) {
    arena_.reset();
    bytes_ = bytes;
    bytes_on_cpu_ = bytes_on_cpu;
  }

  /// @returns zeros of `sizes`, contiguous
  /// @throws c10::OutOfMemoryError that says how many bytes were needed
  at::Tensor zeros(at::IntArrayRef sizes, const at::TensorOptions& options) {
    std::size_t bytes = options.dtype().itemsize();
    for (const std::int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    try {
      return options.device().is_cpu() && bytes > 0 ? in_arena(sizes, options, bytes)
                                                    : at::zeros(sizes, options);
    } catch (const std::bad_alloc&) {
      fail(bytes, options.device());
    } catch (const c10::OutOfMemoryError&) {
      fail(bytes, options.device());
    }
  }

 private:
  at::Tensor in_arena(at::IntArrayRef sizes, const at::TensorOptions& options, std::size_t bytes) {
    std::shared_ptr<kernel::Arena> arena = arena_.lock();
    if (!arena) {
      arena = std::make_shared<kernel::Arena>();
      arena->reserve(bytes_on_cpu_);
      arena_ = arena;
    }
    void* data = arena->allocate(bytes);
    // a context, no std::function: without memory for that LibTorch ends the program
    using Owner = std::shared_ptr<kernel::Arena>;
    return at::for_blob(data, sizes)
        .context(new Owner(std::move(arena)),
                 [](void* context) { delete static_cast<Owner*>(context); })
        .options(options)
        .make_tensor();
  }

  [[noreturn]] void fail(std::size_t bytes, at::Device device) const {
    C10_THROW_ERROR(OutOfMemoryError,
                    c10::str("alkn: expected memory for ", std::max(bytes_, bytes),
                             " bytes of state, ", bytes, " of them at once, got none on ", device));
  }

  std::weak_ptr<kernel::Arena> arena_;  ///< the arrays own it
  std::size_t bytes_ = 0, bytes_on_cpu_ = 0;
};

}  // namespace alkn::detail
