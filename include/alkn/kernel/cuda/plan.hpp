// The host's part of a CUDA step, without CUDA: what goes into device memory, and how much of it
// there must be.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <alkn/kernel/chunks.hpp>
#include <alkn/kernel/cuda/table.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {

/// The arrays that the kernels keep, in elements.
struct WorkSizes {
  std::int64_t num_tensors = 0, num_chunks = 0, num_candidates = 0, num_histograms = 0;
};

/// Describes steps over a list of tensors. Allocates nothing where sizes and ways are those of the
/// last step.
class Plan {
 public:
  /// Takes the step's arguments.
  /// @returns whether the list of chunks or the size of any array changed
  /// @throws std::invalid_argument if a pointer is missing that the step needs; nothing has changed
  /// then
  bool assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    for (std::int64_t t = 0; t < num_tensors; ++t) check(tensors[t], args, t);
    const bool changed = list_.assign(tensors, num_tensors);
    if (changed) list_chunks();
    const WorkSizes before = sizes_;
    header_.args = args;
    header_.num_tensors = num_tensors;
    header_.num_chunks = list_.size();
    header_.sums = needs_sums(tensors, num_tensors, args);
    sizes_ = {num_tensors, list_.size(), 0, 0};
    tensors_.resize(static_cast<std::size_t>(num_tensors));
    for (std::int64_t t = 0; t < num_tensors; ++t)
      fill(tensors_[static_cast<std::size_t>(t)], tensors[t], t);
    return changed || before.num_candidates != sizes_.num_candidates ||
           before.num_histograms != sizes_.num_histograms || before.num_tensors != num_tensors;
  }

  [[nodiscard]] const Header& header() const { return header_; }
  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[nodiscard]] const std::vector<Chunk>& chunks() const { return chunks_; }
  [[nodiscard]] const WorkSizes& sizes() const { return sizes_; }
  /// Whether thresholds are learned in this step, by eight kernels in place of two.
  [[nodiscard]] bool selects() const {
    for (const Tensor& tensor : tensors_) {
      if (tensor.way != Way::given) return true;
    }
    return false;
  }

 private:
  static void check(const StepTensor& t, const StepArgs& args, std::int64_t index) {
    const auto need = [&](bool there, const char* what) {
      if (there) return;
      throw std::invalid_argument(std::string("alkn::kernel::CudaStep: expected ") + what +
                                  ", got null (tensor " + std::to_string(index) + ")");
    };
    if (t.size < 0) {
      throw std::invalid_argument("alkn::kernel::CudaStep: expected a size of at least 0, got " +
                                  std::to_string(t.size) + " (tensor " + std::to_string(index) +
                                  ")");
    }
    if (t.size == 0) return;
    if (t.state_type != DType::float32) {
      throw std::invalid_argument(
          "alkn::kernel::CudaStep: expected a state of float32, got the compact one (tensor " +
          std::to_string(index) + ")");
    }
    need(t.grad != nullptr, "a gradient");
    if (args.update == Update::adamw) {
      need(t.param != nullptr, "a parameter");
      need(t.type == DType::float32 || t.master != nullptr, "fp32 masters of a 16-bit parameter");
      need(t.exp_avg != nullptr && t.exp_avg_sq != nullptr, "two moments");
    } else {
      need(t.grad_out != nullptr, "grad_out");
    }
    if (args.mask != MaskKind::none) need(t.mask != nullptr, "a mask");
    if (args.mask == MaskKind::localized) {
      need(t.retain != nullptr, "a retain gradient");
      need(t.score != nullptr, "a score");
    }
  }

  static bool needs_sums(const StepTensor* tensors, std::int64_t num_tensors,
                         const StepArgs& args) {
    if (args.check_finite || args.max_norm > 0) return true;
    return args.mask == MaskKind::localized &&
           std::any_of(tensors, tensors + num_tensors,
                       [](const StepTensor& t) { return t.used != nullptr; });
  }

  void list_chunks() {
    chunks_.resize(static_cast<std::size_t>(list_.size()));
    for (std::int64_t c = 0; c < list_.size(); ++c) {
      chunks_[static_cast<std::size_t>(c)] = {list_[c].tensor, list_[c].begin, list_[c].size};
    }
  }

  /// Whether four elements can be loaded and stored at once from each array of the step.
  static bool aligned(const StepTensor& t) {
    const auto fits = [](const void* p, DType type) {
      const std::uintptr_t bytes = type == DType::float32 ? 16 : 8;
      return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
    };
    constexpr DType kFloat = DType::float32;
    return fits(t.param, t.type) && fits(t.grad, t.type) && fits(t.retain, t.retain_type) &&
           fits(t.master, kFloat) && fits(t.grad_out, kFloat) && fits(t.exp_avg, kFloat) &&
           fits(t.exp_avg_sq, kFloat) && fits(t.score, kFloat);
  }

  void fill(Tensor& tensor, const StepTensor& t, std::int64_t index) {
    tensor.t = t;
    tensor.aligned = aligned(t);
    tensor.first_chunk = list_.first(index);
    tensor.num_chunks = list_.count(index);
    tensor.way = Way::given;
    const StepArgs& args = header_.args;
    const bool learns = args.mask == MaskKind::localized && args.threshold_due &&
                        t.learns_threshold && t.size >= tuning::kMinLocalized;
    if (learns) tensor.way = t.size <= tuning::kSample ? Way::direct : Way::bracketed;
    if (tensor.way != Way::bracketed) return;
    tensor.capacity = t.size / tuning::kCandidatePart + tuning::kCandidateMin;
    tensor.candidates = sizes_.num_candidates;
    tensor.histogram = sizes_.num_histograms;
    sizes_.num_candidates += 2 * tensor.capacity;
    sizes_.num_histograms += 1;
  }

  ChunkList list_;
  Header header_;
  std::vector<Tensor> tensors_;
  std::vector<Chunk> chunks_;
  WorkSizes sizes_;
};

}  // namespace alkn::kernel::cuda
