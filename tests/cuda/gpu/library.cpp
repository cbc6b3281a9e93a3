// The library on a GPU: golden vectors, objectives, tasks, streams. Without one: a message, and 77.
#define CATCH_CONFIG_RUNNER
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <alkn/alkn.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "../../catch.hpp"
#include "../../golden/golden.hpp"

namespace {

using at::Tensor;
const at::Device kGpu(at::kCUDA, 0);

/// Three steps of a task, then its end; the weights, on the CPU.
Tensor task_on(const at::Device& device, at::ScalarType type, bool on_host) {
  at::manual_seed(1);
  const Tensor param = at::randn({300, 517}).to(type).to(device).requires_grad_(true);
  alkn::ALKN<> unlearner(std::vector<std::pair<std::string, Tensor>>{{"weight", param}},
                         alkn::ALKNOptions::conflict().start_on_host(on_host),
                         alkn::AdamWOptions(1e-3));
  for (int round = 0; round < 2; ++round) {  // the second task has a union mask
    auto task = unlearner.begin_task(alkn::TaskOptions{.steps = 3});
    const Tensor retain = at::randn({300, 517}).to(type).to(device);
    task.accumulate_retain_gradient((param * retain).to(at::kFloat).sum());
    for (int i = 0; i < 3; ++i) {
      param.mutable_grad() = at::randn({300, 517}).to(type).to(device);
      unlearner.step();
    }
    task.end();
  }
  return param.detach().to(at::kCPU);
}

}  // namespace

TEST_CASE("golden vectors", "[gpu]") {
  for (const auto& entry : std::filesystem::directory_iterator(ALKN_GOLDEN_DIR)) {
    const golden::Differences d =
        golden::replay(golden::read(entry.path()), alkn::Backend::cuda, kGpu);
    INFO(entry.path().filename().string());
    CHECK(d.within_bound());
  }
}

TEST_CASE("a task has the bits of the CPU", "[gpu]") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const bool on_host : {false, true}) {
      CAPTURE(type, on_host);
      CHECK(at::equal(task_on(kGpu, type, on_host), task_on(at::kCPU, type, on_host)));
    }
  }
}

TEST_CASE("the token log-probability and its gradient are those of the CPU", "[gpu]") {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    at::manual_seed(3);
    const Tensor logits = at::randn({2, 9, 50257}).mul(4).to(type);
    Tensor labels = at::randint(50257, {2, 9}, at::kLong);
    labels[0][3] = -100;
    const Tensor weight = at::randn({2, 8});
    const auto run = [&](const at::Device& device) {
      const Tensor x = logits.to(device).requires_grad_(true);
      const Tensor log_p = alkn::token_log_probability(x, labels.to(device));
      log_p.mul(weight.to(device)).sum().backward();
      return std::pair(log_p.detach().to(at::kCPU), x.grad().to(at::kCPU));
    };
    const auto [log_p, grad] = run(kGpu);
    const auto [want, want_grad] = run(at::kCPU);
    CHECK(at::allclose(log_p, want, 1e-6, 1e-7));
    CHECK(at::allclose(grad.to(at::kFloat), want_grad.to(at::kFloat), 1e-6, 1e-9));
    // of the answer rows alone: the same bits
    const Tensor places = alkn::answer_rows(labels), on_gpu = labels.to(kGpu);
    const Tensor flat = logits.flatten(0, 1).index_select(0, places);
    const Tensor rows = flat.to(kGpu).requires_grad_(true);
    const Tensor part = alkn::token_log_probability(rows, on_gpu);
    part.mul(weight.to(kGpu)).sum().backward();
    CHECK(at::equal(part.detach().to(at::kCPU), log_p));
    CHECK(at::equal(rows.grad().to(at::kCPU), grad.flatten(0, 1).index_select(0, places)));
    // another number of rows is no error there: a check would wait for the device
    CHECK(alkn::token_log_probability(rows.detach().narrow(0, 1, 3), on_gpu)
              .isnan()
              .all()
              .item<bool>());
  }
}

TEST_CASE("a task by a CUDA graph of its step has the bits of one without", "[gpu]") {
  const auto run = [](bool with_graph) {
    at::manual_seed(9);
    const auto side = c10::cuda::getStreamFromPool(false, 0);
    const c10::cuda::CUDAStreamGuard guard(side);
    const Tensor param = at::randn({300, 517}).to(kGpu).requires_grad_(true);
    alkn::ALKN<> unlearner(std::vector<std::pair<std::string, Tensor>>{{"weight", param}},
                           alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-3));
    auto task = unlearner.begin_task(alkn::TaskOptions{.steps = 6});
    task.accumulate_retain_gradient((param * at::randn({300, 517}).to(kGpu)).sum());
    param.mutable_grad() = at::empty_like(param);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    for (int i = 0; i < 6; ++i) {
      Tensor grad = at::randn({300, 517});
      if (i == 3) grad[1][2] = NAN;
      param.mutable_grad().copy_(grad);
      if (i == 1 && with_graph) {
        REQUIRE(cudaStreamBeginCapture(side, cudaStreamCaptureModeGlobal) == cudaSuccess);
        unlearner.step();
        REQUIRE(cudaStreamEndCapture(side, &graph) == cudaSuccess);
        REQUIRE(cudaGraphInstantiateWithFlags(&replay, graph, 0) == cudaSuccess);
      }
      if (i == 0 || !with_graph) {
        unlearner.step();
        continue;
      }
      unlearner.prepare_replay();
      REQUIRE(cudaGraphLaunch(replay, side) == cudaSuccess);
    }
    CHECK(task.end().skipped_steps == 1);
    if (with_graph) {
      cudaGraphExecDestroy(replay);
      cudaGraphDestroy(graph);
    }
    return param.detach().to(at::kCPU);
  };
  CHECK(at::equal(run(true), run(false)));
}

TEST_CASE("alkn::AdamW on a stream of its own", "[gpu]") {
  const auto run = [](bool side) {
    at::manual_seed(5);
    const Tensor param = at::randn({1000, 333}).to(kGpu).requires_grad_(true);
    const Tensor grad = at::randn({1000, 333}).to(kGpu);
    alkn::AdamW optimizer({param}, alkn::AdamWOptions(1e-3));
    for (int i = 0; i < 4; ++i) {
      const auto stream = side && i % 2 == 1 ? c10::cuda::getStreamFromPool(false, 0)
                                             : c10::cuda::getDefaultCUDAStream(0);
      c10::cuda::getCurrentCUDAStream(0).synchronize();
      const c10::cuda::CUDAStreamGuard guard(stream);
      param.mutable_grad() = grad.mul(i + 1);
      optimizer.step();
      stream.synchronize();
    }
    return param.detach().to(at::kCPU);
  };
  CHECK(at::equal(run(true), run(false)));
}

TEST_CASE("alkn::AdamW over two devices", "[gpu]") {
  if (c10::cuda::device_count() < 2) return;
  const auto run = [](const at::Device& second) {
    at::manual_seed(7);
    std::vector<Tensor> params;
    for (const at::Device& device : {kGpu, second}) {
      params.push_back(at::randn({999, 77}).to(device).requires_grad_(true));
      params.back().mutable_grad() = at::randn({999, 77}).to(device);
    }
    alkn::AdamW optimizer(params, alkn::AdamWOptions(1e-3));
    for (int i = 0; i < 3; ++i) optimizer.step();
    return at::cat({params[0].detach().to(at::kCPU), params[1].detach().to(at::kCPU)});
  };
  CHECK(at::equal(run(at::Device(at::kCUDA, 1)), run(kGpu)));
}

TEST_CASE("a task over two devices has the bits of one", "[gpu]") {
  if (c10::cuda::device_count() < 2) return;
  const auto run = [](const at::Device& second) {
    at::manual_seed(11);
    std::vector<std::pair<std::string, Tensor>> params;
    for (const at::Device& device : {kGpu, second}) {
      const auto name = std::to_string(params.size());
      params.emplace_back(name, at::randn({300, 200}).to(device).requires_grad_(true));
    }
    alkn::ALKN<> unlearner(params, alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-3));
    for (int round = 0; round < 2; ++round) {
      auto task = unlearner.begin_task(alkn::TaskOptions{.steps = 3});
      Tensor loss = at::zeros({}, kGpu);
      for (auto& [name, param] : params) {
        loss = loss + (param * at::randn({300, 200}).to(param.device())).sum().to(kGpu);
      }
      task.accumulate_retain_gradient(loss);
      for (int i = 0; i < 3; ++i) {
        for (auto& [name, param] : params) {
          param.mutable_grad() = at::randn({300, 200}).to(param.device());
        }
        unlearner.step();
      }
      task.end();
    }
    return at::cat(
        {params[0].second.detach().to(at::kCPU), params[1].second.detach().to(at::kCPU)});
  };
  CHECK(at::equal(run(at::Device(at::kCUDA, 1)), run(kGpu)));
}

int main(int argc, char** argv) {
  if (!at::hasCUDA()) {
    std::puts("gpu_library: no CUDA device: LibTorch finds none; nothing was tested");
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
