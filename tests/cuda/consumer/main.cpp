// A project that links alkn::cuda. Without a GPU it says so and ends; with one it takes the same
// steps on the GPU and on the CPU, and compares the bits.
#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <alkn/alkn.hpp>
#include <cstdio>
#include <utility>
#include <vector>

namespace {

/// Parameters and gradients made on the CPU, stepped on `device`, returned to the CPU.
at::Tensor steps_on(const at::Device& device) {
  at::manual_seed(1);
  const at::Tensor start = at::randn({300, 517});
  at::Tensor param = start.to(device).requires_grad_(true);
  alkn::ALKN<> unlearner(std::vector<std::pair<std::string, at::Tensor>>{{"weight", param}},
                         alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-3));
  auto task = unlearner.begin_task(alkn::TaskOptions{.steps = 3});
  const at::Tensor retain = at::randn({300, 517}).to(device);
  task.accumulate_retain_gradient((param * retain).sum());
  for (int i = 0; i < 3; ++i) {
    param.mutable_grad() = at::randn({300, 517}).to(device);
    unlearner.step();
  }
  const at::Tensor stepped = param.detach().to(at::kCPU).clone();
  task.abandon();
  return stepped;
}

}  // namespace

int main() {
  if (!alkn::detail::has_cuda_table()) {
    std::puts("alkn_cuda.cu is not in this program");
    return 1;
  }
  if (!at::hasCUDA()) {
    std::puts("no CUDA device: LibTorch finds none, so there is nothing to step on");
    return 0;
  }
  const bool same = at::equal(steps_on(at::Device(at::kCUDA, 0)), steps_on(at::Device(at::kCPU)));
  std::puts(same ? "a CUDA device: the bits of the CPU" : "a CUDA device: WRONG bits");
  return same ? 0 : 1;
}
