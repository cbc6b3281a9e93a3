// Steps on the CPU in which thresholds are learned: score with selection, select, update.
//
// A tensor of one chunk goes through all three while it is in the cache (one_chunk.hpp). Tensors of
// several chunks go through them in groups (many_chunks.hpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/many_chunks.hpp>
#include <alkn/kernel/cpu/one_chunk.hpp>
#include <alkn/kernel/cpu/scores.hpp>
#include <alkn/kernel/cpu/worker.hpp>
#include <alkn/kernel/select/ladder.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

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
  /// How a tensor gets its threshold in a step.
  enum class Way : std::uint8_t { none, one_chunk, chunks };
  static Way way_of(const StepRun& run, std::int64_t tensor) {
    if (!learns(run.tensors[tensor])) return Way::none;
    return run.chunks.count(tensor) == 1 ? Way::one_chunk : Way::chunks;
  }

  [[nodiscard]] Predictor& predictor(std::int64_t tensor) {
    return predictors_[static_cast<std::size_t>(tensor)];
  }
  [[nodiscard]] ChunkedTensor& state(std::int64_t tensor) {
    return states_[static_cast<std::size_t>(tensor)];
  }
  [[nodiscard]] std::uint64_t sample_seed(std::int64_t tensor) const {
    return mixed(step_ * 0x10001U + static_cast<std::uint64_t>(tensor));
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
  /// nothing.
  void reserve(const StepRun& run) {
    predictors_.resize(static_cast<std::size_t>(run.num_tensors));
    states_.resize(static_cast<std::size_t>(run.num_tensors));
    std::int64_t one_chunk = 0, largest = 0;
    for (std::int64_t t = 0; t < run.num_tensors; ++t) {
      const Way way = way_of(run, t);
      if (way == Way::one_chunk) one_chunk = std::max(one_chunk, run.tensors[t].size);
      if (way == Way::chunks) largest = std::max(largest, run.tensors[t].size);
    }
    run.pool.reserve(run.parallel.num_threads(), one_chunk);
    chunked_.reserve_samples(run.parallel.num_threads(), largest);
    for_groups(run, [&](std::int64_t first, std::int64_t last) {
      chunked_.reserve_group(run, first, last,
                             [&](std::int64_t t) { return way_of(run, t) == Way::chunks; });
    });
  }

  void run_group(const StepRun& run, const StepNumbers& numbers, std::int64_t first,
                 std::int64_t last) {
    const std::int64_t begin = run.chunks.first(first), end = run.chunks.first(last);
    bool any_chunks = false;
    chunked_.start_group();
    for (std::int64_t t = first; t < last; ++t) {
      if (way_of(run, t) != Way::chunks) continue;
      any_chunks = true;
      bracket(run, numbers, t, run.chunks.first(t) - begin);
    }
    run.parallel(end - begin, [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = end - 1 - from; c >= end - to; --c) {
        const Chunk* next = c > end - to ? &run.chunks[c - 1] : nullptr;
        score_chunk(run, numbers, worker, c, next);
      }
    });
    if (!any_chunks) return;
    for (std::int64_t t = first; t < last; ++t) {
      if (way_of(run, t) == Way::chunks) select_threshold(run, numbers, t);
    }
    run.parallel(end - begin, [&](std::int64_t from, std::int64_t to) {
      const ScratchPool::Lease scratch(run.pool);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = begin + from; c < begin + to; ++c) {
        worker.then_update(run.tensors, c + 1 < begin + to ? &run.chunks[c + 1] : nullptr);
        update_chunk(run, worker, c);
      }
    });
  }

  /// Predicts where the order statistics of a tensor of several chunks will lie.
  void bracket(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor,
               std::int64_t first_slot) {
    const StepTensor& t = run.tensors[tensor];
    state(tensor) = ChunkedTensor{};
    chunked_.place(run, tensor, state(tensor), first_slot);
    Brackets& brackets = state(tensor).brackets;
    Predictor& history = predictor(tensor);
    brackets.by_sample =
        !history.predict(threshold_rule(t, numbers.args), ManyChunks::num_samples(t.size),
                         tuning::kWarmErrors, brackets.pivots);
    if (brackets.by_sample) {
      brackets.pivots = chunked_.sample(run, numbers, tensor, sample_seed(tensor), history, false);
    } else if (history.crowded()) {
      drop_threshold_bracket(brackets.pivots);
    }
  }

  /// The first pass over a chunk; all of it where nothing has to wait for other chunks.
  void score_chunk(const StepRun& run, const StepNumbers& numbers, CpuWorker& worker,
                   std::int64_t c, const Chunk* next) {
    const Chunk& chunk = run.chunks[c];
    const StepTensor& t = run.tensors[chunk.tensor];
    worker.then_score(run.tensors, next);
    const Way way = way_of(run, chunk.tensor);
    if (way == Way::none) {
      run.trained[c] = worker.update(t, chunk, worker.state_kernels(t).update_fused, true);
    } else if (way == Way::one_chunk) {
      run.trained[c] =
          step_one_chunk(run, numbers.args, worker, predictor(chunk.tensor), chunk, next);
    } else {
      const ChunkedTensor& tensor = state(chunk.tensor);
      const std::int64_t slot = tensor.first_slot + c - run.chunks.first(chunk.tensor);
      worker.score_select(t, chunk, tensor.brackets.pivots, chunked_.counts(slot),
                          chunked_.slot(slot));
    }
  }

  /// The threshold of a tensor of several chunks, after their score pass.
  void select_threshold(const StepRun& run, const StepNumbers& numbers, std::int64_t tensor) {
    StepTensor& t = run.tensors[tensor];
    ChunkedTensor& chunked = state(tensor);
    const ThresholdRule rule = threshold_rule(t, numbers.args);
    ChunkedScores scores(chunked_, run, numbers, tensor, chunked, sample_seed(tensor) + 1);
    const SelectedPair first = scores.first();
    const SelectedPair pair = climb(scores, predictor(tensor), chunked.brackets, first);
    predictor(tensor).observe(rule, pair.low.value, pair.high.value);
    t.threshold = rule.eta(pair.low.value, pair.high.value);
    const Pivots& pivots = chunked.brackets.pivots;
    chunked.settled = first.found() && t.threshold >= pivots.eta_a && t.threshold <= pivots.eta_b &&
                      !scores.overflow();
  }

  /// The last pass over a chunk of a tensor of several.
  void update_chunk(const StepRun& run, const CpuWorker& worker, std::int64_t c) {
    const Chunk& chunk = run.chunks[c];
    if (way_of(run, chunk.tensor) != Way::chunks) return;
    const StepTensor& t = run.tensors[chunk.tensor];
    const ChunkedTensor& tensor = state(chunk.tensor);
    if (tensor.settled) {
      CpuWorker::settle_mask(t, chunk,
                             chunked_.slot(tensor.first_slot + c - run.chunks.first(chunk.tensor)));
      run.trained[c] = worker.update(t, chunk, worker.state_kernels(t).update_bits, false);
    } else {
      run.trained[c] = worker.update(t, chunk, worker.state_kernels(t).update_scored, false);
    }
  }

  std::vector<Predictor> predictors_;  // per tensor
  std::vector<ChunkedTensor> states_;  // per tensor; of those of several chunks
  ManyChunks chunked_;
  std::uint64_t step_ = 0;
};

}  // namespace alkn::kernel
