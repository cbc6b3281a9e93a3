// What optimizers are compared on: parameters and gradients that LibTorch allocated.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <alkn/kernel/arena.hpp>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "harness.hpp"

namespace alkn_bench {

class Model {
 public:
  /// @param shape a name of shapes()
  explicit Model(const std::string& shape) : subject_{shape, 0, at::get_num_threads()} {
    const at::NoGradGuard no_grad;
    std::int64_t largest = 0;
    for (const auto& size : shapes(shape)) {
      parameters_.push_back(at::randn(size).mul_(0.02).requires_grad_(true));
      parameters_.back().mutable_grad() = at::zeros(size);
      subject_.elements += parameters_.back().numel();
      largest = std::max(largest, parameters_.back().numel());
    }
    noise_ = at::randn({largest + kShifts}).mul_(1e-3);
    next_gradients();
  }

  [[nodiscard]] const std::vector<at::Tensor>& parameters() const { return parameters_; }
  [[nodiscard]] std::int64_t elements() const { return subject_.elements; }
  [[nodiscard]] const Subject& subject() const { return subject_; }

  /// Fresh normal gradients: another stretch of one long array of noise for every parameter.
  void next_gradients() {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& p : parameters_) {
      turn_ = turn_ * 6364136223846793005U + 1442695040888963407U;
      const auto shift = static_cast<std::int64_t>(turn_ >> 33U) % kShifts;
      p.grad().view({-1}).copy_(noise_.narrow(0, shift, p.numel()));
    }
  }

  /// The ceiling of AdamW: reads p, g and two moments, writes p and the moments, and computes
  /// nothing worth mentioning.
  [[nodiscard]] Arm ceiling() {
    if (moments_.empty()) {
      arena_.reserve(static_cast<std::size_t>(subject_.elements) * 8);
      for (const at::Tensor& p : parameters_) {
        float* first = arena_.allocate_array<float>(p.numel());
        moments_.emplace_back(first, arena_.allocate_array<float>(p.numel()));
      }
    }
    return {"ceiling", [this] { sweep(); }, 28, 28, 8};
  }
  /// What can be read from memory: the parameters and the gradients.
  [[nodiscard]] Arm read_ceiling() {
    return {"ceiling of reading", [this] { read(); }, 8, 8, 0};
  }

 private:
  static constexpr std::int64_t kShifts = 1 << 20;
  static constexpr std::int64_t kPart = 65536;

  void sweep() {
    each_part([this](std::size_t t, std::int64_t begin, std::int64_t size) {
      update_sweep(parameters_[t].data_ptr<float>() + begin,
                   parameters_[t].grad().data_ptr<float>() + begin, moments_[t].first + begin,
                   moments_[t].second + begin, size);
    });
  }
  void read() {
    each_part([this](std::size_t t, std::int64_t begin, std::int64_t size) {
      const float sum = read_sweep(parameters_[t].data_ptr<float>() + begin,
                                   parameters_[t].grad().data_ptr<float>() + begin, size);
      if (sum == 1e30F) throw std::logic_error("never: keeps the sum alive");
    });
  }
  template <class Fn>
  void each_part(Fn fn) {
    for (std::size_t t = 0; t < parameters_.size(); ++t) {
      at::parallel_for(0, parameters_[t].numel(), kPart,
                       [&](std::int64_t begin, std::int64_t end) { fn(t, begin, end - begin); });
    }
  }

  Subject subject_;
  std::vector<at::Tensor> parameters_;
  at::Tensor noise_;
  std::vector<std::pair<float*, float*>> moments_;
  alkn::kernel::Arena arena_;
  std::uint64_t turn_ = 1;
};

}  // namespace alkn_bench
