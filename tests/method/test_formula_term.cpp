// The worked example of CONTRIBUTING.md, "Change the formula in four places": compiled against a
// copy of the headers to which formula_term.patch was applied, which adds `+ tau |g|` to the
// score's product d.
//
//     alkn::ALKN<> unlearner(params, alkn::ALKNOptions().tau(0.5), alkn::AdamWOptions(1e-3));
//
// tests/kernel/test_bits.cpp is part of this program, too: where tau is 0 the bits are the old
// ones.
#include <alkn/kernel/simd/dispatch.hpp>

#include "tiny.hpp"

#include "catch.hpp"  // after LibTorch, which defines a CHECK of its own

using alkn::Backend;
using alkn::Score;
using at::Tensor;
namespace kernel = alkn::kernel;

namespace {

constexpr double kTau = 0.07;  // beside products of about the same size

alkn::ALKNOptions options_of(Score score, double tau) {
  return alkn::ALKNOptions().score(score).tau(tau);
}

/// What two tasks leave of the weights; the second one's scores have the penalty and its deviation.
std::vector<Tensor> weights_after(Backend backend, alkn::ALKNOptions options) {
  std::vector<alkn::NamedParameter> params = {
      {"matrix", tiny::wave({37, 53}, 0.4, 0.5).set_requires_grad(true)},
      {"vector", tiny::wave({300}, 1.9, 0.5).set_requires_grad(true)},
      {"few", tiny::wave({7}, 2.6, 0.5).set_requires_grad(true)}};
  alkn::ALKN<> unlearner(params, options.backend(backend), alkn::AdamWOptions(1e-3));
  for (int number = 0; number < 2; ++number) {
    auto task = unlearner.begin_task({.steps = 4});
    Tensor retain = at::zeros({});
    for (const auto& p : params) {
      retain = retain + p.tensor.mul(tiny::wave(p.tensor.sizes(), 0.8 + number, 0.1)).sum();
    }
    task.accumulate_retain_gradient(retain);
    for (int i = 0; i < 4; ++i) {
      tiny::set_gradients(params, 0.3 * i + number);
      unlearner.step();
    }
    task.end();
  }
  std::vector<Tensor> weights;
  for (const auto& p : params) weights.push_back(p.tensor.detach().clone());
  return weights;
}

double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, tiny::distance(a[i], b[i]));
  }
  return largest;
}

}  // namespace

TEST_CASE("the added term is the same in the reference and in every instruction set") {
  const kernel::SimdLevel before = kernel::simd_level();
  for (const Score score : {Score::product, Score::ratio}) {
    CAPTURE(static_cast<int>(score));
    const auto without = weights_after(Backend::aten, options_of(score, 0));
    const auto reference = weights_after(Backend::aten, options_of(score, kTau));
    CHECK(distance(without, reference) > 1e-4);  // it decides which entries are trained
    for (const auto level :
         {kernel::SimdLevel::scalar, kernel::SimdLevel::avx2, kernel::SimdLevel::avx512}) {
      if (!kernel::simd_supported(level)) continue;
      INFO(kernel::simd_name(level));
      kernel::set_simd_level(level);
      CHECK(distance(weights_after(Backend::cpu, options_of(score, kTau)), reference) < 1e-6);
      CHECK(distance(weights_after(Backend::cpu, options_of(score, 0)), without) < 1e-6);
    }
    kernel::set_simd_level(before);
  }
}

TEST_CASE("the added option has a range") {
  CHECK(options_of(Score::product, kTau).tau() == kTau);
  CHECK_THROWS_WITH(weights_after(Backend::cpu, options_of(Score::product, std::nan(""))),
                    Catch::Matchers::ContainsSubstring("tau"));
}
