// The passes over one chunk on the CPU: converts what is narrower than fp32, calls the kernels,
// rounds back.
#pragma once

#include <algorithm>
#include <cstdint>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/scratch.hpp>
#include <alkn/kernel/passes.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// The numbers of the running step that are the same for all tensors.
struct StepNumbers {
  StepArgs args;
  float scale = 1;
};

class CpuWorker {
 public:
  /// From here to its end the calling thread computes with denormals flushed.
  CpuWorker(const Kernels& kernels, const StepNumbers& numbers, Scratch& scratch)
      : kernels_(kernels), numbers_(numbers), scratch_(scratch) {}

  /// Announces the thread's next pass (the sums of a chunk, its score, an update), so that the pass
  /// before it prefetches its first lines. @param next null: there is none
  void then_sum(const StepTensor* tensors, const Chunk* next) {
    next_ = {};
    if (next == nullptr) return;
    const StepTensor& t = tensors[next->tensor];
    next_ = {0, {head(t.grad, t.type, *next), head(t.retain, t.retain_type, *next)}};
  }
  void then_score(const StepTensor* tensors, const Chunk* next) {
    next_ = {};
    if (next == nullptr) return;
    const StepTensor& t = tensors[next->tensor];
    const Chunk& chunk = *next;
    next_ = {0,
             {state_at(t.score, t, chunk.begin), head(t.grad, t.type, chunk),
              head(t.retain, t.retain_type, chunk)}};
  }
  void then_update(const StepTensor* tensors, const Chunk* next) {
    next_ = {};
    if (next == nullptr) return;
    const StepTensor& t = tensors[next->tensor];
    const Chunk& chunk = *next;
    const void* weights = t.type != DType::float32 ? t.master : t.param;
    next_ = {0,
             {head(t.grad, t.type, chunk), head(weights, DType::float32, chunk),
              state_at(t.exp_avg, t, chunk.begin), state_at(t.exp_avg_sq, t, chunk.begin),
              head(t.retain, t.retain_type, chunk), state_at(t.score, t, chunk.begin)}};
  }
  /// The same for the update of a chunk that was scored just before: its gradient is in the cache.
  void then_update_scored(const StepTensor* tensors, const Chunk* chunk) {
    then_update(tensors, chunk);
    for (int i = 0; i < 3; ++i) next_.heads[i] = next_.heads[i + 1];
  }

  /// Sums of a chunk: of g, and of d where the step has a penalty for this tensor.
  [[nodiscard]] Sums sum(const StepTensor& t, const Chunk& chunk) const {
    const StepArgs& args = numbers_.args;
    const bool products = args.mask == MaskKind::localized && t.used != nullptr;
    const bool of_retain = products && args.score.penalty_scale == PenaltyScale::product;
    double* lanes = scratch_.lanes.data();
    std::fill_n(lanes, (products ? 3 : 1) * tuning::kSumLanes, 0.0);
    SumPass pass;
    pass.formula = args.score, pass.lanes = lanes, pass.ahead = next_;
    for_blocks(t, chunk.begin, chunk.size, of_retain,
               [&](std::int64_t at, std::int64_t size, const float* grad, const float* retain) {
                 pass.size = size, pass.grad = grad, pass.retain = retain;
                 pass.ahead.size = chunk.begin + chunk.size - at;
                 (products ? kernels_.sum_products : kernels_.sum_squares)(pass);
               });
    Sums sums;
    sums.squares = kernels_.fold(lanes);
    if (products) {
      sums.products = kernels_.fold(lanes + tuning::kSumLanes);
      sums.product_squares = kernels_.fold(lanes + 2 * tuning::kSumLanes);
    }
    return sums;
  }

  /// Grows the scores of `size` elements in place, or into `out` (at most a block), nothing else.
  void score(const StepTensor& t, std::int64_t begin, std::int64_t size, float* out) const {
    ScorePass pass = score_pass(t);
    pass.ahead = next_;
    std::uint16_t* narrow_out = scratch_.narrow.data();
    const std::uint64_t shifted = t.used != nullptr ? t.used[begin >> 6U] >> (begin & 63U) : 0;
    for_blocks(t, begin, size, true,
               [&](std::int64_t at, std::int64_t count, const float* grad, const float* retain) {
                 pass.size = count, pass.grad = grad, pass.retain = retain;
                 pass.ahead.size = begin + size - at;
                 pass.score_in = state_at(t.score, t, at),
                 pass.score_out = state_at(t.score, t, at);
                 if (out != nullptr) pass.score_out = out + (at - begin);
                 if (out != nullptr && compact(t)) pass.score_out = narrow_out;
                 pass.rounding = rounding(t, at);
                 if (t.used == nullptr) {
                   pass.used = nullptr;
                 } else {  // a sample may start inside a word
                   pass.used = (begin & 63U) != 0 ? &shifted : t.used + (at >> 6U);
                 }
                 state_kernels(t).score(pass);
                 if (out != nullptr && compact(t)) {
                   kernels_.widen_bfloat16(narrow_out, out + (at - begin), count);
                 }
               });
  }

  /// Grows the scores of a chunk, sets aside what lies in the brackets, writes the mask bits that
  /// are certain.
  void score_select(const StepTensor& t, const Chunk& chunk, const Pivots& pivots,
                    PivotCounts& counts, Candidates& found) const {
    ScorePass pass = score_pass(t);
    pass.pivots = pivots, pass.counts = &counts, pass.candidates = &found;
    pass.ahead = next_;
    for_blocks(t, chunk.begin, chunk.size, true,
               [&](std::int64_t at, std::int64_t size, const float* grad, const float* retain) {
                 pass.size = size, pass.grad = grad, pass.retain = retain;
                 pass.ahead.size = chunk.begin + chunk.size - at;
                 pass.score_in = state_at(t.score, t, at),
                 pass.score_out = state_at(t.score, t, at);
                 pass.rounding = rounding(t, at);
                 pass.used = t.used != nullptr ? t.used + (at >> 6U) : nullptr;
                 pass.mask = t.mask + (at >> 6U);
                 pass.base = at - chunk.begin;
                 state_kernels(t).score_select(pass);
               });
  }

  /// Reads the scores of a chunk once more, for other brackets.
  void rescan(const StepTensor& t, const Chunk& chunk, const Pivots& pivots, PivotCounts& counts,
              Candidates& found) const {
    ScorePass pass;
    pass.size = pass.ahead.size = chunk.size;
    pass.score_in = state_at(t.score, t, chunk.begin);
    pass.pivots = pivots, pass.counts = &counts, pass.candidates = &found;
    state_kernels(t).rescan(pass);
  }

  using UpdateKernel = std::int64_t (*const (&)[2])(const UpdatePass&);

  /// Updates a chunk by one of StateKernels::update_*; returns how many entries are trained.
  std::int64_t update(const StepTensor& t, const Chunk& chunk, UpdateKernel kernel,
                      bool fused) const {
    std::int64_t num_trained = 0;
    each_update(t, chunk, fused,
                [&](const UpdatePass& pass) { num_trained += kernel[foreign()](pass); });
    return num_trained;
  }

  /// Sets the bits of the candidates that turn out to lie above the threshold.
  static void settle_mask(const StepTensor& t, const Chunk& chunk, const Candidates& found) {
    std::uint64_t* mask = t.mask + (chunk.begin >> 6U);
    for (std::int64_t i = 0; i < found.size; ++i) {
      const std::uint64_t on = found.values[i] > t.threshold ? 1 : 0;
      mask[found.indices[i] >> 6U] |= on << (found.indices[i] & 63U);
    }
  }

  [[nodiscard]] const Kernels& kernels() const { return kernels_; }
  [[nodiscard]] const StateKernels& state_kernels(const StepTensor& t) const {
    return kernels_.of(t.state_type);
  }
  [[nodiscard]] Scratch& scratch() const { return scratch_; }

 private:
  static bool compact(const StepTensor& t) { return t.state_type == DType::bfloat16; }
  /// Element `at` of a moment or a score; null where there is none.
  static void* state_at(void* state, const StepTensor& t, std::int64_t at) {
    if (state == nullptr) return nullptr;
    return static_cast<char*>(state) + at * (compact(t) ? 2 : 4);
  }
  /// The first element of a chunk in an array of `type`.
  static const void* head(const void* array, DType type, const Chunk& chunk) {
    if (array == nullptr) return nullptr;
    return static_cast<const char*>(array) + chunk.begin * (type == DType::float32 ? 4 : 2);
  }
  static Rounding rounding(const StepTensor& t, std::int64_t at) {
    static_assert(kRoundingBlock % tuning::kChunk == 0, "one key a chunk");
    if (!compact(t)) return {};
    return {rounding_key(t.rounding_seed, at), static_cast<std::uint32_t>(at % kRoundingBlock)};
  }
  [[nodiscard]] int foreign() const { return numbers_.args.update == Update::gradient ? 1 : 0; }

  [[nodiscard]] ScoreNumbers numbers_of(const StepTensor& t) const {
    return score_numbers(numbers_.args.score, numbers_.scale, t.used != nullptr, t.deviation);
  }
  [[nodiscard]] ScorePass score_pass(const StepTensor& t) const {
    ScorePass pass;
    pass.numbers = numbers_of(t);
    return pass;
  }

  /// Calls fn(begin, size, grad, retain) on blocks of a span, both in fp32; on the whole span if
  /// they are already.
  template <class Fn>
  void for_blocks(const StepTensor& t, std::int64_t begin, std::int64_t size, bool with_retain,
                  Fn fn) const {
    const bool converts =
        t.type != DType::float32 || (with_retain && t.retain_type != DType::float32);
    const std::int64_t step = converts ? tuning::kBlock : size;
    for (std::int64_t done = 0; done < size; done += step) {
      const std::int64_t count = size - done < step ? size - done : step;
      const std::int64_t at = begin + done;
      const float* grad = widened(t.grad, t.type, at, count, scratch_.grad.data());
      const float* retain = nullptr;
      if (with_retain) {
        retain = widened(t.retain, t.retain_type, at, count, scratch_.retain.data());
      }
      fn(at, count, grad, retain);
    }
  }

  const float* widened(const void* data, DType type, std::int64_t at, std::int64_t size,
                       float* buffer) const {
    if (type == DType::float32) return static_cast<const float*>(data) + at;
    const std::uint16_t* narrow = static_cast<const std::uint16_t*>(data) + at;
    if (type == DType::bfloat16) {
      kernels_.widen_bfloat16(narrow, buffer, size);
    } else {
      kernels_.widen_half(narrow, buffer, size);
    }
    return buffer;
  }

  template <class Fn>
  void each_update(const StepTensor& t, const Chunk& chunk, bool fused, Fn fn) const {
    const bool low = t.type != DType::float32;
    float* weights = low ? t.master : static_cast<float*>(t.param);
    UpdatePass pass;
    pass.numbers = numbers_of(t);
    pass.adamw = t.adamw;
    pass.threshold = flushed(t.threshold);  // a saved one may be denormal
    pass.all_on = !has_threshold(t.size);
    pass.freeze = numbers_.args.masked == Masked::freeze;
    pass.ahead = next_;
    const auto at_or_null = [](auto* p, std::int64_t i) { return p != nullptr ? p + i : nullptr; };
    for_blocks(t, chunk.begin, chunk.size, fused,
               [&](std::int64_t at, std::int64_t size, const float* grad, const float* retain) {
                 pass.size = size, pass.grad = grad, pass.retain = retain;
                 pass.ahead.size = chunk.begin + chunk.size - at;
                 pass.param = at_or_null(weights, at);
                 pass.exp_avg = state_at(t.exp_avg, t, at);
                 pass.exp_avg_sq = state_at(t.exp_avg_sq, t, at);
                 pass.rounding = rounding(t, at);
                 pass.grad_out = at_or_null(t.grad_out, at);
                 pass.score = state_at(t.score, t, at);
                 pass.used = at_or_null(t.used, at >> 6U);
                 pass.mask = at_or_null(t.mask, at >> 6U);
                 fn(pass);
                 if (low && foreign() == 0) round_back(t, at, size);
               });
  }

  void round_back(const StepTensor& t, std::int64_t at, std::int64_t size) const {
    std::uint16_t* narrow = static_cast<std::uint16_t*>(t.param) + at;
    if (t.type == DType::bfloat16) {
      kernels_.round_bfloat16(t.master + at, narrow, size);
    } else {
      kernels_.round_half(t.master + at, narrow, size);
    }
  }

  const FlushDenormals flush_;
  const Kernels& kernels_;
  const StepNumbers& numbers_;
  Scratch& scratch_;
  Ahead next_;
};

}  // namespace alkn::kernel
