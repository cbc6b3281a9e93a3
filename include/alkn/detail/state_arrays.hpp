// Memory for what the library keeps beside the model, from step to step: moments, scores, masks.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <alkn/kernel/arena.hpp>

#include <cstddef>
#include <memory>

namespace alkn::detail {

/// Makes zeroed tensors that are needed together. On the CPU they lie in one arena, staggered and
/// on huge pages, which is freed with the last of them; on other devices they are LibTorch's own.
class StateArrays {
 public:
  /// The next arrays begin an arena with room for `bytes` in one piece.
  void renew(std::size_t bytes) {
    arena_.reset();
    bytes_ = bytes;
  }

  /// @returns zeros of `sizes`, contiguous; throws std::bad_alloc where there is no memory
  at::Tensor zeros(at::IntArrayRef sizes, const at::TensorOptions& options) {
    std::size_t bytes = options.dtype().itemsize();
    for (const std::int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    if (!options.device().is_cpu() || bytes == 0) return at::zeros(sizes, options);
    std::shared_ptr<kernel::Arena> arena = arena_.lock();
    if (!arena) {
      arena = std::make_shared<kernel::Arena>();
      arena->reserve(bytes_);
      arena_ = arena;
    }
    void* data = arena->allocate(bytes);
    return at::from_blob(
        data, sizes, [arena = std::move(arena)](void*) {}, options);
  }

 private:
  std::weak_ptr<kernel::Arena> arena_;  ///< the arrays own it
  std::size_t bytes_ = 0;
};

}  // namespace alkn::detail
