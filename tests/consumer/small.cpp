// Computes one number with alkn and LibTorch: the mean NLL of uniform logits over 16 tokens is
// log 16.
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <alkn/objective/losses.hpp>
#include <cmath>
#include <cstdio>

int main() {
  const at::Tensor tokens = at::arange(8).unsqueeze(0);
  const double nll = alkn::mean_nll(at::zeros({1, 8, 16}), tokens).item<double>();
  std::printf("mean NLL %.6f\n", nll);
  return std::abs(nll - std::log(16.0)) < 1e-6 ? 0 : 1;
}
