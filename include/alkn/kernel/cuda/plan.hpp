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

/// What a step asks of the device that the last one did not.
struct PlanChange {
  bool chunks = false;  ///< there is another list of chunks
  bool sizes = false;   ///< an array has to grow
};

/// Which kernels a step launches, or a captured graph has.
struct Kernels {
  MaskKind mask = MaskKind::none;
  Update update = Update::adamw;
  bool selects = false;  ///< thresholds may be learned, by eight kernels in place of two

  /// Whether these can take a step that launches `other`: without thresholds to be learned the six
  /// in the middle find nothing to do.
  [[nodiscard]] bool take(const Kernels& other) const {
    return mask == other.mask && update == other.update && (selects || !other.selects);
  }
};

/// What a captured step needs to go on by itself when it is replayed.
struct Replay {
  const AdamWSchedule* tensors = nullptr;  ///< [num_tensors]
  StepSchedule step;
};

/// Describes steps over a list of tensors. Allocates nothing where sizes are those of earlier
/// steps, and asks for no larger array where thresholds are due again.
class Plan {
 public:
  /// Takes the step's arguments.
  /// @param replay of a step that is captured in a graph, else null
  /// @throws std::invalid_argument if a pointer is missing that the step needs, and for a capture
  /// without schedules; nothing has changed then
  PlanChange assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                    const Replay* replay = nullptr) {
    for (std::int64_t t = 0; t < num_tensors; ++t) check(tensors[t], args, t);
    check_replay(args, replay);
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
    share(0, 1);
    header_.follows = replay != nullptr;
    header_.schedule = replay != nullptr ? replay->step : StepSchedule();
    used_ = {num_tensors, list_.size(), 0, 0};
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      Tensor& tensor = tensors_[static_cast<std::size_t>(t)];
      fill(tensor, tensors[t], t);
      if (replay != nullptr && replay->tensors != nullptr) tensor.schedule = replay->tensors[t];
    }
    change.sizes = grow(sizes_.num_tensors, used_.num_tensors);
    change.sizes = grow(sizes_.num_chunks, used_.num_chunks) || change.sizes;
    change.sizes = grow(sizes_.num_candidates, used_.num_candidates) || change.sizes;
    change.sizes = grow(sizes_.num_histograms, used_.num_histograms) || change.sizes;
    return change;
  }

  /// The step that was assigned is a part of one on several devices.
  void share(int device, int num_devices) {
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
  /// Those of a graph that takes this step and the others of its task.
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
    if (t.state_type == DType::float16) {
      throw std::invalid_argument(
          "alkn::kernel::CudaStep: expected a state of float32 or bfloat16, got float16 (tensor " +
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

  static void check_replay(const StepArgs& args, const Replay* replay) {
    if (replay == nullptr) return;
    if (args.update == Update::adamw && replay->tensors == nullptr) {
      throw std::invalid_argument(
          "alkn::kernel::CudaStep: expected AdamW's schedules for a step that is captured, got "
          "none");
    }
    if (replay->step.threshold_every < 1 || replay->step.announced < 0 || replay->step.done < 0) {
      throw std::invalid_argument(
          "alkn::kernel::CudaStep: expected threshold_every >= 1, announced >= 0 and done >= 0 of "
          "a step that is captured, got " +
          std::to_string(replay->step.threshold_every) + ", " +
          std::to_string(replay->step.announced) + " and " + std::to_string(replay->step.done));
    }
  }

  static bool grow(std::int64_t& size, std::int64_t wanted) {
    if (wanted <= size) return false;
    size = wanted;
    return true;
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

  void fill(Tensor& tensor, const StepTensor& t, std::int64_t index) {
    tensor.t = t;
    tensor.first_chunk = list_.first(index);
    tensor.num_chunks = list_.count(index);
    tensor.way = Way::given;
    const StepArgs& args = header_.args;
    const bool learns = args.mask == MaskKind::localized && args.threshold_due &&
                        t.learns_threshold && t.size >= tuning::kMinLocalized;
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
