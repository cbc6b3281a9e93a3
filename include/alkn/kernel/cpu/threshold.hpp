// Steps on the CPU in which thresholds are learned: score with selection, select, update.
//
// A tensor of one chunk goes through all three while it is in the cache. Tensors of several chunks
// go through them in groups. What a bracket missed is read once more, with a wider one; then with
// one by a sample; then a radix selection decides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/scratch.hpp>
#include <alkn/kernel/cpu/worker.hpp>
#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/select/predict.hpp>
#include <alkn/kernel/select/radix.hpp>
#include <alkn/kernel/select/select.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// What the passes of one step share.
struct StepRun {
  StepTensor* tensors;
  std::int64_t num_tensors;
  const ChunkList& chunks;
  const Kernels& kernels;
  ScratchPool& pool;
  const ParallelFor& parallel;
  std::int64_t* unmasked;  ///< out, per chunk
};

class CpuThresholds {
 public:
  void reset() { predictors_.clear(); }

  /// Of all tensors since the last reset.
  [[nodiscard]] PredictionCounts predictions() const {
    PredictionCounts sum;
    for (const Predictor& predictor : predictors_) sum += predictor.counts();
    return sum;
  }

  void run(const StepRun& run, const StepNumbers& numbers) {
    ++step_;
    reserve(run);
    for_groups(
        run, [&](std::int64_t first, std::int64_t last) { run_group(run, numbers, first, last); });
  }

 private:
  /// How a tensor gets its threshold in this step.
  enum class Way : std::uint8_t { none, one_chunk, chunks };

  struct TensorState {
    Way way = Way::none;
    bool by_sample = false;
    bool settled = false;  ///< mask bits and candidates of the score pass are good for the update
    Pivots pivots;
    std::int64_t first_slot = 0;  ///< of its chunks in the group
  };

  /// Calls fn with the scores, fp32 or bfloat16, as something to index.
  template <class Fn>
  static void with_scores(const StepTensor& t, Fn fn) {
    if (t.state_type == DType::bfloat16) {
      fn(Bfloat16Values{static_cast<const std::uint16_t*>(t.score)});
    } else {
      fn(static_cast<const float*>(t.score));
    }
  }
  static float score_of(const StepTensor& t, std::int64_t i) {
    float value = 0;
    with_scores(t, [&](auto scores) { value = scores[i]; });
    return value;
  }

  static bool learns(const StepTensor& t) { return t.learns_threshold && has_threshold(t.size); }
  [[nodiscard]] static ThresholdRule rule(const StepTensor& t, const StepArgs& args) {
    return {t.size, args.unmask_ratio, args.trim_ratio};
  }
  [[nodiscard]] Predictor& predictor(std::int64_t tensor) {
    return predictors_[static_cast<std::size_t>(tensor)];
  }

  /// Calls fn(first, last) on the groups of tensors that go through all passes together.
  template <class Fn>
  static void for_groups(const StepRun& run, Fn fn) {
    const std::int64_t group = tuning::kGroupElements * run.parallel.num_threads();
    std::int64_t left = 0;
    for (std::int64_t t = 0; t < run.num_tensors; ++t) left += run.tensors[t].size;
    for (std::int64_t first = 0; first < run.num_tensors;) {
      std::int64_t last = first, size = 0;
      while (last < run.num_tensors && size < group) size += run.tensors[last++].size;
      left -= size;
      if (left < group / 2) last = run.num_tensors;
      fn(first, last);
      first = last;
    }
  }

  /// All memory of the step, before anything is written; a later one with the same sizes allocates
  /// nothing. Each array grows by its own size: the one before it may have been the last to find
  /// memory.
  void reserve(const StepRun& run) {
    predictors_.resize(static_cast<std::size_t>(run.num_tensors));
    states_.resize(static_cast<std::size_t>(run.num_tensors));
    std::int64_t one_chunk = 0, most_samples = 0;
    for (std::int64_t t = 0; t < run.num_tensors; ++t) {
      if (!learns(run.tensors[t])) continue;
      if (run.chunks.count(t) == 1) {
        one_chunk = std::max(one_chunk, run.tensors[t].size);
      } else {
        most_samples = std::max(most_samples, num_samples(run.tensors[t].size));
      }
    }
    run.pool.reserve(run.parallel.num_threads(), one_chunk);
    if (most_samples > 0) {
      select_.reserve(run.parallel.num_threads());
      radix_.reserve(run.parallel.num_threads());
    }
    grow(sample_, most_samples);
    grow(sample_scores_, most_samples);
    for_groups(run, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t num_slots = run.chunks.first(last) - run.chunks.first(first);
      std::int64_t num_candidates = 0;
      for (std::int64_t t = first; t < last; ++t) {
        if (!learns(run.tensors[t]) || run.chunks.count(t) == 1) continue;
        for (std::int64_t c = run.chunks.first(t); c < run.chunks.first(t + 1); ++c)
          num_candidates +=
              slot_capacity(run.chunks[c].size, run.tensors[t].size) + kCandidateSlack;
      }
      grow(slots_, num_slots);
      grow(counts_, num_slots);
      grow(values_, num_candidates);
      grow(indices_, num_candidates);
    });
  }
  template <class T>
  static void grow(std::vector<T>& array, std::int64_t size) {
    if (static_cast<std::int64_t>(array.size()) < size)
      array.resize(static_cast<std::size_t>(size));
  }

  static std::int64_t num_samples(std::int64_t size) {
    const std::int64_t lines =
        std::clamp(size / tuning::kSampleShare, tuning::kSampleMin, tuning::kSampleMax) /
        tuning::kSampleLine;
    return lines * tuning::kSampleLine;
  }

  /// The same of a tensor of one chunk, whose scores are in the cache: single elements.
  static std::int64_t num_own_samples(std::int64_t size) {
    return std::max(tuning::kSampleMin, size / tuning::kSampleShare);
  }

  /// Of a chunk of `size` elements: twice what the brackets by a sample of its tensor hold on
  /// average, as parts of a tensor differ.
  static std::int64_t slot_capacity(std::int64_t size, std::int64_t tensor_size) {
    const double sampled = sampled_share(tuning::kSampleSigmas, num_samples(tensor_size));
    const double share = std::max(tuning::kCandidateShare, 2 * sampled);
    return (static_cast<std::int64_t>(static_cast<double>(size) * share) + 63) / 64 * 64;
  }

  void run_group(const StepRun& run, const StepNumbers& numbers, std::int64_t first,
                 std::int64_t last) {
    const std::int64_t begin = run.chunks.first(first);
    const std::int64_t end = run.chunks.first(last);
    prepare_slots(run, first, last);
    bool any_chunks = false;
    for (std::int64_t t = first; t < last; ++t) {
      TensorState& state = states_[static_cast<std::size_t>(t)];
      if (state.way != Way::chunks) continue;
      any_chunks = true;
      const ThresholdRule how = rule(run.tensors[t], numbers.args);
      state.by_sample = !predictor(t).predict(how, num_samples(run.tensors[t].size),
                                              tuning::kWarmErrors, state.pivots);
      if (state.by_sample) sample_pivots(run, numbers, t, false);
      if (predictor(t).crowded()) no_threshold_bracket(state.pivots);
    }
    run.parallel(end - begin, [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = end - 1 - from; c >= end - to; --c) {
        const Chunk* next = c > end - to ? &run.chunks[c - 1] : nullptr;
        score_chunk(run, numbers, worker, c, next, begin);
      }
    });
    if (!any_chunks) return;
    for (std::int64_t t = first; t < last; ++t) {
      if (states_[static_cast<std::size_t>(t)].way == Way::chunks)
        select_threshold(run, numbers, t);
    }
    run.parallel(end - begin, [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = begin + from; c < begin + to; ++c) {
        worker.then_update(run.tensors, c + 1 < begin + to ? &run.chunks[c + 1] : nullptr);
        update_chunk(run, worker, c, begin);
      }
    });
  }

  /// Decides the way of each tensor of a group, and gives every chunk that needs it a place for its
  /// candidates.
  void prepare_slots(const StepRun& run, std::int64_t first, std::int64_t last) {
    const std::int64_t begin = run.chunks.first(first);
    std::int64_t at = 0;
    for (std::int64_t t = first; t < last; ++t) {
      TensorState& state = states_[static_cast<std::size_t>(t)];
      state = TensorState{};
      state.first_slot = run.chunks.first(t) - begin;
      if (learns(run.tensors[t]))
        state.way = run.chunks.count(t) == 1 ? Way::one_chunk : Way::chunks;
      if (state.way != Way::chunks) continue;
      for (std::int64_t c = run.chunks.first(t); c < run.chunks.first(t + 1); ++c) {
        Candidates& slot = slots_[static_cast<std::size_t>(c - begin)];
        slot = Candidates{values_.data() + at, indices_.data() + at,
                          slot_capacity(run.chunks[c].size, run.tensors[t].size), 0, false};
        counts_[static_cast<std::size_t>(c - begin)] = PivotCounts{};
        at += slot.capacity + kCandidateSlack;
      }
    }
  }

  /// Brackets of a tensor of several chunks by a sample: of the scores to come, or of those that
  /// stand.
  void sample_pivots(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor,
                     bool stand) {
    const StepTensor& t = run.tensors[tensor];
    const std::int64_t total = num_samples(t.size);
    const std::int64_t lines = total / tuning::kSampleLine;
    const std::int64_t places = t.size / tuning::kSampleLine;  // lines there are
    const std::uint64_t seed =
        mixed(step_ * 0x10001U + static_cast<std::uint64_t>(tensor)) + (stand ? 1 : 0);
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
    for (std::int64_t i = 0; i < total; ++i) {
      sample_[static_cast<std::size_t>(i)] = order_key(sample_scores_[static_cast<std::size_t>(i)]);
    }
    Predictor& history = predictor(tensor);
    const Pivots pivots =
        pivots_by_sample(sample_.data(), total, rule(t, numbers.args), history.sigmas());
    states_[static_cast<std::size_t>(tensor)].pivots = pivots;
    const std::uint32_t from = order_key(pivots.eta_a), to = order_key(pivots.eta_b);
    const auto unsure = std::count_if(sample_.data(), sample_.data() + total,
                                      [&](std::uint32_t key) { return key > from && key <= to; });
    const double share = static_cast<double>(unsure) / static_cast<double>(total);
    if (share > tuning::kUnsureShare) history.crowd();
  }

  /// The first pass over a chunk; all of it where nothing has to wait for other chunks.
  void score_chunk(const StepRun& run, const StepNumbers& numbers, CpuWorker& worker,
                   std::int64_t c, const Chunk* next, std::int64_t group_begin) {
    const Chunk& chunk = run.chunks[c];
    StepTensor& t = run.tensors[chunk.tensor];
    const TensorState& state = states_[static_cast<std::size_t>(chunk.tensor)];
    worker.then_score(run.tensors, next);
    if (state.way == Way::none) {
      run.unmasked[c] = worker.update(t, chunk, worker.state_kernels(t).update_fused, true);
    } else if (state.way == Way::one_chunk) {
      run.unmasked[c] = step_in_cache(run, numbers, worker, chunk, next);
    } else {
      const auto slot = static_cast<std::size_t>(c - group_begin);
      worker.score_select(t, chunk, state.pivots, counts_[slot], slots_[slot]);
    }
  }

  /// Score, threshold and update of a tensor of one chunk.
  std::int64_t step_in_cache(const StepRun& run, const StepNumbers& numbers, CpuWorker& worker,
                             const Chunk& chunk, const Chunk* next) {
    StepTensor& t = run.tensors[chunk.tensor];
    worker.then_update_scored(run.tensors, &chunk);
    const ThresholdRule how = rule(t, numbers.args);
    Predictor& history = predictor(chunk.tensor);
    Pivots pivots;
    if (t.size > tuning::kDirectSelect &&
        history.predict(how, num_own_samples(t.size), tuning::kOwnWarmErrors, pivots)) {
      no_threshold_bracket(pivots);  // the update reads the scores again, from the cache
      Candidates found = own_candidates(worker);
      PivotCounts counts;
      worker.score_select(t, chunk, pivots, counts, found);
      SelectedPair pair = select_own(worker, found, pivots, counts, how);
      if (!pair.found()) {
        widen(pivots);
        history.widen();
        found = own_candidates(worker), counts = PivotCounts{};
        worker.rescan(t, chunk, pivots, counts, found);
        pair = select_own(worker, found, pivots, counts, how);
      }
      if (pair.found()) {
        history.hit(pair, pivots, t.size, false);
        history.observe(how, pair.low.value, pair.high.value);
        t.threshold = how.eta(pair.low.value, pair.high.value);
        worker.then_score(run.tensors, next);
        return worker.update(t, chunk, worker.state_kernels(t).update_scored, false);
      }
      history.miss(false);
    } else {
      worker.score(t, chunk.begin, chunk.size, nullptr);
    }
    float low = 0, high = 0;
    select_standing(worker, t, chunk, how, history, low, high);
    history.observe(how, low, high);
    t.threshold = how.eta(low, high);
    worker.then_score(run.tensors, next);
    return worker.update(t, chunk, worker.state_kernels(t).update_scored, false);
  }

  static SelectedPair select_own(const CpuWorker& worker, const Candidates& found,
                                 const Pivots& pivots, const PivotCounts& counts,
                                 const ThresholdRule& how) {
    return worker.scratch().select.run({&found, 1}, pivots, counts, how.ranks(),
                                       ParallelFor::serial());
  }

  static void widen(Pivots& p) {
    const auto wider = [](float& a, float& b) {
      const float more = 0.5F * (tuning::kWidening - 1) * (b - a);
      a = flushed(a - more), b = flushed(b + more);
    };
    wider(p.low_a, p.low_b), wider(p.high_a, p.high_b);
  }
  /// Sets nothing aside for the mask, which is not made of the candidates then.
  static void no_threshold_bracket(Pivots& p) {
    p.eta_a = p.eta_b = std::numeric_limits<float>::infinity();
  }

  static Candidates own_candidates(const CpuWorker& worker) {
    Scratch& scratch = worker.scratch();
    return {scratch.values.data(), scratch.indices.data(),
            static_cast<std::int64_t>(scratch.values.size()) - kCandidateSlack, 0, false};
  }

  /// Both order statistics of a tensor of one chunk whose scores stand.
  static void select_standing(const CpuWorker& worker, const StepTensor& t, const Chunk& chunk,
                              const ThresholdRule& how, Predictor& history, float& low,
                              float& high) {
    Scratch& scratch = worker.scratch();
    const Ranks ranks = how.ranks();
    std::uint32_t* keys = scratch.sample.data();
    if (t.size <= tuning::kDirectSelect) {
      for (std::int64_t i = 0; i < t.size; ++i) keys[i] = order_key(score_of(t, i));
      low = select_direct(keys, t.size, ranks.low);
      high = select_direct(keys, t.size, ranks.high);
      return;
    }
    const std::int64_t total = num_own_samples(t.size);
    const auto stride =
        (static_cast<std::uint64_t>(t.size) << 16U) / static_cast<std::uint64_t>(total);
    with_scores(t, [&](auto scores) {  // one of each stretch; no division in the loop
      for (std::int64_t i = 0; i < total; ++i) {
        const auto number = static_cast<std::uint64_t>(i);
        const std::uint64_t from = number * stride >> 16U, to = (number + 1) * stride >> 16U;
        const std::uint64_t jitter = (mixed(number) >> 32U) * (to - from) >> 32U;
        keys[i] = order_key(scores[static_cast<std::int64_t>(from + jitter)]);
      }
    });
    const Pivots pivots = pivots_by_sample(keys, total, how, history.sigmas());
    Candidates found = own_candidates(worker);
    PivotCounts counts;
    worker.rescan(t, chunk, pivots, counts, found);
    const SelectedPair pair = select_own(worker, found, pivots, counts, how);
    if (pair.found()) {
      history.hit(pair, pivots, t.size, true);
      low = pair.low.value, high = pair.high.value;
      return;
    }
    history.miss(true);
    with_scores(t, [&](auto scores) {
      low = radix_select(scores, t.size, ranks.low);
      high = radix_select(scores, t.size, ranks.high);
    });
  }

  /// The threshold of a tensor of several chunks, after their score pass.
  void select_threshold(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor) {
    StepTensor& t = run.tensors[tensor];
    TensorState& state = states_[static_cast<std::size_t>(tensor)];
    const ThresholdRule how = rule(t, numbers.args);
    Predictor& history = predictor(tensor);
    const CandidateList list{slots_.data() + state.first_slot, run.chunks.count(tensor)};
    SelectedPair pair = select_from(run, list, state, how);
    if (pair.found()) {
      history.hit(pair, state.pivots, t.size, state.by_sample);
      const float eta = how.eta(pair.low.value, pair.high.value);
      state.settled = eta >= state.pivots.eta_a && eta <= state.pivots.eta_b && !list.overflow();
    } else {
      pair = select_after_miss(run, numbers, tensor, list);
    }
    history.observe(how, pair.low.value, pair.high.value);
    t.threshold = how.eta(pair.low.value, pair.high.value);
  }

  /// By wider brackets, by those of a sample, by a radix selection: each reads the scores again.
  SelectedPair select_after_miss(const StepRun& run, const StepNumbers& numbers,
                                 std::int64_t tensor, const CandidateList& list) {
    const StepTensor& t = run.tensors[tensor];
    TensorState& state = states_[static_cast<std::size_t>(tensor)];
    const ThresholdRule how = rule(t, numbers.args);
    Predictor& history = predictor(tensor);
    SelectedPair pair;
    if (list.overflow()) {  // the brackets may be right: once more, without the threshold's
      history.crowd();
      rescan(run, numbers, tensor);
      pair = select_from(run, list, state, how);
      if (pair.found()) {
        history.hit(pair, state.pivots, t.size, state.by_sample);
        return pair;
      }
    }
    if (!state.by_sample) {
      widen(state.pivots);
      history.widen();
      rescan(run, numbers, tensor);
      pair = select_from(run, list, state, how);
      if (pair.found()) {
        history.hit(pair, state.pivots, t.size, false);
        return pair;
      }
    }
    if (!list.overflow()) history.miss(state.by_sample);  // wider ones would hold still more
    sample_pivots(run, numbers, tensor, true);
    rescan(run, numbers, tensor);
    pair = select_from(run, list, state, how);
    if (pair.found()) {
      history.hit(pair, state.pivots, t.size, true);
      return pair;
    }
    history.miss(true);
    const Ranks ranks = how.ranks();
    with_scores(t, [&](auto scores) {
      radix_.select(scores, t.size, ranks, run.parallel, pair.low.value, pair.high.value);
    });
    return pair;
  }

  SelectedPair select_from(const StepRun& run, const CandidateList& list, const TensorState& state,
                           const ThresholdRule& how) {
    PivotCounts counts;
    for (std::int64_t i = 0; i < list.num_chunks; ++i) {
      counts += counts_[static_cast<std::size_t>(state.first_slot + i)];
    }
    return select_.run(list, state.pivots, counts, how.ranks(), run.parallel);
  }

  /// One more read of the scores, for what lies in the tensor's brackets now.
  void rescan(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor) {
    TensorState& state = states_[static_cast<std::size_t>(tensor)];
    no_threshold_bracket(state.pivots);
    const std::int64_t first = run.chunks.first(tensor);
    run.parallel(run.chunks.count(tensor), [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      const CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t i = from; i < to; ++i) {
        const auto slot = static_cast<std::size_t>(state.first_slot + i);
        slots_[slot].size = 0, slots_[slot].overflow = false;
        counts_[slot] = PivotCounts{};
        worker.rescan(run.tensors[tensor], run.chunks[first + i], state.pivots, counts_[slot],
                      slots_[slot]);
      }
    });
  }

  /// The last pass over a chunk of a tensor of several.
  void update_chunk(const StepRun& run, const CpuWorker& worker, std::int64_t c,
                    std::int64_t group_begin) {
    const Chunk& chunk = run.chunks[c];
    const StepTensor& t = run.tensors[chunk.tensor];
    const TensorState& state = states_[static_cast<std::size_t>(chunk.tensor)];
    if (state.way != Way::chunks) return;
    if (state.settled) {
      const Candidates& found = slots_[static_cast<std::size_t>(c - group_begin)];
      CpuWorker::settle_mask(t, chunk, found);
      run.unmasked[c] = worker.update(t, chunk, worker.state_kernels(t).update_bits, false);
    } else {
      run.unmasked[c] = worker.update(t, chunk, worker.state_kernels(t).update_scored, false);
    }
  }

  std::vector<Predictor> predictors_;  // per tensor
  std::vector<TensorState> states_;    // per tensor
  std::vector<Candidates> slots_;      // per chunk of a group
  std::vector<PivotCounts> counts_;    // per chunk of a group
  std::vector<float> values_;
  std::vector<std::uint16_t> indices_;
  std::vector<float> sample_scores_;
  std::vector<std::uint32_t> sample_;
  PairSelect select_;
  RadixSelect radix_;
  std::uint64_t step_ = 0;
};

}  // namespace alkn::kernel
