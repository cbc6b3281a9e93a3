// Exact order statistics of a tensor's scores, all on the device.
//
// A tensor of few elements gets its threshold from all its scores before they are written. Of a
// larger one a sample predicts two brackets; the score pass counts what lies above them and sets
// aside what lies inside; the select kernel finds the two values among that. What a bracket missed
// is found by three radix passes over all scores. A prediction decides the time and never the
// result: the counts notice a miss.
#pragma once

#include <cmath>
#include <cstdint>

#include <alkn/kernel/cuda/access.hpp>
#include <alkn/kernel/cuda/block.hpp>
#include <alkn/kernel/cuda/math.hpp>
#include <alkn/kernel/cuda/table.hpp>

namespace alkn::kernel::cuda {

/// What a block needs to find a rank by its digits.
struct DigitShared {
  std::uint32_t bins[tuning::kRadixBins];
  std::uint64_t scan[tuning::kMaxThreads];
  std::uint64_t rank;
  std::uint32_t bin;
};

/// The digits of a key from the top: 11, 11 and 10 bits.
struct Digit {
  unsigned shift, bits;
};
ALKN_HOST_DEVICE inline Digit radix_digit(int pass) {
  return pass == 0 ? Digit{21, 11} : (pass == 1 ? Digit{10, 11} : Digit{0, 10});
}
ALKN_HOST_DEVICE inline std::uint32_t digit_of(std::uint32_t key, Digit digit) {
  return (key >> digit.shift) & ((1U << digit.bits) - 1U);
}
/// Whether a key starts with the digits above this one that are known already.
ALKN_HOST_DEVICE inline bool has_prefix(std::uint32_t key, std::uint32_t prefix, Digit digit) {
  const unsigned above = digit.shift + digit.bits;  // 32 for the first digit
  return (static_cast<std::uint64_t>(key) >> above) ==
         (static_cast<std::uint64_t>(prefix) >> above);
}

/// The bin that holds the rank-th largest by the bins' counts; shared.bin, and in shared.rank the
/// rank inside it.
/// @param count callable, count of a bin
template <class Block, class Count>
ALKN_DEVICE inline void choose_bin(const Block& block, DigitShared& shared, const Count& count,
                                   int num_bins, std::uint64_t rank) {
  const int threads = block.num_threads();
  const int part = (num_bins + threads - 1) / threads;
  const int top = num_bins - 1 - part * block.thread();  // this thread's bins: top, top - 1 ..
  std::uint64_t own = 0;
  for (int k = 0; k < part; ++k) own += top - k >= 0 ? count(top - k) : 0;
  shared.scan[block.thread()] = own;
  block.sync();
  for (int distance = 1; distance < threads; distance *= 2) {
    const std::uint64_t other =
        block.thread() >= distance ? shared.scan[block.thread() - distance] : 0;
    block.sync();
    shared.scan[block.thread()] += other;
    block.sync();
  }
  const std::uint64_t through = shared.scan[block.thread()];
  if (rank <= through && rank > through - own) {
    std::uint64_t left = rank - (through - own);
    int bin = top;
    while (left > count(bin)) left -= count(bin--);
    shared.bin = static_cast<std::uint32_t>(bin);
    shared.rank = left;
  }
  block.sync();
}

/// The rank-th largest (1-based) of keys(0) .. keys(n - 1), all between base and base + range. All
/// threads take part and get it. Reads the keys once for every 11 bits of the range.
template <class Block, class Keys>
ALKN_DEVICE inline std::uint32_t select_key(const Block& block, DigitShared& shared,
                                            const Keys& keys, std::int64_t n, std::int64_t rank,
                                            std::uint32_t base = 0,
                                            std::uint32_t range = 0xFFFFFFFFU) {
  unsigned left_bits = 0;
  while (left_bits < 32 && (range >> left_bits) != 0) ++left_bits;
  std::uint32_t prefix = 0;
  auto left = static_cast<std::uint64_t>(rank);
  while (left_bits > 0) {
    const unsigned bits = left_bits < 11 ? left_bits : 11;
    left_bits -= bits;
    const Digit digit{left_bits, bits};
    for (int b = block.thread(); b < tuning::kRadixBins; b += block.num_threads()) {
      shared.bins[b] = 0;
    }
    block.sync();
    for (std::int64_t i = block.thread(); i < n; i += block.num_threads()) {
      const std::uint32_t key = keys(i) - base;
      if (has_prefix(key, prefix, digit)) {
        block.fetch_add_shared(&shared.bins[digit_of(key, digit)], 1);
      }
    }
    block.sync();
    choose_bin(
        block, shared, [&](int bin) { return shared.bins[bin]; }, 1 << digit.bits, left);
    prefix |= shared.bin << digit.shift;
    left = shared.rank;
    block.sync();
  }
  return base + prefix;
}

/// Writes the threshold that follows from both order statistics.
ALKN_DEVICE inline void set_threshold(const Table& table, const Tensor& tensor, TensorState& state,
                                      std::uint32_t low, std::uint32_t high) {
  state.threshold = threshold(key_value(low), key_value(high), tensor.t.size,
                              table.control->unmask_ratio, table.header->args.trim_ratio);
}

// --- sample and predict ----------------------------------------------------------------------

struct SampleShared {
  std::uint32_t keys[tuning::kSample];
  DigitShared digits;
};

ALKN_DEVICE inline ScoreLanes score_numbers(const Header& header, float scale, const StepTensor& t,
                                            float deviation) {
  ScoreNumbers n;
  n.scale = scale;
  n.absolute = header.args.score == ScoreKind::ratio;
  n.alignment = n.absolute ? 1.0F : header.args.alignment;
  n.penalty = t.used != nullptr ? penalty_of(deviation, header.args.penalty) : 0.0F;
  return score_lanes(n);
}

/// The random bits of the element with this number, by the lanes of number 0.
ALKN_DEVICE inline U random_bits(const RoundingLanes& zero, U number) {
  return random_bits(RoundingLanes{zero.weyl + number * kWeyl, zero.second});
}

/// What rounds the compact state of elements that share a rounding block.
ALKN_DEVICE inline RoundingLanes rounding_of(const Table& table, const Tensor& tensor,
                                             const TensorState& state, std::int64_t element) {
  static_assert(kRoundingBlock % tuning::kChunk == 0, "one key a chunk");
  return rounding_lanes(
      rounding_key(table.header->follows ? state.rounding_seed : tensor.t.rounding_seed, element),
      0U);
}
/// The number of an element in its rounding block.
ALKN_DEVICE inline U number_of(std::int64_t element) {
  return static_cast<U>(element % kRoundingBlock);
}

/// The key of the score that element i is going to have.
template <class Block>
ALKN_DEVICE inline std::uint32_t key_to_come(const Block& block, const Table& table,
                                             const Tensor& tensor, const TensorState& state,
                                             const ScoreLanes& c, std::int64_t i) {
  const StepTensor& t = tensor.t;
  const Span one{i, 1};
  const F grad = clipped(c, element(load_raw(block, t.grad, t.type, one), t.type, 0));
  const F retain = element(load_raw(block, t.retain, t.retain_type, one), t.retain_type, 0);
  const bool used = t.used != nullptr && ((block.load(t.used + (i >> 6U)) >> (i & 63U)) & 1U) != 0;
  const F score = element(load_raw(block, t.score, t.state_type, one), t.state_type, 0);
  F grown = grown_score(c, grad, retain, score, used);
  if (t.state_type != DType::float32) {
    const RoundingLanes rounding = rounding_of(table, tensor, state, i);
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
    const Way way = way_of(control, tensor);
    if (way == Way::given) continue;
    TensorState& state = table.states[k];
    const StepTensor& t = tensor.t;
    const ScoreLanes c = score_numbers(header, control.scale, t, state.deviation);
    const bool direct = way == Way::direct;
    const std::int64_t count = direct ? t.size : tuning::kSample;
    const std::uint64_t seed = mixed(control.step * 0x10001U + static_cast<std::uint64_t>(k));
    for (std::int64_t i = block.thread(); i < count; i += block.num_threads()) {
      shared.keys[i] =
          key_to_come(block, table, tensor, state, c, direct ? i : sample_place(i, t.size, seed));
    }
    block.sync();
    const Ranks ranks = threshold_ranks(t.size, control.unmask_ratio, header.args.trim_ratio);
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

// --- select ----------------------------------------------------------------------------------

/// What counts and candidates say of one target; sets target.missed if nothing. All threads take
/// part.
template <class Block>
ALKN_DEVICE inline std::uint32_t select_target(const Block& block, DigitShared& shared,
                                               const std::uint32_t* candidates,
                                               std::int64_t capacity, const Target& target,
                                               DType type, bool& missed) {
  const std::uint64_t through_b = target.above + target.equal_b;
  const std::uint64_t through_inside = through_b + target.inside;
  missed = target.rank <= target.above || target.rank > through_inside + target.equal_a;
  if (missed) return 0;
  if (target.rank <= through_b) return target.b;
  if (target.rank > through_inside) return target.a;
  missed = target.inside > static_cast<std::uint64_t>(capacity);  // some were not stored
  if (missed) return 0;
  // A bfloat16 score is told by the upper half of its key: fewer digits, fewer reads.
  const unsigned cut = type == DType::float32 ? 0 : 16;
  const auto keys = [&](std::int64_t i) { return block.load(candidates + i) >> cut; };
  const std::uint32_t base = (target.a + 1) >> cut;
  const std::uint32_t key = select_key(
      block, shared, keys, static_cast<std::int64_t>(target.inside),
      static_cast<std::int64_t>(target.rank - through_b), base, ((target.b - 1) >> cut) - base);
  if (cut == 0) return key;
  return key < 0x8000U ? (key << 16U) | 0xFFFFU : key << 16U;  // negative scores: ones below
}

/// The fourth kernel: thresholds from what the score pass counted and set aside.
template <class Block>
ALKN_DEVICE inline void select_kernel(const Block& block, DigitShared& shared, const Table& table) {
  const Header& header = *table.header;
  if (table.control->skip != 0) return;
  for (std::int64_t k = block.index(); k < header.num_tensors; k += block.num_blocks()) {
    const Tensor& tensor = table.tensors[k];
    if (way_of(*table.control, tensor) != Way::bracketed) continue;
    TensorState& state = table.states[k];
    const std::uint32_t* candidates = table.candidates + tensor.candidates;
    bool missed[2];
    std::uint32_t keys[2];
    ALKN_CUDA_UNROLL
    for (int which = 0; which < 2; ++which) {
      keys[which] =
          select_target(block, shared, candidates + which * tensor.capacity, tensor.capacity,
                        state.targets[which], tensor.t.state_type, missed[which]);
    }
    block.sync();
    if (block.thread() == 0) {
      if (!missed[0] && !missed[1]) {
        set_threshold(table, tensor, state, keys[0], keys[1]);
      } else {
        block.fetch_add(&table.control->num_missed, 1);
        ALKN_CUDA_UNROLL
        for (int which = 0; which < 2; ++which) {
          state.targets[which].missed = missed[which] ? 1 : 0;
          state.targets[which].prefix = missed[which] ? 0 : keys[which];
        }
      }
    }
    block.sync();
  }
}

// --- radix -----------------------------------------------------------------------------------

struct RadixShared {
  std::uint32_t bins[2][tuning::kRadixBins];
  DigitShared digits;
  std::uint32_t last;
};

/// After the last chunk of a tensor: the digit that holds the rank, and the histogram zero again.
template <class Block>
ALKN_DEVICE inline void finish_digit(const Block& block, RadixShared& shared, const Table& table,
                                     const Tensor& tensor, TensorState& state, int pass) {
  const Digit digit = radix_digit(pass);
  std::uint64_t* histogram = table.histograms + tensor.histogram * 2 * tuning::kRadixBins;
  ALKN_CUDA_UNROLL
  for (int which = 0; which < 2; ++which) {
    Target& target = state.targets[which];
    std::uint64_t* bins = histogram + which * tuning::kRadixBins;
    if (target.missed == 0) continue;
    choose_bin(
        block, shared.digits, [&](int bin) { return block.load_fresh(bins + bin); },
        1 << digit.bits, target.rank);
    if (block.thread() == 0) {
      target.prefix |= shared.digits.bin << digit.shift;
      target.rank = shared.digits.rank;
    }
    block.sync();
    for (int b = block.thread(); b < tuning::kRadixBins; b += block.num_threads())
      block.store(bins + b, std::uint64_t{0});
  }
  block.sync();
  if (block.thread() == 0) {
    state.chunks_done = 0;
    if (pass == 2) {
      set_threshold(table, tensor, state, state.targets[0].prefix, state.targets[1].prefix);
    }
  }
}

/// Counts one digit of a chunk's scores, of both targets.
template <class Block>
ALKN_DEVICE inline void count_digits(const Block& block, RadixShared& shared, const Tensor& tensor,
                                     const Chunk& chunk, const TensorState& state, Digit digit) {
  const std::int64_t end = chunk.begin + chunk.size;
  const Target& low = state.targets[0];
  const Target& high = state.targets[1];
  const bool wants[2] = {low.missed != 0, high.missed != 0};
  const std::uint32_t prefix[2] = {low.prefix, high.prefix};
  for (std::int64_t at = chunk.begin + 4 * block.thread(); at < end;
       at += 4 * block.num_threads()) {
    const Span span = span_at(at, end);
    const Raw raw = load_raw(block, tensor.t.score, tensor.t.state_type, span);
    ALKN_CUDA_UNROLL
    for (int j = 0; j < 4; ++j) {
      if (j >= span.count) continue;
      const std::uint32_t key = order_key(element(raw, tensor.t.state_type, j));
      ALKN_CUDA_UNROLL
      for (int which = 0; which < 2; ++which) {
        if (wants[which] && has_prefix(key, prefix[which], digit)) {
          block.fetch_add_shared(&shared.bins[which][digit_of(key, digit)], 1);
        }
      }
    }
  }
}

/// The fifth to seventh kernels, one a digit: nothing to do unless a bracket missed.
template <class Block>
ALKN_DEVICE inline void radix_kernel(const Block& block, RadixShared& shared, const Table& table,
                                     int pass) {
  const Header& header = *table.header;
  if (table.control->skip != 0 || table.control->num_missed == 0) return;
  for (std::int64_t c = block.index(); c < header.num_chunks; c += block.num_blocks()) {
    const Chunk chunk = table.chunks[c];
    const Tensor& tensor = table.tensors[chunk.tensor];
    if (way_of(*table.control, tensor) != Way::bracketed) continue;
    TensorState& state = table.states[chunk.tensor];
    if (state.targets[0].missed == 0 && state.targets[1].missed == 0) continue;
    for (int b = block.thread(); b < 2 * tuning::kRadixBins; b += block.num_threads()) {
      shared.bins[b / tuning::kRadixBins][b % tuning::kRadixBins] = 0;
    }
    block.sync();
    count_digits(block, shared, tensor, chunk, state, radix_digit(pass));
    block.sync();
    std::uint64_t* histogram = table.histograms + tensor.histogram * 2 * tuning::kRadixBins;
    for (int b = block.thread(); b < 2 * tuning::kRadixBins; b += block.num_threads()) {
      const std::uint32_t count = shared.bins[b / tuning::kRadixBins][b % tuning::kRadixBins];
      if (count != 0) block.fetch_add(histogram + b, count);
    }
    block.fence();
    block.sync();
    if (block.thread() == 0) {
      const auto done = block.fetch_add(&state.chunks_done, 1) + 1;
      shared.last = done == static_cast<std::uint64_t>(tensor.num_chunks) ? 1 : 0;
    }
    block.sync();
    const bool last = shared.last != 0;
    block.sync();
    if (last) {
      block.fence();
      finish_digit(block, shared, table, tensor, state, pass);
      block.sync();
    }
  }
}

}  // namespace alkn::kernel::cuda
