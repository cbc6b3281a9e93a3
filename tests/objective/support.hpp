// The inputs of spec/objectives.md and small helpers of the objective tests.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <unordered_map>

namespace support {

using at::Tensor;

/// z(a, b, c)[i, t, v] = 2 sin(a + 1.7 i + 0.9 t + 0.53 v) + b cos(0.31 v (t + 1) + c i), [2, 5, 6]
/// double.
inline Tensor z(double a, double b, double c) {
  Tensor x = at::empty({2, 5, 6}, at::kDouble);
  double* out = x.mutable_data_ptr<double>();
  for (int i = 0; i < 2; ++i) {
    for (int t = 0; t < 5; ++t) {
      for (int v = 0; v < 6; ++v) {
        *out++ = 2 * std::sin(a + 1.7 * i + 0.9 * t + 0.53 * v) +
                 b * std::cos(0.31 * v * (t + 1) + c * i);
      }
    }
  }
  return x;
}

inline Tensor labels(std::initializer_list<std::int64_t> values, std::int64_t num_samples = 2) {
  return at::tensor(at::ArrayRef<std::int64_t>(values), at::kLong).view({num_samples, -1});
}

inline Tensor forget_logits() { return z(.1, .7, .4); }
inline Tensor forget_reference() { return z(.6, .5, .9); }
inline Tensor forget_labels() { return labels({-100, -100, 3, 1, 5, -100, 2, 0, 4, -100}); }
inline Tensor retain_logits() { return z(1.3, .6, .2); }
inline Tensor retain_labels() { return labels({-100, 1, 2, 5, -100, -100, -100, 4, 0, 3}); }

/// Pseudo-random doubles in [-scale, scale), the same on every machine.
inline Tensor noise(at::IntArrayRef sizes, double scale, std::uint64_t seed) {
  Tensor x = at::empty(sizes, at::kDouble);
  double* out = x.mutable_data_ptr<double>();
  std::uint64_t state = seed * 2654435769U + 1;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    out[i] = scale * (static_cast<double>(state >> 33U) / 1073741824.0 - 1);
  }
  return x;
}

/// Labels in [0, vocabulary), every third -100.
inline Tensor some_labels(std::int64_t b, std::int64_t t, std::int64_t vocabulary) {
  Tensor x = at::empty({b, t}, at::kLong);
  for (std::int64_t i = 0; i < b * t; ++i) {
    x.mutable_data_ptr<std::int64_t>()[i] = i % 3 == 1 ? -100 : (i * 7919 + 13) % vocabulary;
  }
  return x;
}

/// The plain version: log_softmax and gather on the whole tensor, in the type of `logits`.
inline Tensor plain_log_probability(const Tensor& logits, const Tensor& label) {
  const std::int64_t last = logits.size(1) - 1;
  const Tensor next = label.narrow(1, 1, last);
  const Tensor all = at::log_softmax(logits.narrow(1, 0, last), -1);
  const Tensor picked = all.gather(-1, next.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  return picked.masked_fill(next.eq(-100), 0);
}

inline Tensor leaf(const Tensor& x) { return x.detach().clone().requires_grad_(true); }

/// The gradient of f(x) by x.
template <class F>
Tensor gradient(const Tensor& x, F&& f) {
  const Tensor variable = leaf(x);
  f(variable).backward();
  return variable.grad();
}

inline double largest_difference(const Tensor& a, const Tensor& b) {
  return a.to(at::kDouble).sub(b.to(at::kDouble)).abs().max().item<double>();
}

/// The text of the error that f throws; "nothing was thrown" without one.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "nothing was thrown";
}

/// Counts what the CPU allocator hands out while it lives.
class AllocationCounter {
 public:
  AllocationCounter()
      : report_(std::make_shared<Report>()), guard_(c10::DebugInfoKind::PROFILER_STATE, report_) {}
  [[nodiscard]] std::int64_t peak() const { return report_->peak; }

 private:
  struct Report : c10::MemoryReportingInfoBase {
    std::int64_t live = 0, peak = 0;
    void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t,
                           c10::Device) override {
      live += size;
      peak = std::max(peak, live);
    }
    [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }
  };
  std::shared_ptr<Report> report_;
  c10::DebugInfoGuard guard_;
};

}  // namespace support
