// Thresholds of tensors of several chunks: a score pass sets candidates aside for each chunk, the
// selection waits for all of a tensor's, and the update follows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/scores.hpp>
#include <alkn/kernel/cpu/worker.hpp>
#include <alkn/kernel/select/ladder.hpp>
#include <alkn/kernel/select/radix.hpp>
#include <alkn/kernel/select/sample.hpp>
#include <alkn/kernel/select/select.hpp>

namespace alkn::kernel {

/// A tensor of several chunks in one step.
struct ChunkedTensor {
  Brackets brackets;
  bool settled = false;  ///< mask bits and candidates of the score pass are good for the update
  std::int64_t first_slot = 0;  ///< of its chunks in the group
};

/// Their candidates and samples, one group of tensors after another.
class ManyChunks {
 public:
  /// Room for a sample of the largest tensor.
  void reserve_samples(std::int64_t num_threads, std::int64_t largest) {
    if (largest == 0) return;
    select_.reserve(num_threads);
    radix_.reserve(num_threads);
    grow(sample_, num_samples(largest));
    grow(spare_, num_spare_keys(num_samples(largest)));
    grow(sample_scores_, num_samples(largest));
  }
  /// Room for the candidates of the group of tensors first .. last - 1. Each array grows by its own
  /// size: the one before it may have been the last to find memory.
  template <class Uses>
  void reserve_group(const StepRun& run, std::int64_t first, std::int64_t last, Uses uses) {
    const std::int64_t num_slots = run.chunks.first(last) - run.chunks.first(first);
    std::int64_t num_candidates = 0;
    for (std::int64_t t = first; t < last; ++t) {
      if (!uses(t)) continue;
      for (std::int64_t c = run.chunks.first(t); c < run.chunks.first(t + 1); ++c)
        num_candidates += slot_capacity(run.chunks[c].size, run.tensors[t].size) + kCandidateSlack;
    }
    grow(slots_, num_slots);
    grow(counts_, num_slots);
    grow(values_, num_candidates);
    grow(indices_, num_candidates);
  }

  /// The candidates of a new group have all the room.
  void start_group() { used_ = 0; }
  /// Gives every chunk of a tensor a place for its candidates.
  void place(const StepRun& run, std::int64_t tensor, ChunkedTensor& state,
             std::int64_t first_slot) {
    state.first_slot = first_slot;
    for (std::int64_t i = 0; i < run.chunks.count(tensor); ++i) {
      const Chunk& chunk = run.chunks[run.chunks.first(tensor) + i];
      Candidates& slot = slots_[static_cast<std::size_t>(first_slot + i)];
      slot = Candidates{values_.data() + used_, indices_.data() + used_,
                        slot_capacity(chunk.size, run.tensors[tensor].size), 0, false};
      counts_[static_cast<std::size_t>(first_slot + i)] = PivotCounts{};
      used_ += slot.capacity + kCandidateSlack;
    }
  }

  [[nodiscard]] static std::int64_t num_samples(std::int64_t size) {
    const std::int64_t lines =
        std::clamp(size / tuning::kSampleShare, tuning::kSampleMin, tuning::kSampleMax) /
        tuning::kSampleLine;
    return lines * tuning::kSampleLine;
  }

  [[nodiscard]] Candidates& slot(std::int64_t i) { return slots_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] PivotCounts& counts(std::int64_t i) { return counts_[static_cast<std::size_t>(i)]; }

  /// Brackets by a sample: of the scores to come, or of those that stand.
  Pivots sample(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor,
                std::uint64_t seed, const Predictor& history, bool stand) {
    const StepTensor& t = run.tensors[tensor];
    const std::int64_t total = num_samples(t.size);
    const std::int64_t lines = total / tuning::kSampleLine;
    const std::int64_t places = t.size / tuning::kSampleLine;  // lines there are
    run.parallel(lines, [&](std::int64_t begin, std::int64_t end) {
      const ScratchPool::Lease scratch(run.pool);
      const CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t line = begin; line < end; ++line) {
        const std::int64_t from = line * places / lines, to = (line + 1) * places / lines;
        const auto jitter = mixed(seed + static_cast<std::uint64_t>(line)) %
                            static_cast<std::uint64_t>(std::max<std::int64_t>(1, to - from));
        const std::int64_t at = (from + static_cast<std::int64_t>(jitter)) * tuning::kSampleLine;
        float* out = sample_scores_.data() + line * tuning::kSampleLine;
        if (stand) {
          for (std::int64_t i = 0; i < tuning::kSampleLine; ++i) out[i] = score_of(t, at + i);
        } else {
          worker.score(t, at, tuning::kSampleLine, out);
        }
      }
    });
    std::transform(sample_scores_.data(), sample_scores_.data() + total, sample_.data(), order_key);
    Pivots pivots = pivots_by_sample(sample_.data(), total, spare_.data(),
                                     threshold_rule(t, numbers.args), history.sigmas());
    const std::uint32_t from = order_key(pivots.eta_a), to = order_key(pivots.eta_b);
    const auto unsure = std::count_if(sample_.data(), sample_.data() + total,
                                      [&](std::uint32_t key) { return key > from && key <= to; });
    const double share = static_cast<double>(unsure) / static_cast<double>(total);
    if (share > tuning::kUnsureShare) drop_threshold_bracket(pivots);
    return pivots;
  }

  /// What the counts and candidates of the last pass over a tensor say.
  SelectedPair select(const StepRun& run, std::int64_t tensor, const ChunkedTensor& state,
                      const Ranks& ranks, const Pivots& pivots) {
    PivotCounts counts;
    for (std::int64_t i = 0; i < run.chunks.count(tensor); ++i) {
      counts += counts_[static_cast<std::size_t>(state.first_slot + i)];
    }
    return select_.run(candidates(run, tensor, state), pivots, counts, ranks, run.parallel);
  }
  [[nodiscard]] CandidateList candidates(const StepRun& run, std::int64_t tensor,
                                         const ChunkedTensor& state) const {
    return {slots_.data() + state.first_slot, run.chunks.count(tensor)};
  }

  /// One more pass over the scores, for what lies in these brackets.
  void rescan(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor,
              const ChunkedTensor& state, const Pivots& pivots) {
    const std::int64_t first = run.chunks.first(tensor);
    run.parallel(run.chunks.count(tensor), [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      const CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t i = from; i < to; ++i) {
        Candidates& found = slot(state.first_slot + i);
        found.size = 0, found.overflow = false;
        counts(state.first_slot + i) = PivotCounts{};
        worker.rescan(run.tensors[tensor], run.chunks[first + i], pivots,
                      counts(state.first_slot + i), found);
      }
    });
  }

  void radix(const StepRun& run, const StepTensor& t, const Ranks& ranks, SelectedPair& pair) {
    with_scores(t, [&](auto scores) {
      radix_.select(scores, t.size, ranks, run.parallel, pair.low.value, pair.high.value);
    });
  }

 private:
  template <class T>
  static void grow(std::vector<T>& array, std::int64_t size) {
    if (static_cast<std::int64_t>(array.size()) < size)
      array.resize(static_cast<std::size_t>(size));
  }
  /// Of a chunk of `size` elements: twice what the brackets by a sample of its tensor hold on
  /// average, as parts of a tensor differ.
  static std::int64_t slot_capacity(std::int64_t size, std::int64_t tensor_size) {
    const double sampled = sampled_share(tuning::kSampleSigmas, num_samples(tensor_size));
    const double share = std::max(tuning::kCandidateShare, 2 * sampled);
    return (static_cast<std::int64_t>(static_cast<double>(size) * share) + 63) / 64 * 64;
  }

  std::vector<Candidates> slots_;    // per chunk of a group
  std::vector<PivotCounts> counts_;  // per chunk of a group
  std::vector<float> values_;
  std::vector<std::uint16_t> indices_;
  std::int64_t used_ = 0;  // of the two
  std::vector<float> sample_scores_;
  std::vector<std::uint32_t> sample_, spare_;
  PairSelect select_;
  RadixSelect radix_;
};

/// The scores of a tensor of several chunks, for climb().
class ChunkedScores {
 public:
  ChunkedScores(ManyChunks& memory, const StepRun& run, const StepNumbers& numbers,
                std::int64_t tensor, const ChunkedTensor& state, std::uint64_t seed)
      : memory_(memory),
        run_(run),
        numbers_(numbers),
        tensor_(tensor),
        state_(state),
        seed_(seed),
        ranks_(threshold_rule(run.tensors[tensor], numbers.args).ranks()) {}

  [[nodiscard]] std::int64_t size() const { return run_.tensors[tensor_].size; }
  [[nodiscard]] bool overflow() const {
    return memory_.candidates(run_, tensor_, state_).overflow();
  }
  /// What the pass that grew the scores has set aside.
  SelectedPair first() {
    return memory_.select(run_, tensor_, state_, ranks_, state_.brackets.pivots);
  }
  SelectedPair read(const Pivots& pivots) {
    memory_.rescan(run_, numbers_, tensor_, state_, pivots);
    return memory_.select(run_, tensor_, state_, ranks_, pivots);
  }
  Pivots sample(const Predictor& history) {
    return memory_.sample(run_, numbers_, tensor_, seed_, history, true);
  }
  void radix(SelectedPair& pair) { memory_.radix(run_, run_.tensors[tensor_], ranks_, pair); }

 private:
  ManyChunks& memory_;
  const StepRun& run_;
  const StepNumbers& numbers_;
  const std::int64_t tensor_;
  const ChunkedTensor& state_;
  const std::uint64_t seed_;
  const Ranks ranks_;
};

}  // namespace alkn::kernel
