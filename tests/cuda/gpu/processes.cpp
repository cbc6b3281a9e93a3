// One of several processes with a GPU each, that torchrun's variables (RANK, LOCAL_RANK, ...) tell
// of one another: its tasks have the bits of one process on the CPU with the averaged gradients.
// One or two: the sum of two numbers has one order. Without a GPU: a message, and 77.
#include <ATen/Context.h>
#include <ATen/Functions.h>

#include <alkn/alkn.hpp>
#include <alkn/dist/nccl.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace {

using at::Tensor;
constexpr int kAlone = -1;  // in place of a rank: the mean of all

struct Place {
  int rank, size;
  at::Device device;
  std::shared_ptr<alkn::Group> group = nullptr;
};

Tensor gradient(const Place& place, std::int64_t moment, const Tensor& like) {
  const auto of = [&](int rank) {
    at::manual_seed(static_cast<std::uint64_t>(1000 * rank + 10 * moment + like.dim()));
    return at::randn(like.sizes()).to(like.scalar_type());
  };
  if (place.rank != kAlone) return of(place.rank).to(place.device);
  Tensor sum = at::zeros(like.sizes());
  for (int rank = 0; rank < place.size; ++rank) sum.add_(of(rank));
  return sum.div_(place.size).to(like.scalar_type());
}

/// Two tasks of three steps; the weights on the CPU after each call that writes them.
std::vector<Tensor> run(const Place& place, at::ScalarType type, alkn::Sharding sharding) {
  at::manual_seed(7);  // other processes begin with other values, which rank 0's replace
  std::vector<alkn::NamedParameter> params;
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{300, 517}, {70000}, {9, 2, 3}}) {
    const Tensor values = at::randn(shape).add_(place.rank > 0 ? 1 : 0).to(type).to(place.device);
    params.push_back({"p" + std::to_string(params.size()), values.requires_grad_(true)});
  }
  alkn::ALKN<> unlearner(params, alkn::ALKNOptions(), alkn::AdamWOptions(1e-2),
                         {place.group, sharding});
  std::vector<Tensor> seen;
  const auto look = [&] {
    for (const auto& p : params) seen.push_back(p.tensor.detach().cpu().clone());
  };
  std::int64_t moment = 0;
  for (int round = 0; round < 2; ++round) {
    auto task = unlearner.begin_task({.steps = 3});
    Tensor loss = at::zeros({}, at::device(place.device));
    ++moment;
    for (const auto& p : params)
      loss = loss.add(p.tensor.mul(gradient(place, moment, p.tensor)).sum().to(at::kFloat));
    task.accumulate_retain_gradient(loss);
    for (int step = 0; step < 3; ++step) {
      ++moment;
      for (const auto& p : params) p.tensor.mutable_grad() = gradient(place, moment, p.tensor);
      unlearner.step();
      look();
    }
    task.end();
    look();
  }
  return seen;
}

int check() {
  if (!at::hasCUDA()) {
    std::puts("no CUDA device: LibTorch finds none");
    return 77;
  }
  const auto group = alkn::dist::cuda_from_environment(std::chrono::seconds(60));
  if (!group || group->size() > 2) {
    std::puts("expected RANK, WORLD_SIZE, ... of one process or two, got others");
    return 2;
  }
  const at::Device device(at::kCUDA, at::detail::getCUDAHooks().getCurrentDevice());
  bool same = true;
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto expected = run({kAlone, group->size(), at::kCPU}, type, alkn::Sharding::state);
    for (const auto sharding : {alkn::Sharding::state, alkn::Sharding::none}) {
      const auto got = run({group->rank(), group->size(), device, group}, type, sharding);
      for (std::size_t i = 0; i < got.size(); ++i) same = same && at::equal(got[i], expected[i]);
    }
  }
  std::printf("process %d of %d on %s: %s\n", group->rank(), group->size(), device.str().c_str(),
              same ? "the bits of one process on the CPU" : "WRONG bits");
  return same ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return check();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
