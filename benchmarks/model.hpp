// What optimizers are compared on: parameters and gradients that LibTorch allocated.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <alkn/kernel/cpu/arena.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ceilings.hpp"
#include "gradients.hpp"
#include "harness.hpp"

namespace alkn_bench {

class Model {
 public:
  /// @param shape a name of shapes()
  explicit Model(const std::string& shape)
      : Model(shape, std::make_shared<NormalGradients>(1e-3)) {}
  Model(const std::string& shape, std::shared_ptr<const GradientSource> source)
      : subject_{shape, 0, at::get_num_threads()}, source_(std::move(source)) {
    const at::NoGradGuard no_grad;
    for (const auto& size : shapes(shape)) {
      parameters_.push_back(at::randn(size).mul_(0.02).requires_grad_(true));
      parameters_.back().mutable_grad() = at::zeros(size);
      kinds_.push_back(kind_of(size));
      subject_.elements += parameters_.back().numel();
    }
    next_gradients();
  }

  [[nodiscard]] const std::vector<at::Tensor>& parameters() const { return parameters_; }
  [[nodiscard]] std::int64_t elements() const { return subject_.elements; }
  [[nodiscard]] const Subject& subject() const { return subject_; }

  /// Fresh gradients, those of a step of a task at `progress` (0 to 1).
  void next_gradients(double progress = 0) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      turn_ = turn_ * 6364136223846793005U + 1442695040888963407U;
      source_->gradient(kinds_[i], turn_ >> 33U, progress, parameters_[i].grad().data_ptr<float>(),
                        parameters_[i].numel());
    }
  }
  /// The retain gradient of every parameter.
  [[nodiscard]] std::vector<at::Tensor> retain_gradients() const {
    std::vector<at::Tensor> all;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      all.push_back(at::empty(parameters_[i].sizes()));
      source_->retain(kinds_[i], all.back().data_ptr<float>(), all.back().numel());
    }
    return all;
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
  std::vector<std::string> kinds_;
  std::shared_ptr<const GradientSource> source_;
  std::vector<std::pair<float*, float*>> moments_;
  alkn::kernel::Arena arena_;
  std::uint64_t turn_ = 1;
};

}  // namespace alkn_bench
