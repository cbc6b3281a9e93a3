// Score, threshold and update of a tensor of one chunk, which stays in the cache of its thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/scores.hpp>
#include <alkn/kernel/cpu/worker.hpp>
#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/select/ladder.hpp>
#include <alkn/kernel/select/quickselect.hpp>
#include <alkn/kernel/select/sample.hpp>

namespace alkn::kernel {

/// The scores of a tensor of one chunk, for climb().
class OneChunkScores {
 public:
  OneChunkScores(const CpuWorker& worker, const StepTensor& t, const Chunk& chunk,
                 const ThresholdRule& rule)
      : worker_(worker), t_(t), chunk_(chunk), rule_(rule) {}

  [[nodiscard]] std::int64_t size() const { return t_.size; }
  [[nodiscard]] static bool overflow() { return false; }  // there is room for the whole chunk

  /// The pass that grows the scores.
  SelectedPair grow(const Pivots& pivots) {
    return select(pivots, [&](PivotCounts& counts, Candidates& found) {
      worker_.score_select(t_, chunk_, pivots, counts, found);
    });
  }
  SelectedPair read(const Pivots& pivots) {
    return select(pivots, [&](PivotCounts& counts, Candidates& found) {
      worker_.rescan(t_, chunk_, pivots, counts, found);
    });
  }

  [[nodiscard]] static std::int64_t num_samples(std::int64_t size) {
    return std::max(tuning::kSampleMin, size / tuning::kSampleShare);
  }
  /// Single elements, one of each stretch.
  Pivots sample(const Predictor& history) {
    std::uint32_t* keys = worker_.scratch().sample.data();
    const std::int64_t total = num_samples(t_.size);
    const auto stride =
        (static_cast<std::uint64_t>(t_.size) << 16U) / static_cast<std::uint64_t>(total);
    with_scores(t_, [&](auto scores) {  // no division in the loop
      for (std::int64_t i = 0; i < total; ++i) {
        const auto number = static_cast<std::uint64_t>(i);
        const std::uint64_t from = number * stride >> 16U, to = (number + 1) * stride >> 16U;
        const std::uint64_t jitter = (mixed(number) >> 32U) * (to - from) >> 32U;
        keys[i] = order_key(scores[static_cast<std::int64_t>(from + jitter)]);
      }
    });
    return pivots_by_sample(keys, total, worker_.scratch().spare.data(), rule_, history.sigmas());
  }

  void radix(SelectedPair& pair) {
    with_scores(t_, [&](auto scores) {
      worker_.scratch().radix.select(scores, t_.size, rule_.ranks(), ParallelFor::serial(),
                                     pair.low.value, pair.high.value);
    });
  }

  /// Of so few scores that brackets cost more than they save.
  SelectedPair direct() {
    std::uint32_t* keys = worker_.scratch().sample.data();
    for (std::int64_t i = 0; i < t_.size; ++i) keys[i] = order_key(score_of(t_, i));
    SelectedPair pair;
    pair.low.value = select_direct(keys, t_.size, rule_.ranks().low);
    pair.high.value = select_direct(keys, t_.size, rule_.ranks().high);
    return pair;
  }

 private:
  template <class Pass>
  SelectedPair select(const Pivots& pivots, Pass pass) {
    Scratch& scratch = worker_.scratch();
    Candidates found{scratch.values.data(), scratch.indices.data(),
                     static_cast<std::int64_t>(scratch.values.size()) - kCandidateSlack, 0, false};
    PivotCounts counts;
    pass(counts, found);
    return scratch.select.run({&found, 1}, pivots, counts, rule_.ranks(), ParallelFor::serial());
  }

  const CpuWorker& worker_;
  const StepTensor& t_;
  const Chunk& chunk_;
  const ThresholdRule rule_;
};

/// @param next the chunk that the thread comes to afterwards, or null
/// @returns how many entries are trained
inline std::int64_t step_one_chunk(const StepRun& run, const StepArgs& args, CpuWorker& worker,
                                   Predictor& history, const Chunk& chunk, const Chunk* next) {
  StepTensor& t = run.tensors[chunk.tensor];
  worker.then_update_scored(run.tensors, &chunk);
  const ThresholdRule rule = threshold_rule(t, args);
  OneChunkScores scores(worker, t, chunk, rule);
  SelectedPair pair;
  Brackets brackets;
  const bool direct = t.size <= tuning::kDirectSelect;
  if (!direct && history.predict(rule, OneChunkScores::num_samples(t.size), tuning::kOwnWarmErrors,
                                 brackets.pivots)) {
    drop_threshold_bracket(brackets.pivots);  // the update reads the scores from the cache
    pair = climb(scores, history, brackets, scores.grow(brackets.pivots));
  } else {
    worker.score(t, chunk.begin, chunk.size, nullptr);
    pair = direct ? scores.direct() : climb_by_sample(scores, history, brackets);
  }
  history.observe(rule, pair.low.value, pair.high.value);
  t.threshold = rule.eta(pair.low.value, pair.high.value);
  worker.then_score(run.tensors, next);
  return worker.update(t, chunk, worker.state_kernels(t).update_scored, false);
}

}  // namespace alkn::kernel
