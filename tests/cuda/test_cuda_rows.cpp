// The kernels beside the step on the CPU, block by block: the token log-probability against the
// CPU's row passes, bit by bit, and the end of a task against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include <alkn/kernel/cpu/history.hpp>
#include <alkn/kernel/cuda/history.hpp>
#include <alkn/kernel/cuda/tokens.hpp>
#include <alkn/kernel/rows/token_log_probability.hpp>

#include "../kernel/inputs.hpp"
#include "catch.hpp"
#if defined(ALKN_TEST_ON_DEVICE)
#include "gpu/device_step.hpp"
#else
#include "emulation.hpp"
#endif

using namespace alkn_test;

namespace {

namespace device = alkn::kernel::cuda;
using alkn::kernel::BFloat16;
using alkn::kernel::Half;
using alkn::kernel::TokenRows;
namespace rows = alkn::kernel::rows;

constexpr int kThreads = device::tuning::kTokenThreads;
const float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
constexpr DType kType = DType::float32;
template <>
constexpr DType kType<BFloat16> = DType::bfloat16;
template <>
constexpr DType kType<Half> = DType::float16;

/// Rows of logits with everything that the kernels read and write of them. Rows lie `gap` elements
/// apart, the first `shift` elements behind the start of the memory.
template <class T>
struct Case {
  std::int64_t num_rows, size, gap, shift;
  std::vector<T> memory, grad;
  std::vector<std::int64_t> labels;
  std::vector<float> max, log_sum, log_p, grad_out;

  Case(std::int64_t n, std::int64_t vocabulary, float scale, std::int64_t between = 0,
       std::int64_t offset = 0)
      : num_rows(n), size(vocabulary), gap(between), shift(offset) {
    Numbers numbers(static_cast<std::uint64_t>(vocabulary * 7 + n));
    memory.resize(static_cast<std::size_t>(shift + n * (size + gap)));
    for (T& x : memory) x = rows::round_to<T>(static_cast<double>(numbers.normal(scale)));
    const auto count = static_cast<std::size_t>(n);
    grad.assign(count * static_cast<std::size_t>(size), rows::round_to<T>(77.0));
    max.assign(count, 77), log_sum = log_p = max;
    for (std::int64_t r = 0; r < n; ++r) {
      labels.push_back(r % 5 == 3 ? -100 : numbers.below(size));
      grad_out.push_back(r % 7 == 5 ? 0.0F : numbers.normal(0.01F));
    }
  }
  [[nodiscard]] T* row(std::int64_t r) { return memory.data() + shift + r * (size + gap); }
  [[nodiscard]] TokenRows view() {
    TokenRows v;
    v.logits = row(0), v.type = kType<T>;
    v.num_rows = num_rows, v.num_positions = 2, v.vocabulary = size;
    v.position_stride = size + gap, v.sample_stride = 2 * (size + gap);
    v.labels = labels.data();
    v.max = max.data(), v.log_sum = log_sum.data(), v.log_p = log_p.data();
    v.grad_out = grad_out.data(), v.grad = grad.data();
    return v;
  }
};

struct None {
  int unused;
};

#if defined(ALKN_TEST_ON_DEVICE)
template <class Runner>
void forward(Runner, const TokenRows& v, std::int64_t = 3) {
  device_token_forward(v);
}
template <class Runner>
void backward(Runner, const TokenRows& v, std::int64_t = 3) {
  device_token_backward(v);
}
void run_negation(const Fibers&, const device::Negation& n) { device_negate(n, n.size % 2 != 0); }
void run_mask(const Fibers&, const device::MaskWords& w) { device_mask(w); }
#else
template <class Runner>
void forward(Runner runner, const TokenRows& v, std::int64_t blocks = 3) {
  runner.template run<device::TokenShared>(blocks, kThreads, [&](const auto& block, auto& shared) {
    device::token_forward_kernel(block, shared, v);
  });
}
template <class Runner>
void backward(Runner runner, const TokenRows& v, std::int64_t blocks = 3) {
  runner.template run<device::TokenShared>(blocks, kThreads, [&](const auto& block, auto& shared) {
    device::token_backward_kernel(block, shared, v);
  });
}
void run_negation(Fibers runner, const device::Negation& n) {
  runner.run<None>(3, 64, [&](const auto& block, None&) { device::negate_kernel(block, n); });
}
void run_mask(Fibers runner, const device::MaskWords& w) {
  runner.run<device::MaskShared>(
      4, 64, [&](const auto& block, auto& shared) { device::mask_kernel(block, shared, w); });
}
#endif

/// The same numbers by the CPU's row passes, as objective/token_log_probability_cpu.hpp has them.
template <class T>
void check_rows(Case<T>& c) {
  const auto& cpu = row_functions<T>(SimdLevel::scalar);
  const FlushDenormals flush;
  std::vector<T> want(static_cast<std::size_t>(c.size));
  for (std::int64_t r = 0; r < c.num_rows; ++r) {
    CAPTURE(r, c.size);
    const auto k = static_cast<std::size_t>(r);
    const std::int64_t label = c.labels[k];
    const T* got = c.grad.data() + r * c.size;
    if (label == -100) {
      CHECK((c.max[k] == 0 && c.log_sum[k] == 0 && c.log_p[k] == 0));
    } else {
      const LogSumExp lse = cpu.log_sum_exp(c.row(r), c.size);
      const auto value = static_cast<double>(rows::widen(c.row(r)[label]));
      CHECK(c.max[k] == static_cast<float>(lse.max));
      CHECK(c.log_sum[k] == static_cast<float>(lse.log_sum));
      CHECK(c.log_p[k] == static_cast<float>(value - lse.max - lse.log_sum));
    }
    if (label == -100 || c.grad_out[k] == 0) {
      std::memset(static_cast<void*>(want.data()), 0, want.size() * sizeof(T));
    } else {
      const auto g = static_cast<double>(c.grad_out[k]), max = static_cast<double>(c.max[k]);
      const auto log_sum = static_cast<double>(c.log_sum[k]);
      const auto value = static_cast<double>(rows::widen(c.row(r)[label]));
      cpu.scaled_softmax(c.row(r), c.size, max, -g * std::exp(-log_sum), want.data(), false);
      want[static_cast<std::size_t>(label)] =
          rows::round_to<T>(-g * std::expm1(value - max - log_sum));
    }
    CHECK(std::memcmp(got, want.data(), want.size() * sizeof(T)) == 0);
  }
}

template <class T>
void check_case(Case<T> c) {
  forward(Fibers(Order::mixed), c.view());
  backward(Fibers(Order::mixed), c.view());
  check_rows(c);
}

/// Around accesses of four, groups of 64 and blocks of 4096.
template <class T>
void check_sizes() {
  for (const std::int64_t size :
       {1, 2, 3, 4, 5, 7, 63, 64, 65, 67, 97, 255, 257, 997, 4095, 4096, 4097, 4100, 8193, 12290}) {
    check_case(Case<T>(7, size, 5));
    check_case(Case<T>(5, size, 40, 3, 1));  // rows that start anywhere, with a gap between them
  }
}

}  // namespace

TEST_CASE("token kernels have the bits of the CPU's row passes") {
  check_sizes<float>();
  check_sizes<BFloat16>();
  check_sizes<Half>();
}

TEST_CASE("token kernels at the largest vocabularies") {
  check_case(Case<float>(2, 1 << 18, 6));
  check_case(Case<BFloat16>(2, 128256, 6));
}

TEST_CASE("token kernels: neither grid nor order nor threads change a bit") {
  Case<BFloat16> one(9, 5001, 8), other = one;
  forward(Fibers(Order::forward), one.view(), 1);
  backward(Fibers(Order::forward), one.view(), 1);
  forward(Fibers(Order::backward), other.view(), 20);
  backward(Fibers(Order::backward), other.view(), 20);
  CHECK(one.log_p == other.log_p);
  CHECK(std::memcmp(one.grad.data(), other.grad.data(), 2 * one.grad.size()) == 0);
  Case<float> threads(3, 130, 8);
  forward(RealThreads(), threads.view(), 1);
  backward(RealThreads(), threads.view(), 1);
  check_rows(threads);
}

TEST_CASE("token kernels: rows with infinities, NaN, and labels outside the vocabulary") {
  Case<float> c(6, 9001, 4);
  for (std::int64_t r = 0; r < 6; ++r) {
    c.labels[static_cast<std::size_t>(r)] = 1, c.grad_out[static_cast<std::size_t>(r)] = 1;
  }
  std::fill_n(c.row(0), 4500, -kInfinity);  // the first block has nothing
  std::fill_n(c.row(1), 9001, -kInfinity);
  c.row(2)[7000] = std::nanf("");
  c.row(3)[8] = kInfinity;
  c.labels[4] = 9001;
  c.labels[5] = -1;
  forward(Fibers(), c.view());
  backward(Fibers(), c.view());
  const LogSumExp lse = row_functions<float>(SimdLevel::scalar).log_sum_exp(c.row(0), 9001);
  CHECK(c.log_sum[0] == static_cast<float>(lse.log_sum));
  CHECK(c.log_p[0] == -kInfinity);
  for (std::size_t r = 1; r < 6; ++r) {
    CAPTURE(r);
    CHECK(std::isnan(c.log_p[r]));
    if (r > 1) CHECK(std::isnan(c.grad[r * 9001 + 12]));
  }
}

TEST_CASE("the exponential keeps a NaN, also with the bits that CUDA gives it") {
  CHECK(std::isnan(device::exp_of_negative(bit_copy<float>(std::uint32_t{0x7FFFFFFF}))));
  CHECK(std::isnan(device::exp_of_negative(std::nanf(""))));
  CHECK(device::exp_of_negative(-kInfinity) == 0);
  CHECK(device::exp_of_negative(-0.0F) == 1);
}

TEST_CASE("token kernels: in place, where it is asked for") {
  Case<BFloat16> c(6, 5003, 5), apart = c;
  forward(Fibers(), c.view());
  forward(Fibers(), apart.view());
  backward(Fibers(), apart.view());
  const std::vector<BFloat16> logits = apart.memory;
  CHECK(std::memcmp(logits.data(), c.memory.data(), 2 * logits.size()) == 0);  // only read
  TokenRows v = c.view();
  v.grad = c.row(0);
  backward(Fibers(Order::mixed), v);
  CHECK(std::memcmp(c.memory.data(), apart.grad.data(), 2 * apart.grad.size()) == 0);
}

#if !defined(ALKN_TEST_ON_DEVICE)
TEST_CASE("token kernels read the logits once forward, and read and write once backward") {
  const auto bytes = [](auto c) {
    Traffic traffic;
    for (float& g : c.grad_out) g = 1;
    for (std::int64_t& label : c.labels) label = 3;
    const double n = static_cast<double>(c.num_rows * c.size);
    const auto print = [&](const char* kernel, double floor) {
      const double loads = static_cast<double>(traffic.loaded) / n;
      const double stores = static_cast<double>(traffic.stored) / n;
      std::printf("%-26s loads %6.3f  stores %6.3f  floor %6.2f bytes an element (%s)\n", kernel,
                  loads, stores, floor, sizeof(c.memory[0]) == 2 ? "bf16 logits" : "fp32 logits");
      CHECK(loads + stores <= 1.02 * floor);
      CHECK(loads + stores >= floor);
      traffic = {};
    };
    const double each = sizeof(c.memory[0]);
    forward(Fibers(Order::forward, &traffic), c.view());
    print("token_forward", each);
    backward(Fibers(Order::forward, &traffic), c.view());
    print("token_backward", 2 * each);
  };
  bytes(Case<float>(4, 50257, 5));
  bytes(Case<BFloat16>(4, 32000, 5));
}

TEST_CASE("the end of a task moves the bytes of its floor") {
  Traffic traffic;
  constexpr std::int64_t kSize = 1 << 16;
  std::vector<float> param(kSize, 1.0F), start(kSize, 2.0F);
  const auto print = [&](const char* kernel, double floor) {
    const double n = static_cast<double>(kSize);
    const double loads = static_cast<double>(traffic.loaded) / n;
    const double stores = static_cast<double>(traffic.stored) / n;
    std::printf("%-26s loads %6.3f  stores %6.3f  floor %6.2f bytes an element (end of a task)\n",
                kernel, loads, stores, floor);
    CHECK(loads + stores == Approx(floor));
    traffic = {};
  };
  device::Negation n;
  n.param = param.data(), n.start = start.data(), n.size = kSize;
  run_negation(Fibers(Order::forward, &traffic), n);
  print("negate", 12);
  std::vector<std::uint64_t> mask(kSize / 64, 5), used(kSize / 64, 4);
  std::uint64_t count = 0;
  const device::MaskWords w{mask.data(), used.data(), kSize / 64, &count};
  run_mask(Fibers(Order::forward, &traffic), w);
  print("mask", 0.25);
}

#endif

TEST_CASE("the negation has the bits of the CPU's") {
  for (const std::int64_t size : {0, 1, 3, 4, 5, 1023, 9973}) {
    CAPTURE(size);
    Numbers numbers(3);
    const auto count = static_cast<std::size_t>(size);
    std::vector<float> got(count), start(count);
    for (float& x : got) x = numbers.normal(1);
    for (float& x : start) x = numbers.normal(1);
    std::vector<float> want = got;
    device::Negation n;
    n.param = got.data(), n.start = start.data(), n.size = size, n.lambda = 1.7F;
    negate(want.data(), start.data(), size, 1.7F, ParallelFor::serial());
    run_negation(Fibers(Order::mixed), n);
    CHECK(got == want);
  }
}

TEST_CASE("mask bits are counted as on the CPU") {
  for (const std::int64_t words : {0, 1, 63, 64, 65, 8191, 8192, 8193, 20011}) {
    CAPTURE(words);
    Numbers numbers(9);
    const auto count = static_cast<std::size_t>(words);
    std::vector<std::uint64_t> mask(count), used(count);
    for (std::uint64_t& w : mask) w = numbers.next() & numbers.next();
    for (std::uint64_t& w : used) w = numbers.next();
    const auto run = [&](const std::uint64_t* other) {
      std::uint64_t result = 0;
      const device::MaskWords w{mask.data(), other, words, &result};
      run_mask(Fibers(Order::backward), w);
      return static_cast<std::int64_t>(result);
    };
    CHECK(run(nullptr) == count_bits(mask.data(), words, ParallelFor::serial()));
    CHECK(run(used.data()) == overlap(mask.data(), used.data(), words, ParallelFor::serial()));
  }
}
