// The definitions of shards.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <alkn/kernel/tuning.hpp>
#include <alkn/task/shards.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <vector>

namespace alkn::detail {

/// Elements of a bucket of gradients: 25 MB of fp32, as LibTorch's own data-parallel engine has it.
inline constexpr std::int64_t kBucket = 25 * (1 << 20) / 4;
/// Bytes from which weights are sent by themselves; smaller ones travel together.
inline constexpr std::size_t kLarge = 1 << 20;

ALKN_COMPILED_INLINE std::vector<int> deal(const std::vector<std::int64_t>& sizes,
                                           std::vector<std::int64_t>& loads) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater{}, [&](std::size_t i) { return sizes[i]; });
  std::vector<int> owners(sizes.size());
  for (const std::size_t i : order) {
    const auto least = std::ranges::min_element(loads);
    owners[i] = static_cast<int>(least - loads.begin());
    *least += sizes[i];
  }
  return owners;
}

ALKN_COMPILED_INLINE void Shards::add(const std::vector<Tensor>& params) {
  if (!active()) return;
  if (!params.empty()) device_ = params[0].device();
  loads_.resize(static_cast<std::size_t>(size()));
  std::vector<std::int64_t> sizes;
  sizes.reserve(params.size());
  for (const Tensor& param : params) sizes.push_back(param.numel());
  const std::size_t first = owners_.size();
  const std::vector<int> owners = deal(sizes, loads_);
  owners_.insert(owners_.end(), owners.begin(), owners.end());
  for (int owner = 0; owner < (sharded() ? size() : 1); ++owner) {
    std::int64_t room = 0;
    for (std::size_t i = 0; i < params.size(); ++i) {
      if (sharded() && owners[i] != owner) continue;
      for (std::int64_t begin = 0; begin < sizes[i];) {
        if (room == 0) {
          buckets_.push_back({owner, {}});
          room = kBucket;
        }
        const std::int64_t count = std::min(room, sizes[i] - begin);
        buckets_.back().pieces.push_back({first + i, begin, count});
        begin += count;
        room -= count;
      }
    }
  }
}

ALKN_COMPILED_INLINE std::vector<char> Shards::any(std::vector<char> flags) const {
  if (!active()) return flags;
  std::vector<double> counts(flags.begin(), flags.end());
  sum(counts);
  std::ranges::transform(counts, flags.begin(), [](double count) { return count > 0 ? 1 : 0; });
  return flags;
}

ALKN_COMPILED_INLINE void Shards::sum(std::vector<double>& values) const {
  if (!active() || values.empty()) return;
  const Tensor all = at::tensor(values);
  processes_.group->all_reduce(all);
  const double* sums = all.const_data_ptr<double>();
  std::copy(sums, sums + values.size(), values.begin());
}

ALKN_COMPILED_INLINE void Shards::average(
    const std::vector<Tensor>& values, const std::vector<char>& present,
    const std::function<void(std::size_t, std::int64_t, const Tensor&)>& take) const {
  Tensor buffer, flat;  // of the parameter numbered `flat_of`, which may go on in the next bucket
  std::size_t flat_of = values.size();
  for (const Bucket& bucket : buckets_) {
    std::int64_t total = 0;
    for (const Piece& piece : bucket.pieces) total += present[piece.param] != 0 ? piece.count : 0;
    if (total == 0) continue;
    if (!buffer.defined()) buffer = at::empty({kBucket}, at::device(device_).dtype(at::kFloat));
    const Tensor all = buffer.narrow(0, 0, total);
    std::int64_t at = 0;
    for (const Piece& piece : bucket.pieces) {
      if (present[piece.param] == 0) continue;
      const Tensor part = all.narrow(0, at, piece.count);
      at += piece.count;
      const Tensor& value = values[piece.param];
      if (!value.defined()) {
        part.zero_();
        continue;
      }
      if (flat_of != piece.param) flat = value.reshape({-1});
      flat_of = piece.param;
      part.copy_(flat.narrow(0, piece.begin, piece.count));
    }
    if (sharded())
      processes_.group->reduce(all, bucket.owner);
    else
      processes_.group->all_reduce(all);
    if (sharded() && bucket.owner != rank()) continue;
    // not by a factor, 1/3 is no float: CUDA would take one of a number of the host's
    all.div_(at::full({}, size(), all.options()));
    at = 0;
    for (const Piece& piece : bucket.pieces) {
      if (present[piece.param] == 0) continue;
      take(piece.param, piece.begin, all.narrow(0, at, piece.count));
      at += piece.count;
    }
  }
}

ALKN_COMPILED_INLINE void Shards::send(const std::vector<Tensor>& params,
                                       const std::vector<char>& which,
                                       const std::vector<int>& roots) const {
  const auto together = [&](const std::vector<Tensor>& some, int root) {
    const bool mine = root == rank();
    std::int64_t total = 0;
    std::vector<Tensor> flat;
    for (const Tensor& param : some) {
      total += param.numel();
      if (mine) flat.push_back(param.reshape({-1}));
    }
    if (total == 0) return;
    const bool plain = some.size() == 1 && some[0].is_contiguous() && !some[0].is_neg();
    const Tensor all = plain  ? some[0].detach()
                       : mine ? at::cat(flat)
                              : at::empty({total}, some[0].options().requires_grad(false));
    processes_.group->broadcast(all, root);
    if (mine) return;
    if (plain) {
      some[0].unsafeGetTensorImpl()->bump_version();
      return;
    }
    std::int64_t at = 0;
    for (const Tensor& param : some) {
      param.copy_(all.narrow(0, at, param.numel()).view(param.sizes()));
      at += param.numel();
    }
  };
  for (int root = 0; root < size(); ++root) {
    std::map<at::ScalarType, std::vector<Tensor>> small;
    for (std::size_t i = 0; i < params.size(); ++i) {
      if (which[i] == 0 || roots[i] != root) continue;
      if (params[i].nbytes() < kLarge)
        small[params[i].scalar_type()].push_back(params[i]);
      else
        together({params[i]}, root);
    }
    for (const auto& [type, some] : small) together(some, root);
  }
}

ALKN_COMPILED_INLINE ShardedSquares::ShardedSquares(const Shards& shards,
                                                    const std::vector<std::int64_t>& sizes,
                                                    const std::vector<char>& present)
    : shards_(shards) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::int64_t chunks = (sizes[i] + kernel::tuning::kChunk - 1) / kernel::tuning::kChunk;
    counts_.push_back(present[i] != 0 ? chunks : 0);
  }
}

ALKN_COMPILED_INLINE double ShardedSquares::of_all(const double* chunks, std::int64_t count) {
  std::vector<double> all(
      static_cast<std::size_t>(std::accumulate(counts_.begin(), counts_.end(), std::int64_t{0})));
  const double* own = chunks;
  auto to = all.begin();
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    if (shards_.owns(i)) {
      std::copy(own, own + counts_[i], to);
      own += counts_[i];
    }
    to += counts_[i];
  }
  TORCH_CHECK(own == chunks + count, "alkn: expected the chunks of this process's parameters, got ",
              count);
  shards_.sum(all);
  double squares = 0;
  for (const double chunk : all) squares += chunk;
  return squares;
}

}  // namespace alkn::detail
