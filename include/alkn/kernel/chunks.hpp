// The flat list of (tensor, chunk) that drives every pass: thousands of small tensors cost what one
// big one costs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <alkn/kernel/step.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

/// `size` elements of a tensor, from element `begin` on.
struct Chunk {
  std::int64_t tensor = 0;
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// The chunks of a list of tensors, tensor after tensor. An empty tensor has none.
class ChunkList {
 public:
  /// Rebuilds the list if the sizes have changed; returns whether they had. After an exception (no
  /// memory) the next call rebuilds it.
  bool assign(const StepTensor* tensors, std::int64_t num_tensors) {
    if (same(tensors, num_tensors)) return false;
    clear();
    std::vector<std::int64_t> first{0};
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      const std::int64_t size = tensors[t].size;
      for (std::int64_t begin = 0; begin < size; begin += tuning::kChunk) {
        chunks_.push_back({t, begin, std::min(tuning::kChunk, size - begin)});
      }
      first.push_back(static_cast<std::int64_t>(chunks_.size()));
      sizes_.push_back(size);
    }
    first_ = std::move(first);
    return true;
  }

  /// Forgets the tensors: the next ones are new.
  void clear() noexcept {
    first_.clear();
    chunks_.clear();
    sizes_.clear();
  }

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(chunks_.size()); }
  [[nodiscard]] const Chunk& operator[](std::int64_t i) const {
    return chunks_[static_cast<std::size_t>(i)];
  }
  /// The chunks of tensor t are first(t) <= i < first(t + 1).
  [[nodiscard]] std::int64_t first(std::int64_t t) const {
    return first_[static_cast<std::size_t>(t)];
  }
  [[nodiscard]] std::int64_t count(std::int64_t t) const { return first(t + 1) - first(t); }

 private:
  [[nodiscard]] bool same(const StepTensor* tensors, std::int64_t num_tensors) const {
    if (first_.empty() || static_cast<std::int64_t>(sizes_.size()) != num_tensors) return false;
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      if (sizes_[static_cast<std::size_t>(t)] != tensors[t].size) return false;
    }
    return true;
  }

  std::vector<Chunk> chunks_;
  std::vector<std::int64_t> first_;
  std::vector<std::int64_t> sizes_;
};

}  // namespace alkn::kernel
