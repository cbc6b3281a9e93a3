// The second kernel of a step in which thresholds are due: it predicts the brackets of large
// tensors from a sample of the scores to come, and finds the thresholds of small ones.
#pragma once

#include <cmath>
#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/digits.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

struct SampleShared {
  std::uint32_t keys[tuning::kSample];
  DigitShared digits;
};

/// The key of the score that element i is going to have.
template <class Block>
ALKN_DEVICE inline std::uint32_t key_to_come(const Block& block, const Tensor& tensor,
                                             const ScoreLanes& c, std::int64_t i) {
  const StepTensor& t = tensor.t;
  const Span one{i, 1};
  const F grad = clipped(c, element(load_raw(block, t.grad, t.type, one), t.type, 0));
  const F retain = element(load_raw(block, t.retain, t.retain_type, one), t.retain_type, 0);
  const bool used = t.used != nullptr && ((block.load(t.used + (i >> 6U)) >> (i & 63U)) & 1U) != 0;
  const F score = element(load_raw(block, t.score, t.state_type, one), t.state_type, 0);
  F grown = grown_score(c, grad, retain, score, used);
  if (t.state_type != DType::float32) {
    const RoundingLanes rounding = rounding_of(tensor, i);
    grown = rounded_score(grown, random_bits(rounding, number_of(i)));
  }
  return order_key(grown);
}

/// Where the i-th element of a sample lies: whole cache lines, each at a varying place of its own
/// stretch.
ALKN_HOST_DEVICE inline std::int64_t sample_place(std::int64_t i, std::int64_t size,
                                                  std::uint64_t seed) {
  constexpr std::int64_t kLines = tuning::kSample / tuning::kSampleLine;
  const std::int64_t places = size / tuning::kSampleLine;
  const std::int64_t line = i / tuning::kSampleLine;
  const std::int64_t from = line * places / kLines, to = (line + 1) * places / kLines;
  const std::uint64_t jitter =
      mixed(seed + static_cast<std::uint64_t>(line)) % static_cast<std::uint64_t>(to - from);
  return (from + static_cast<std::int64_t>(jitter)) * tuning::kSampleLine + i % tuning::kSampleLine;
}

/// The bracket of one order statistic by the sample in shared.keys.
template <class Block>
ALKN_DEVICE inline Target predict(const Block& block, SampleShared& shared, std::int64_t size,
                                  std::int64_t rank) {
  constexpr auto kCount = static_cast<double>(tuning::kSample);
  const double share = (static_cast<double>(rank) - 0.5) / static_cast<double>(size);
  const double half = tuning::kSampleSigmas * ::sqrt(kCount * share * (1 - share)) + 1;
  const double upper = ::floor(share * kCount - half), lower = ::ceil(share * kCount + half);
  const auto keys = [&](std::int64_t i) { return shared.keys[i]; };
  Target target;
  target.rank = static_cast<std::uint64_t>(rank);
  target.a = 0, target.b = 0xFFFFFFFFU;  // no score has the key 0, only NaN has the last
  if (upper >= 0) {
    target.b = select_key(block, shared.digits, keys, tuning::kSample,
                          static_cast<std::int64_t>(upper) + 1);
  }
  if (lower < kCount) {
    target.a = select_key(block, shared.digits, keys, tuning::kSample,
                          static_cast<std::int64_t>(lower) + 1);
  }
  return target;
}

/// The second kernel of a step in which thresholds are due: brackets of large tensors, thresholds
/// of small ones.
template <class Block>
ALKN_DEVICE inline void sample_kernel(const Block& block, SampleShared& shared,
                                      const Table& table) {
  const Header& header = *table.header;
  const Control& control = *table.control;
  if (control.skip != 0) return;
  for (std::int64_t k = block.index(); k < header.num_tensors; k += block.num_blocks()) {
    const Tensor& tensor = table.tensors[k];
    if (tensor.way == Way::given) continue;
    TensorState& state = table.states[k];
    const StepTensor& t = tensor.t;
    const ScoreLanes c = score_lanes_of(header, control.scale, t, state.deviation);
    const bool direct = tensor.way == Way::direct;
    const std::int64_t count = direct ? t.size : tuning::kSample;
    const std::uint64_t seed = mixed(control.step * 0x10001U + static_cast<std::uint64_t>(k));
    for (std::int64_t i = block.thread(); i < count; i += block.num_threads()) {
      shared.keys[i] = key_to_come(block, tensor, c, direct ? i : sample_place(i, t.size, seed));
    }
    block.sync();
    const Ranks ranks = threshold_ranks(t.size, header.args.unmask_ratio, header.args.trim_ratio);
    if (direct) {
      const auto keys = [&](std::int64_t i) { return shared.keys[i]; };
      const std::uint32_t low = select_key(block, shared.digits, keys, count, ranks.low);
      const std::uint32_t high = select_key(block, shared.digits, keys, count, ranks.high);
      if (block.thread() == 0) set_threshold(table, tensor, state, low, high);
    } else {
      const Target low = predict(block, shared, t.size, ranks.low);
      const Target high = predict(block, shared, t.size, ranks.high);
      if (block.thread() == 0) {
        state.targets[0] = low, state.targets[1] = high;
        state.chunks_done = 0;
      }
    }
    block.sync();
  }
}

}  // namespace alkn::kernel::cuda
