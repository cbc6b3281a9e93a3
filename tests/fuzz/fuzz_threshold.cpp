// libFuzzer: thresholds, masks and counts of three steps over scores made of the input's bytes,
// against nth_element. Any difference aborts.
#include <alkn/kernel/cpu/step.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bytes.hpp"

using namespace alkn::kernel;

namespace {

const auto kSerial = [](std::int64_t num_items, RangeBody body) { body(0, num_items); };

/// The score at i: the input's own, or one of few values, so that sizes and ties come cheap.
float score_at(std::int64_t i, std::uint32_t shape, const std::vector<float>& given, int step) {
  const auto number = static_cast<std::size_t>(i) % given.size();
  const float x = given[number];
  switch (shape % 4) {
    case 0:
      return x;
    case 1:
      return i % 97 == 0 ? x : given[0];  // one heavy value
    case 2:
      return x + static_cast<float>(i / 64) * 0.25F;  // rows that rise
    default:
      return x * static_cast<float>(1 + step * step * 50);  // brackets that miss
  }
}

std::uint32_t nth(std::vector<std::uint32_t> keys, std::int64_t rank) {
  const auto wanted = keys.end() - rank;
  std::nth_element(keys.begin(), wanted, keys.end());
  return *wanted;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t length) {
  fuzz::Bytes bytes(data, length);
  const std::uint32_t shape = bytes.next(1);
  // up to 1030 elements, now and then two chunks of the kernels
  const std::int64_t size = 10 + bytes.next(1) * (shape == 255U ? 260 : 4);
  const double rho = 0.31 + 0.003 * bytes.next(1);
  std::vector<float> given(1 + bytes.next(1) % 64);
  for (float& x : given) {
    const std::uint32_t bits = bytes.next(4);
    std::memcpy(&x, &bits, sizeof x);
  }
  const auto n = static_cast<std::size_t>(size);
  std::vector<float> score(n), grad(n, 0.0F), grad_out(n), retain(n, 1.0F);
  std::vector<std::uint64_t> mask((n + 63) / 64);
  static CpuStep cpu;  // warm from input to input, as between tasks without reset(): only slower
  for (int step = 0; step < 3; ++step) {
    for (std::int64_t i = 0; i < size; ++i) {
      score[static_cast<std::size_t>(i)] = score_at(i, shape, given, step);
    }
    StepTensor t;
    t.size = size, t.grad = grad.data(), t.grad_out = grad_out.data(), t.retain = retain.data();
    t.score = score.data(), t.mask = mask.data(), t.learns_threshold = true;
    StepArgs args;
    args.mask = MaskKind::localized, args.update = Update::gradient, args.threshold_due = true;
    args.unmask_ratio = rho;
    cpu.run(&t, 1, args, ParallelFor(kSerial, 1 + static_cast<int>(shape >> 2U & 1U)));

    std::vector<std::uint32_t> keys;
    for (const float m : score) keys.push_back(order_key(m));
    const Ranks ranks = threshold_ranks(size, rho, args.trim_ratio);
    const float eta = threshold(key_value(nth(keys, ranks.low)), key_value(nth(keys, ranks.high)),
                                size, rho, args.trim_ratio);
    if (std::isnan(eta) ? !std::isnan(t.threshold)
                        : std::memcmp(&eta, &t.threshold, sizeof eta) != 0) {
      __builtin_trap();
    }
    std::int64_t num_trained = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const bool on = score[i] > eta;
      num_trained += on ? 1 : 0;
      if (on != (((mask[i / 64] >> (i % 64)) & 1U) != 0)) __builtin_trap();
    }
    if (num_trained != t.num_trained) __builtin_trap();
  }
  return 0;
}
