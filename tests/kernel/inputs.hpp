// Inputs made from integers (the same on every platform), tensors that own their memory, and
// threads of std::thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <alkn/kernel/cpu/step.hpp>

namespace alkn_test {

using namespace alkn::kernel;

/// Whole numbers in, floats out: sums of four uniform numbers, about normal, all exact.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 1) {}
  std::uint64_t next() { return mixed(++state_); }
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n));
  }
  float normal(float scale) {
    const std::uint64_t x = next();
    std::int64_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<std::int64_t>((x >> (16 * i)) & 0xFFFFU);
    return static_cast<float>(sum - 131070) * scale / 37838.0F;
  }

 private:
  std::uint64_t state_;
};

/// Threads of std::thread, one a part.
struct Threads {
  int count;
  void operator()(std::int64_t num_items, RangeBody body) const {
    std::vector<std::thread> threads;
    for (int t = 0; t < count; ++t) {
      const std::int64_t begin = num_items * t / count, end = num_items * (t + 1) / count;
      if (begin < end) threads.emplace_back([=] { body(begin, end); });
    }
    for (std::thread& thread : threads) thread.join();
  }
};

/// Parts in an odd order, on one thread: nothing may depend on it.
struct Backwards {
  std::int64_t part;
  void operator()(std::int64_t num_items, RangeBody body) const {
    for (std::int64_t end = num_items; end > 0; end -= part)
      body(std::max<std::int64_t>(0, end - part), end);
  }
};

inline std::vector<SimdLevel> simd_levels() {
  std::vector<SimdLevel> levels;
  for (const SimdLevel level : {SimdLevel::scalar, SimdLevel::avx2, SimdLevel::avx512}) {
    if (simd_supported(level)) levels.push_back(level);
  }
  return levels;
}

/// Sets the level for a scope.
class WithSimd {
 public:
  explicit WithSimd(SimdLevel level) : before_(simd_level()) { set_simd_level(level); }
  ~WithSimd() { set_simd_level(before_); }
  WithSimd(const WithSimd&) = delete;
  WithSimd& operator=(const WithSimd&) = delete;

 private:
  SimdLevel before_;
};

inline std::uint16_t narrow(float x, DType type) {
  return type == DType::bfloat16 ? float_to_bfloat16(x) : float_to_half(x);
}
inline float wide(std::uint16_t x, DType type) {
  return type == DType::bfloat16 ? bfloat16_to_float(x) : half_to_float(x);
}

/// One tensor with all its arrays; each starts `shift` elements behind the start of its memory.
struct OwnedTensor {
  std::int64_t size = 0;
  DType type = DType::float32, retain_type = DType::float32;
  std::int64_t shift = 0;
  std::vector<float> param, grad, grad_out, exp_avg, exp_avg_sq, retain, score;
  std::vector<std::uint16_t> param_narrow, grad_narrow, retain_narrow;
  std::vector<std::uint64_t> used, mask;
  /// The compact state: bfloat16 exp_avg, exp_avg_sq, score; the fp32 arrays are not used then.
  std::vector<std::uint16_t> exp_avg_narrow, exp_avg_sq_narrow, score_narrow;
  bool compact = false;
  std::uint64_t seed = 0;
  bool has_used = false;
  AdamWLanes<float> adamw;
  float threshold = 0;
  bool learns = true;

  OwnedTensor(std::int64_t n, DType param_type, DType of_retain, std::int64_t offset = 0)
      : size(n), type(param_type), retain_type(of_retain), shift(offset) {
    const auto elements = static_cast<std::size_t>(n + offset);
    for (auto* v : {&param, &grad, &grad_out, &exp_avg, &exp_avg_sq, &retain, &score}) {
      v->assign(elements, 0.0F);
    }
    for (auto* v : {&param_narrow, &grad_narrow, &retain_narrow}) v->assign(elements, 0);
    used.assign(static_cast<std::size_t>((n + 63) / 64), 0);
    mask = used;
  }

  [[nodiscard]] float gradient(std::int64_t i) const { return grad[at(i)]; }
  [[nodiscard]] std::size_t at(std::int64_t i) const { return static_cast<std::size_t>(i + shift); }
  static bool bit(const std::vector<std::uint64_t>& words, std::int64_t i) {
    return ((words[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1U) != 0;
  }

  void set_grad(std::int64_t i, float x) {
    grad_narrow[at(i)] = type == DType::float32 ? std::uint16_t{0} : narrow(x, type);
    grad[at(i)] = type == DType::float32 ? x : wide(grad_narrow[at(i)], type);
  }
  void set_retain(std::int64_t i, float x) {
    retain_narrow[at(i)] =
        retain_type == DType::float32 ? std::uint16_t{0} : narrow(x, retain_type);
    retain[at(i)] = retain_type == DType::float32 ? x : wide(retain_narrow[at(i)], retain_type);
  }

  void make_compact() {
    compact = true;
    for (auto* v : {&exp_avg_narrow, &exp_avg_sq_narrow, &score_narrow}) v->assign(grad.size(), 0);
  }

  [[nodiscard]] StepTensor view() {
    const bool low = type != DType::float32;
    StepTensor t;
    t.size = size, t.type = type, t.retain_type = retain_type;
    t.param = low ? static_cast<void*>(param_narrow.data() + shift) : param.data() + shift;
    t.master = low ? param.data() + shift : nullptr;
    t.grad = low ? static_cast<const void*>(grad_narrow.data() + shift) : grad.data() + shift;
    t.grad_out = grad_out.data() + shift;
    t.exp_avg = exp_avg.data() + shift;
    t.exp_avg_sq = exp_avg_sq.data() + shift;
    t.retain = retain_type == DType::float32 ? static_cast<const void*>(retain.data() + shift)
                                             : retain_narrow.data() + shift;
    t.score = score.data() + shift;
    if (compact) {
      t.state_type = DType::bfloat16;
      t.rounding_seed = seed;
      t.exp_avg = exp_avg_narrow.data() + shift;
      t.exp_avg_sq = exp_avg_sq_narrow.data() + shift;
      t.score = score_narrow.data() + shift;
    }
    t.used = has_used ? used.data() : nullptr;
    t.mask = mask.data();
    t.adamw = adamw;
    t.learns_threshold = learns;
    t.threshold = threshold;
    return t;
  }
};

/// Of all bits that steps write into tensors (FNV-1a).
inline std::uint64_t hash_of(const std::vector<OwnedTensor>& tensors) {
  std::uint64_t hash = 0xCBF29CE484222325U;
  const auto mix = [&](const auto& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (std::size_t i = 0; i < values.size() * sizeof(values[0]); ++i) {
      hash = (hash ^ bytes[i]) * 0x100000001B3U;
    }
  };
  for (const OwnedTensor& t : tensors) {
    mix(t.param), mix(t.param_narrow), mix(t.exp_avg), mix(t.exp_avg_sq), mix(t.score);
    mix(t.exp_avg_narrow), mix(t.exp_avg_sq_narrow), mix(t.score_narrow), mix(t.mask);
    mix(std::vector<float>{t.threshold});
  }
  return hash;
}

/// AdamW's numbers after `step` steps, with no value at its neutral.
inline AdamWLanes<float> adamw_numbers(int step, double lr, double weight_decay,
                                       double low_ratio = 1) {
  AdamWLanes<float> n;
  const double low = lr * low_ratio, bias1 = 1 - std::pow(0.9, step);
  n.decay = static_cast<float>(1 - lr * weight_decay);
  n.decay_used = static_cast<float>(1 - low * weight_decay);
  n.step_size = static_cast<float>(lr / bias1);
  n.step_size_used = static_cast<float>(low / bias1);
  n.one_minus_beta1 = static_cast<float>(1 - 0.9);
  n.one_minus_beta2 = static_cast<float>(1 - 0.999);
  n.bias2_sqrt = static_cast<float>(std::sqrt(1 - std::pow(0.999, step)));
  return n;
}

}  // namespace alkn_test
