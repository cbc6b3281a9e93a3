// Linear warm-up, then linear decay to zero: the schedule of the paper's experiments.
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/optim/schedulers/lr_scheduler.h>
#include <alkn/option.hpp>

#include <cstdint>
#include <vector>

namespace alkn {

/// Learning rate of step i (0-based) of `total` with `warmup` warm-up steps: base * i / warmup
/// while i < warmup, then base * (total - i) / (total - warmup), 0 from `total` on. The first
/// step's rate is set at construction, so that with a warm-up the first step moves nothing, as in
/// the paper's code. Call `step()` after each optimizer step. One scheduler a task, made after
/// begin_task.
class LinearSchedule : public torch::optim::LRScheduler {
 public:
  /// @param warmup [0, total], @param total at least 1; throws c10::ValueError
  LinearSchedule(torch::optim::Optimizer& optimizer, std::int64_t warmup, std::int64_t total)
      : LRScheduler(optimizer), warmup_(warmup), total_(total) {
    TORCH_CHECK_VALUE(total >= 1, "alkn::LinearSchedule: expected total in [1, inf), got ", total);
    TORCH_CHECK_VALUE(warmup >= 0 && warmup <= total,
                      "alkn::LinearSchedule: expected warmup in [0, ", total, "], got ", warmup);
    base_ = get_current_lrs();
    for (std::size_t g = 0; g < base_.size(); ++g) {
      optimizer.param_groups()[g].options().set_lr(base_[g] * factor(0));
    }
  }

  /// The share of the base learning rate that step `index` (0-based) takes.
  [[nodiscard]] double factor(std::int64_t index) const {
    if (index < warmup_) return static_cast<double>(index) / static_cast<double>(warmup_);
    if (index >= total_) return 0;
    return static_cast<double>(total_ - index) / static_cast<double>(total_ - warmup_);
  }

 private:
  std::vector<double> get_lrs() override {
    // LRScheduler::step() asks before it counts: step_count_ is the step just taken
    std::vector<double> rates = base_;
    for (double& rate : rates) rate *= factor(static_cast<std::int64_t>(step_count_) + 1);
    return rates;
  }

  std::int64_t warmup_, total_;
  std::vector<double> base_;
};

}  // namespace alkn
