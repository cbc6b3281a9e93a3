// What one kernel call works on: a span of one tensor, everything in fp32, and its numbers.
#pragma once

#include <cstdint>

#include <alkn/kernel/math.hpp>

namespace alkn::kernel {

/// The intervals that should hold the two order statistics, and the interval of the threshold that
/// they imply. No end is NaN. Open: values equal to an end are counted, not stored, so that heavy
/// ties cost nothing. Closed: they are stored, which spares the counts that the lists' sizes tell;
/// for ends that hardly a score equals.
struct Pivots {
  float low_a = 0, low_b = 0;
  float high_a = 0, high_b = 0;
  float eta_a = 0, eta_b = 0;  ///< eta_a <= eta <= eta_b
  bool closed = false;
};

/// How many scores lie above the ends of the intervals; NaN counts as largest. Closed: only *_ge_a.
struct PivotCounts {
  std::int64_t low_ge_a = 0, low_ge_b = 0, low_gt_b = 0;
  std::int64_t high_ge_a = 0, high_ge_b = 0, high_gt_b = 0;

  PivotCounts& operator+=(const PivotCounts& other) noexcept {
    low_ge_a += other.low_ge_a, low_ge_b += other.low_ge_b, low_gt_b += other.low_gt_b;
    high_ge_a += other.high_ge_a, high_ge_b += other.high_ge_b, high_gt_b += other.high_gt_b;
    return *this;
  }
};

/// How far past the capacity a kernel may write: the candidates of one word.
inline constexpr std::int64_t kCandidateSlack = 64;

/// Scores of one chunk that lie inside an interval, each with its index in the chunk.
struct Candidates {
  float* values = nullptr;           ///< [capacity + kCandidateSlack]
  std::uint16_t* indices = nullptr;  ///< [capacity + kCandidateSlack]
  std::int64_t capacity = 0;
  std::int64_t size = 0;
  bool overflow = false;  ///< there were more, which are lost
};

/// Which random numbers round a compact state.
struct Rounding {
  RoundingKey key;
  std::uint32_t first = 0;  ///< number of element 0 in its rounding block
};

/// What a pass prefetches: its own arrays, which have `size` elements from its element 0 on, and
/// past their ends the starts (heads) of the arrays of the thread's next pass.
struct Ahead {
  static constexpr int kArrays = 6;
  std::int64_t size = 0;
  const void* heads[kArrays] = {};  ///< null: none
};

/// Sums over `size` elements.
struct SumPass {
  std::int64_t size = 0;
  const float* grad = nullptr;
  const float* retain = nullptr;  ///< null: d is g itself
  ScoreFormula formula;           ///< of d
  double* lanes = nullptr;        ///< [3][kSumLanes], added to; of g^2, d, d^2
  Ahead ahead;
};

/// The score of `size` elements, and what the selection needs of it.
struct ScorePass {
  std::int64_t size = 0;
  const float* grad = nullptr;
  const float* retain = nullptr;
  const void* score_in = nullptr;       ///< fp32, or bfloat16 by StateKernels
  void* score_out = nullptr;            ///< may be score_in
  const std::uint64_t* used = nullptr;  ///< bit i of the union mask for element i, or null
  ScoreNumbers numbers;
  Rounding rounding;  ///< compact state only
  Ahead ahead;

  // Only where a threshold is being selected.
  std::uint64_t* mask = nullptr;  ///< out: bit set where score > eta_b
  std::int64_t base = 0;          ///< index in the chunk of element 0
  Pivots pivots;
  PivotCounts* counts = nullptr;     ///< added to
  Candidates* candidates = nullptr;  ///< appended to
};

/// The update of `size` elements.
struct UpdatePass {
  std::int64_t size = 0;
  const float* grad = nullptr;
  float* param = nullptr;
  void* exp_avg = nullptr;  ///< fp32, or bfloat16 by StateKernels
  void* exp_avg_sq = nullptr;
  float* grad_out = nullptr;  ///< Update::gradient: instead of the three above; may be grad
  const std::uint64_t* used = nullptr;  ///< bits of the union mask, or null
  std::uint64_t* mask = nullptr;        ///< bits: read or written, see Kernels
  const float* retain = nullptr;
  void* score = nullptr;  ///< as exp_avg
  float threshold = 0;
  bool all_on = false;  ///< too small for a threshold: every entry is on
  bool freeze = false;
  ScoreNumbers numbers;  ///< scale is needed by every update
  AdamWLanes<float> adamw;
  Rounding rounding;  ///< compact state only
  Ahead ahead;
};

/// The kernels that read or write the state: moments and scores.
struct StateKernels {
  /// score_out = the grown score, nothing else.
  void (*score)(const ScorePass& pass);
  /// The same, with counts, candidates and mask bits.
  void (*score_select)(const ScorePass& pass);
  /// Counts and candidates of scores that stand already (score_in); writes no mask.
  void (*rescan)(const ScorePass& pass);

  // Each update comes for AdamW [0] and for a foreign optimizer's gradient [1].
  /// Every entry is on; counts none, returns 0.
  std::int64_t (*update_all[2])(const UpdatePass& pass);
  /// Entries whose bit is set in mask are on; returns how many.
  std::int64_t (*update_bits[2])(const UpdatePass& pass);
  /// Entries with score > threshold are on; writes mask, returns how many.
  std::int64_t (*update_scored[2])(const UpdatePass& pass);
  /// Grows the score first; then as update_scored.
  std::int64_t (*update_fused[2])(const UpdatePass& pass);
};

/// The kernels of one instruction set. All give the same bits. Pointers need no alignment; spans
/// start at a multiple of 64 elements of their tensor, so that masks start at a word.
struct Kernels {
  void (*sum_squares)(const SumPass& pass);   ///< of g^2 alone
  void (*sum_products)(const SumPass& pass);  ///< of all three
  /// Adds up lanes[kSumLanes], which it overwrites: each half to the other, down to one; the one
  /// summation tree of all backends.
  double (*fold)(double* lanes);
  StateKernels fp32;
  StateKernels compact;  ///< moments and scores bfloat16, rounded stochastically
  [[nodiscard]] const StateKernels& of(DType state_type) const {
    return state_type == DType::bfloat16 ? compact : fp32;
  }

  void (*widen_bfloat16)(const std::uint16_t* in, float* out, std::int64_t size);
  void (*widen_half)(const std::uint16_t* in, float* out, std::int64_t size);
  void (*round_bfloat16)(const float* in, std::uint16_t* out, std::int64_t size);
  void (*round_half)(const float* in, std::uint16_t* out, std::int64_t size);
  /// param = start - lambda (param - start).
  void (*negate)(float* param, const float* start, std::int64_t size, float lambda);
};

}  // namespace alkn::kernel
