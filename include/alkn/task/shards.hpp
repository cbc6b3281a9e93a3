// The parameters of a model among the processes of a group: which one holds the state of which, how
// gradients become averages there, and how its weights get to the others.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/compiled.hpp>
#include <alkn/group.hpp>
#include <alkn/kernel/step.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace alkn::detail {

using at::Tensor;

/// Deals whole parameters to processes: the largest first, each to the process with the least so
/// far, ties to the lowest rank.
/// @param loads elements that each process has already; grows
/// @returns the owner of each
std::vector<int> deal(const std::vector<std::int64_t>& sizes, std::vector<std::int64_t>& loads);

/// A list of parameters, in the same order on all processes. Without a group every method says that
/// this process has everything, and moves nothing.
class Shards {
 public:
  explicit Shards(const Processes& processes) : processes_(processes) {}

  [[nodiscard]] bool active() const noexcept { return processes_.group != nullptr; }
  [[nodiscard]] int rank() const noexcept { return active() ? processes_.group->rank() : 0; }
  [[nodiscard]] int size() const noexcept { return active() ? processes_.group->size() : 1; }
  [[nodiscard]] bool moves(c10::DeviceType type) const noexcept {
    return processes_.group->moves(type);
  }
  /// Whether each process holds the state of its own parameters alone.
  [[nodiscard]] bool sharded() const noexcept {
    return active() && processes_.sharding == Sharding::state;
  }
  /// Whether this process holds the state of parameter i; until it is dealt, all do.
  [[nodiscard]] bool owns(std::size_t i) const noexcept {
    return !sharded() || i >= owners_.size() || owners_[i] == processes_.group->rank();
  }

  /// Appends parameters. What is dealt already stays where it is.
  void add(const std::vector<Tensor>& params);

  /// Element by element: whether any process has a true flag.
  [[nodiscard]] std::vector<char> any(std::vector<char> flags) const;

  /// Element by element: the sum over the processes, exact where all but one have 0.
  void sum(std::vector<double>& values) const;

  /// The mean over the processes, at most 25 MB at a time, summed in fp32; where a process has none
  /// it counts as 0.
  /// @param values [shape] a parameter; undefined: none
  /// @param present the parameters of which any process has one; the others have no mean
  /// @param take (i, begin, mean [count] fp32, on the parameters' device): of parameter i from
  /// element `begin` on, on those who hold its state
  void average(
      const std::vector<Tensor>& values, const std::vector<char>& present,
      const std::function<void(std::size_t i, std::int64_t begin, const Tensor& mean)>& take) const;

  /// Sends weights from the holders of their state to all. @param which these alone
  void publish(const std::vector<Tensor>& params, const std::vector<char>& which) const {
    if (sharded()) send(params, which, owners_);
  }
  /// Sends parameters from process 0 to all.
  void publish_from_first(const std::vector<Tensor>& params) const {
    send(params, std::vector<char>(params.size(), 1), std::vector<int>(params.size(), 0));
  }

 private:
  struct Piece {
    std::size_t param;
    std::int64_t begin, count;
  };
  /// What goes over the wire at once, to one owner.
  struct Bucket {
    int owner;
    std::vector<Piece> pieces;
  };

  void send(const std::vector<Tensor>& params, const std::vector<char>& which,
            const std::vector<int>& roots) const;

  Processes processes_;
  std::vector<int> owners_;
  std::vector<std::int64_t> loads_;
  std::vector<Bucket> buckets_;
  at::Device device_ = at::kCPU;  ///< of the parameters
};

/// The norm of a sharded step: the sums of all chunks, added as one process would.
class ShardedSquares final : public kernel::SquareSum {
 public:
  /// @param sizes of the parameters @param present those with a gradient anywhere
  ShardedSquares(const Shards& shards, const std::vector<std::int64_t>& sizes,
                 const std::vector<char>& present);
  ALKN_COMPILED_INLINE double of_all(const double* chunks, std::int64_t count) override;

 private:
  const Shards& shards_;
  std::vector<std::int64_t> counts_;  ///< chunks of each parameter
};

}  // namespace alkn::detail

#if ALKN_DEFINITIONS
#include <alkn/task/shards_definitions.hpp>
#endif
