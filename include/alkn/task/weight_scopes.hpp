// Scopes in which the model holds other weights than the fine-tuned ones of the running task.
#pragma once

#include <alkn/task/core.hpp>

#include <cstdint>
#include <memory>
#include <utility>

namespace alkn {

/// While it lives, the model holds the weights of the start of the task: for reference logits.
class [[nodiscard]] StartWeights {
 public:
  StartWeights(std::weak_ptr<detail::UnlearnerCore> core, std::int64_t serial)
      : core_(std::move(core)), serial_(serial) {
    if (const auto held = core_.lock()) scope_ = held->swap_start();
  }
  ~StartWeights() {
    const auto held = core_.lock();
    if (!held || !held->runs(serial_)) return;
    if (held->task().num_swaps != scope_) return;  // a later scope is open
    try {
      held->swap_back();
    } catch (...) {  // a destructor may not throw: the next step, end or abandon says so
    }
  }
  StartWeights(const StartWeights&) = delete;
  StartWeights& operator=(const StartWeights&) = delete;

 private:
  std::weak_ptr<detail::UnlearnerCore> core_;
  std::int64_t serial_;
  std::int64_t scope_ = 0;
};

/// While it lives, the model holds the weights that end(lambda) would leave.
class [[nodiscard]] WeightsAt {
 public:
  WeightsAt(std::weak_ptr<detail::UnlearnerCore> core, std::int64_t serial, double lambda)
      : core_(std::move(core)), serial_(serial) {
    if (const auto held = core_.lock()) held->show_lambda(lambda);
  }
  ~WeightsAt() {
    const auto held = core_.lock();
    if (!held || !held->runs(serial_)) return;
    try {
      held->show_tuned();
    } catch (...) {  // likewise: abandon() is left
    }
  }
  WeightsAt(const WeightsAt&) = delete;
  WeightsAt& operator=(const WeightsAt&) = delete;

 private:
  std::weak_ptr<detail::UnlearnerCore> core_;
  std::int64_t serial_;
};

}  // namespace alkn
