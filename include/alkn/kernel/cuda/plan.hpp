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
#include <alkn/kernel/math.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/kernel/step_check.hpp>

namespace alkn::kernel::cuda {

/// The arrays that the kernels keep, in elements.
struct WorkSizes {
  std::int64_t num_tensors = 0, num_chunks = 0, num_candidates = 0, num_histograms = 0;
};

/// What the device needs for this step and did not for the last one.
struct PlanChange {
  bool chunks = false;  ///< there is another list of chunks
  bool sizes = false;   ///< an array has to grow
};

/// Which kernels a step launches, or a captured graph has.
struct Kernels {
  MaskKind mask = MaskKind::none;
  Update update = Update::adamw;
  bool selects = false;  ///< thresholds may be learned, by eight kernels in place of two

  /// Whether these can take a step that launches `other`; the six kernels in the middle find
  /// nothing to do where no threshold is learned.
  [[nodiscard]] bool take(const Kernels& other) const {
    return mask == other.mask && update == other.update && (selects || !other.selects);
  }
};

/// Describes steps over a list of tensors. Allocates nothing where sizes are those of earlier
/// steps, and asks for no larger array where thresholds are due again.
class Plan {
 public:
  /// Takes the step's arguments.
  /// @throws std::invalid_argument if a pointer is missing that the step needs; nothing has changed
  /// then
  PlanChange assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    check_step("CudaStep", tensors, num_tensors, args);
    PlanChange change;
    try {  // what it allocates
      tensors_.resize(static_cast<std::size_t>(num_tensors));
      change.chunks = list_.assign(tensors, num_tensors);
      if (change.chunks) list_chunks();
    } catch (...) {
      list_.clear();
      throw;
    }
    header_.args = args;
    header_.num_tensors = num_tensors;
    header_.num_chunks = list_.size();
    header_.sums = needs_sums(tensors, num_tensors, args);
    header_.waits = false, header_.device = 0, header_.num_devices = 1;
    used_ = {num_tensors, list_.size(), 0, 0};
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      fill(tensors_[static_cast<std::size_t>(t)], tensors[t], t);
    }
    change.sizes = grow(sizes_.num_tensors, used_.num_tensors);
    change.sizes = grow(sizes_.num_chunks, used_.num_chunks) || change.sizes;
    change.sizes = grow(sizes_.num_candidates, used_.num_candidates) || change.sizes;
    change.sizes = grow(sizes_.num_histograms, used_.num_histograms) || change.sizes;
    return change;
  }

  /// The step that was assigned is a part of one on several devices, or processes.
  void share(int device, int num_devices) {
    header_.waits = true;
    header_.device = device;
    header_.num_devices = num_devices;
  }

  [[nodiscard]] const Header& header() const { return header_; }
  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[nodiscard]] const std::vector<Chunk>& chunks() const { return chunks_; }
  /// The largest that any step has asked for.
  [[nodiscard]] const WorkSizes& sizes() const { return sizes_; }
  /// Whether thresholds may be learned in this step.
  [[nodiscard]] bool selects() const {
    return std::any_of(tensors_.begin(), tensors_.end(),
                       [](const Tensor& tensor) { return tensor.way != Way::given; });
  }
  [[nodiscard]] Kernels kernels() const {
    return {header_.args.mask, header_.args.update, selects()};
  }
  /// The kernels of a graph that can take every step of this task.
  [[nodiscard]] Kernels all_kernels() const {
    return {header_.args.mask, header_.args.update, header_.args.mask == MaskKind::localized};
  }
  /// @throws std::runtime_error unless a captured graph with these kernels takes the step
  void check_prepared(const Kernels* captured, bool stale_sizes) const {
    if (captured != nullptr && !stale_sizes && captured->take(kernels())) return;
    throw std::runtime_error(
        "alkn::kernel::CudaStep: expected a captured step of the same tensors and kind to be "
        "prepared, got none");
  }

 private:
  static bool grow(std::int64_t& size, std::int64_t wanted) {
    if (wanted <= size) return false;
    size = wanted;
    return true;
  }

  void list_chunks() {
    chunks_.resize(static_cast<std::size_t>(list_.size()));
    for (std::int64_t c = 0; c < list_.size(); ++c) {
      chunks_[static_cast<std::size_t>(c)] = {list_[c].tensor, list_[c].begin, list_[c].size};
    }
  }

  void fill(Tensor& tensor, const StepTensor& t, std::int64_t index) {
    tensor.t = t;
    tensor.first_chunk = list_.first(index);
    tensor.num_chunks = list_.count(index);
    tensor.way = Way::given;
    const StepArgs& args = header_.args;
    const bool learns = args.mask == MaskKind::localized && args.threshold_due &&
                        t.learns_threshold && has_threshold(t.size);
    if (learns) tensor.way = t.size <= tuning::kSample ? Way::direct : Way::bracketed;
    if (tensor.way != Way::bracketed) return;
    tensor.capacity = t.size / tuning::kCandidatePart + tuning::kCandidateMin;
    tensor.candidates = used_.num_candidates;
    tensor.histogram = used_.num_histograms;
    used_.num_candidates += 2 * tensor.capacity;
    used_.num_histograms += 1;
  }

  ChunkList list_;
  Header header_;
  std::vector<Tensor> tensors_;
  std::vector<Chunk> chunks_;
  WorkSizes sizes_, used_;
};

}  // namespace alkn::kernel::cuda
