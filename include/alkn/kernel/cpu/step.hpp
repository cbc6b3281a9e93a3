// The whole step on the CPU: norm, score, threshold, mask, AdamW, low-precision copy. No LibTorch
// in here.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cpu/history.hpp>
#include <alkn/kernel/cpu/scratch.hpp>
#include <alkn/kernel/cpu/threshold.hpp>
#include <alkn/kernel/cpu/worker.hpp>
#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/simd/dispatch.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/kernel/step_check.hpp>

namespace alkn::kernel {

/// Takes steps over a list of tensors, reusable from step to step. What it keeps between steps (the
/// list of chunks, predictions of the thresholds, scratch) changes the speed and never the result.
///
/// Determinism: the same bits for any number of threads and any instruction set.
/// Cost: the bytes of "The step" in docs; a step with the sizes of the last one allocates nothing.
class CpuStep {
 public:
  /// Forgets the predictions: call it when scores start from zero, at the start of a task.
  void reset() { thresholds_.reset(); }

  /// How the predictions of the thresholds have fared since then.
  [[nodiscard]] PredictionCounts predictions() const { return thresholds_.predictions(); }

  /// One step. Overlapping tensors are the caller's mistake.
  /// @param tensors in and out, see StepTensor
  /// @returns the norm, and whether the step was skipped because it was not finite (nothing is
  /// written then)
  /// @throws std::invalid_argument if a pointer is missing that the step needs; nothing is written
  /// then
  StepResult run(StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                 const ParallelFor& parallel) {
    check_step("CpuStep", tensors, num_tensors, args);
    chunks_.assign(tensors, num_tensors);
    sums_.resize(
        static_cast<std::size_t>(chunks_.size()));  // whatever an earlier call without memory left
    trained_.resize(static_cast<std::size_t>(chunks_.size()));
    if (args.all != nullptr) squares_.reserve(sums_.size());
    pool_.reserve(parallel.num_threads(), 0);
    const StepRun run{tensors, num_tensors, chunks_,        kernel::kernels(),
                      pool_,   parallel,    trained_.data()};

    StepNumbers numbers{args, 1};
    const StepResult result = reduce(run, numbers);
    if (result.skipped) return result;
    numbers.scale = flushed_float(result.clip_scale);
    for (std::int64_t t = 0; t < num_tensors; ++t)
      tensors[t].deviation = deviation(t, tensors[t], numbers);

    if (args.mask == MaskKind::localized && args.threshold_due) {
      thresholds_.run(run, numbers);
    } else {
      update(run, numbers);
    }
    if (args.mask == MaskKind::localized) count_trained(tensors, num_tensors);
    return result;
  }

 private:
  /// Sums of every chunk, added in chunk order: the norm and the clip scale.
  StepResult reduce(const StepRun& run, const StepNumbers& numbers) {
    if (!needs_sums(run.tensors, run.num_tensors, numbers.args)) return {};
    run.parallel(chunks_.size(), [&](std::int64_t begin, std::int64_t end) {
      const ScratchPool::Lease scratch(pool_);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = begin; c < end; ++c) {
        const Chunk& chunk = chunks_[c];
        worker.then_sum(run.tensors, c + 1 < end ? &chunks_[c + 1] : nullptr);
        sums_[static_cast<std::size_t>(c)] = worker.sum(run.tensors[chunk.tensor], chunk);
      }
    });
    double squares = 0;
    if (numbers.args.all != nullptr) {
      squares_.clear();
      for (const Sums& sums : sums_) squares_.push_back(sums.squares);
      squares = numbers.args.all->of_all(squares_.data(), chunks_.size());
    } else {
      for (const Sums& sums : sums_) squares += sums.squares;
    }
    StepResult result;
    result.grad_norm = std::sqrt(squares);
    result.skipped = !std::isfinite(result.grad_norm);
    if (!result.skipped) result.clip_scale = clip_scale(result.grad_norm, numbers.args.max_norm);
    return result;
  }

  /// mu of this step: the sums were taken before clipping, which only scales.
  [[nodiscard]] float deviation(std::int64_t tensor, const StepTensor& t,
                                const StepNumbers& numbers) const {
    if (numbers.args.mask != MaskKind::localized || t.used == nullptr) return 0;
    double sum = 0, squares = 0;
    for (std::int64_t c = chunks_.first(tensor); c < chunks_.first(tensor + 1); ++c) {
      sum += sums_[static_cast<std::size_t>(c)].products;
      squares += sums_[static_cast<std::size_t>(c)].product_squares;
    }
    return flushed_float(static_cast<double>(numbers.scale) *
                         unbiased_deviation(sum, squares, t.size));
  }

  /// The last pass where no threshold is due; where there is a score, it grows in the same pass.
  void update(const StepRun& run, const StepNumbers& numbers) {
    run.parallel(chunks_.size(), [&](std::int64_t begin, std::int64_t end) {
      const ScratchPool::Lease scratch(pool_);
      CpuWorker worker(run.kernels, numbers, *scratch);
      for (std::int64_t c = end - 1; c >= begin;
           --c) {  // backwards: the norm has left the end in the cache
        const Chunk& chunk = chunks_[c];
        const StepTensor& t = run.tensors[chunk.tensor];
        worker.then_update(run.tensors, c > begin ? &chunks_[c - 1] : nullptr);
        if (numbers.args.mask == MaskKind::none) {
          worker.update(t, chunk, worker.state_kernels(t).update_all, false);
        } else if (numbers.args.mask == MaskKind::given) {
          worker.update(t, chunk, worker.state_kernels(t).update_bits, false);
        } else {
          run.trained[c] = worker.update(t, chunk, worker.state_kernels(t).update_fused, true);
        }
      }
    });
  }

  void count_trained(StepTensor* tensors, std::int64_t num_tensors) const {
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      tensors[t].num_trained = 0;
      for (std::int64_t c = chunks_.first(t); c < chunks_.first(t + 1); ++c) {
        tensors[t].num_trained += trained_[static_cast<std::size_t>(c)];
      }
    }
  }

  ChunkList chunks_;
  std::vector<Sums> sums_;             // per chunk
  std::vector<double> squares_;        // per chunk, where the tensors are a share
  std::vector<std::int64_t> trained_;  // per chunk
  ScratchPool pool_;
  CpuThresholds thresholds_;
};

}  // namespace alkn::kernel
