// The part of a step that CUDA devices take: one enqueue and one report for all of them.
#pragma once

#include <c10/util/Exception.h>
#include <alkn/kernel/step.hpp>
#include <alkn/step/choose.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/cuda_table.hpp>

#include <cstdint>
#include <vector>

namespace alkn::detail {

/// What the CUDA kernels keep from step to step, on each device that has parameters.
class CudaState {
 public:
  CudaState() = default;
  CudaState(const CudaState&) = delete;
  CudaState& operator=(const CudaState&) = delete;
  ~CudaState() {
    for (const OnDevice& on : devices_) on.table->destroy(on.state);
  }

  /// One step; waits for nothing, see CudaTable. Returns whether there are results to be reported.
  bool enqueue(const std::vector<StepSlot>& slots, const kernel::StepTensor* tensors,
               const kernel::StepArgs& args, StepMode mode) {
    split(slots, tensors);
    TORCH_CHECK(mode == StepMode::run || active_.size() <= 1,
                "alkn::StepRunner: expected parameters on one device for a step of a CUDA graph, "
                "got some on ",
                active_.size());
    const bool results = has_results(args) && mode != StepMode::capture;
    if (results && active_.size() > 1) {
      enqueue_together(args);
    } else {
      for (const OnDevice* on : active_) {
        const auto part = mode == StepMode::run       ? on->table->enqueue
                          : mode == StepMode::capture ? on->table->capture
                                                      : on->table->prepare;
        part(on->state, on->tensors.data(), on->size(), args);
      }
    }
    if (!results) active_.clear();
    to_fetch_ = mode == StepMode::prepare;
    if (!to_fetch_) fetch();
    return !active_.empty();
  }
  /// Waits for the results of the last step.
  kernel::StepResult report(kernel::StepTensor* tensors) {
    if (to_fetch_) fetch();  // the replay is enqueued by now
    to_fetch_ = false;
    kernel::StepResult result;
    for (OnDevice* on : active_) {
      result = on->table->report(on->state, on->tensors.data(), on->size());
      for (std::size_t i = 0; i < on->tensors.size(); ++i) tensors[on->places[i]] = on->tensors[i];
    }
    return result;
  }

 private:
  struct OnDevice {
    int device;
    const CudaTable* table;
    void* state;
    std::vector<kernel::StepTensor> tensors;  ///< of the step
    std::vector<std::size_t> places;          ///< of them in the step's list
    [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(tensors.size()); }
  };

  /// The part of the step that each device has.
  void split(const std::vector<StepSlot>& slots, const kernel::StepTensor* tensors) {
    for (OnDevice& on : devices_) on.tensors.clear(), on.places.clear();
    for (std::size_t i = 0; i < slots.size(); ++i) {
      OnDevice& on = at(slots[i].param->device().index());
      on.tensors.push_back(tensors[i]);
      on.places.push_back(i);
    }
    active_.clear();
    for (OnDevice& on : devices_) {
      if (!on.tensors.empty()) active_.push_back(&on);
    }
  }

  /// A step with results on several devices: their norm is one, and so is the decision to skip.
  void enqueue_together(const kernel::StepArgs& args) {
    std::vector<void*> states;
    std::vector<const kernel::StepTensor*> tensors;
    std::vector<std::int64_t> counts;
    for (const OnDevice* on : active_) {
      TORCH_CHECK(on->table == active_[0]->table,
                  "alkn::StepRunner: expected one library's kernels on all devices of a step, got "
                  "those of several");
      states.push_back(on->state);
      tensors.push_back(on->tensors.data());
      counts.push_back(on->size());
    }
    active_[0]->table->enqueue_together(states.data(), tensors.data(), counts.data(),
                                        static_cast<int>(states.size()), args);
  }
  void fetch() {
    for (const OnDevice* on : active_) on->table->fetch(on->state);
  }

  /// Whether the host has to know what came of the step: it may have been skipped, or has counts.
  static bool has_results(const kernel::StepArgs& args) {
    return args.check_finite || args.max_norm > 0 || args.mask == kernel::MaskKind::localized;
  }
  OnDevice& at(int device) {
    for (OnDevice& on : devices_) {
      if (on.device == device) return on;
    }
    const CudaTable& table = need_cuda_table(device, "StepRunner", "");
    devices_.push_back({device, &table, table.create(device), {}, {}});
    return devices_.back();
  }
  std::vector<OnDevice> devices_;
  std::vector<OnDevice*> active_;  ///< those of the step; after it, those that have results
  bool to_fetch_ = false;
};

}  // namespace alkn::detail
