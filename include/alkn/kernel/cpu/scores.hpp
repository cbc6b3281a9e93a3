// The scores of a tensor while thresholds are learned, and what the passes of such a step share.
#pragma once

#include <cstdint>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/scratch.hpp>
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/select/predict.hpp>
#include <alkn/kernel/select/radix.hpp>
#include <alkn/kernel/simd/kernels.hpp>
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
  std::int64_t* trained;  ///< out, entries a chunk
};

inline bool learns(const StepTensor& t) { return t.learns_threshold && has_threshold(t.size); }

inline ThresholdRule threshold_rule(const StepTensor& t, const StepArgs& args) {
  return {t.size, args.unmask_ratio, args.trim_ratio};
}

/// Calls fn with the scores, fp32 or bfloat16, as something to index.
template <class Fn>
void with_scores(const StepTensor& t, Fn fn) {
  if (t.state_type == DType::bfloat16) {
    fn(Bfloat16Values{static_cast<const std::uint16_t*>(t.score)});
  } else {
    fn(static_cast<const float*>(t.score));
  }
}
inline float score_of(const StepTensor& t, std::int64_t i) {
  float value = 0;
  with_scores(t, [&](auto scores) { value = scores[i]; });
  return value;
}

}  // namespace alkn::kernel
