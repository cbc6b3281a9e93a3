// The step of ALKN as a sequence of plain LibTorch operations, the way that Python code runs it:
// clip_grad_norm_, two topk a tensor, boolean masks, an eager AdamW. What the fused step is
// compared with.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/topk.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace alkn_bench {

class PlainOperations {
 public:
  /// @param retain gradient of the retain loss, @param used the union mask of earlier tasks (bool),
  /// empty in the first
  PlainOperations(std::vector<at::Tensor> parameters, std::vector<at::Tensor> retain,
                  std::vector<at::Tensor> used)
      : parameters_(std::move(parameters)), retain_(std::move(retain)), used_(std::move(used)) {
    for (const at::Tensor& p : parameters_) {
      const at::Tensor zero = at::zeros_like(p.detach());
      score_.push_back(zero.clone());
      exp_avg_.push_back(zero.clone());
      exp_avg_sq_.push_back(zero);
      threshold_.push_back(0);
    }
  }

  void step() {
    const at::NoGradGuard no_grad;
    ++step_;
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& p : parameters_) gradients.push_back(p.grad().clone());
    clip(gradients);
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor product = gradients[i] * retain_[i];
      score_[i] = score_[i] + product;
      if (used_.empty()) {
        threshold_[i] = interpolate(score_[i]);
      } else {
        score_[i] = score_[i] - product.std() * 0.5 * used_[i].to(at::kFloat);
      }
      const at::Tensor mask = score_[i] > threshold_[i];
      adamw(i, gradients[i] * mask.to(at::kFloat));
    }
  }

 private:
  static void clip(std::vector<at::Tensor>& gradients) {
    double squares = 0;
    for (const at::Tensor& g : gradients) squares += std::pow(g.norm().item<double>(), 2);
    const double scale = std::min(1.0, 1.0 / (std::sqrt(squares) + 1e-6));
    for (at::Tensor& g : gradients) g.mul_(scale);
  }

  static double interpolate(const at::Tensor& score) {
    const std::int64_t n = score.numel();
    if (n < 10) return -std::numeric_limits<double>::infinity();
    const at::Tensor flat = score.reshape({-1});
    const std::int64_t k =
        std::max<std::int64_t>(5, static_cast<std::int64_t>(0.15 * static_cast<double>(n)));
    const double high = std::get<0>(at::topk(flat, k)).min().item<double>();
    const double low = std::get<0>(at::topk(flat, k, -1, false)).max().item<double>();
    const double share =
        (0.8 * static_cast<double>(n - k) + 1) / static_cast<double>(n - 2 * k + 2);
    return high - (high - low) * share;
  }

  void adamw(std::size_t i, const at::Tensor& g) {
    exp_avg_[i].mul_(0.9).add_(g, 0.1);
    exp_avg_sq_[i].mul_(0.999).addcmul_(g, g, 0.001);
    parameters_[i].mul_(1 - 1e-5 * 0.01);
    const at::Tensor denominator =
        (exp_avg_sq_[i].sqrt() / std::sqrt(1 - std::pow(0.999, step_))).add_(1e-8);
    parameters_[i].addcdiv_(exp_avg_[i], denominator, -1e-5 / (1 - std::pow(0.9, step_)));
  }

  std::vector<at::Tensor> parameters_, retain_, used_, score_, exp_avg_, exp_avg_sq_;
  std::vector<double> threshold_;
  std::int64_t step_ = 0;
};

}  // namespace alkn_bench
