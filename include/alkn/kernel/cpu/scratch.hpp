// Memory that a running body of a parallel loop needs: as many pieces as bodies run at once, none
// of which belongs to a thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <alkn/kernel/passes.hpp>
#include <alkn/kernel/select/radix.hpp>
#include <alkn/kernel/select/sample.hpp>
#include <alkn/kernel/select/select.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

struct Scratch {
  alignas(64) std::array<double, 3 * tuning::kSumLanes> lanes;
  alignas(64) std::array<float, tuning::kBlock> grad;
  alignas(64) std::array<float, tuning::kBlock> retain;
  alignas(64) std::array<std::uint16_t, tuning::kBlock> narrow;
  static constexpr std::int64_t kSample =
      std::max(tuning::kChunk / tuning::kSampleShare, tuning::kSampleMin);
  std::array<std::uint32_t, kSample> sample;
  std::array<std::uint32_t, num_spare_keys(kSample)> spare;
  PairSelect select;
  RadixSelect radix;
  std::vector<float> values;  // candidates of a tensor of one chunk
  std::vector<std::uint16_t> indices;

  void reserve_candidates(std::int64_t count) {
    if (count > 0) select.reserve(1), radix.reserve(1);
    const auto size = static_cast<std::size_t>(count + kCandidateSlack);
    // each by its own size: an earlier call may have found memory for the first alone
    if (values.size() < size) values.resize(size);
    if (indices.size() < size) indices.resize(size);
  }
};

/// A body takes a Scratch for the time it runs. Allocates only where more bodies run at once than
/// were announced.
class ScratchPool {
 public:
  class Lease {
   public:
    Lease(ScratchPool& pool) : pool_(pool), scratch_(pool.take()) {}
    ~Lease() { pool_.give(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  /// Makes room for `num_bodies` at once, each with `num_candidates` of a chunk of its own.
  void reserve(std::int64_t num_bodies, std::int64_t num_candidates) {
    num_candidates_ = std::max(num_candidates_, num_candidates);
    while (num_scratches_ < num_bodies) {
      free_.reserve(static_cast<std::size_t>(num_scratches_ + 1));
      free_.push_back(std::make_unique<Scratch>());
      ++num_scratches_;
    }
    for (const auto& scratch : free_) scratch->reserve_candidates(num_candidates_);
  }

 private:
  std::unique_ptr<Scratch> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      auto scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
    auto scratch = std::make_unique<Scratch>();
    scratch->reserve_candidates(num_candidates_);
    free_.reserve(static_cast<std::size_t>(num_scratches_ + 1));
    ++num_scratches_;
    return scratch;
  }
  void give(std::unique_ptr<Scratch> scratch) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));  // reserved
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
  std::int64_t num_scratches_ = 0;
  std::int64_t num_candidates_ = 0;
};

}  // namespace alkn::kernel
