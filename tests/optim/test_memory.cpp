// What a step and a task allocate, and what they do where there is no memory.
#include <c10/util/ThreadLocalDebugInfo.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "optim/tiny.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

using at::Tensor;
using tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;

namespace alkn_test {
std::int64_t num_allocations();  // kernel/counting_new.cpp
}

namespace {

/// Counts what is taken from LibTorch's allocator while it lives; operator new is counted apart.
class TensorMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, std::int64_t size, std::size_t, std::size_t, c10::Device) override {
    count += size > 0 ? 1 : 0;
  }
  [[nodiscard]] bool memoryProfilingEnabled() const override { return true; }
  std::int64_t count = 0;
};

template <class Step>
std::int64_t allocations_of(Step&& step) {
  const auto memory = std::make_shared<TensorMemory>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
  const std::int64_t before = alkn_test::num_allocations();
  step();
  return alkn_test::num_allocations() - before + memory->count;
}

/// The process can map so many bytes more while it lives.
class LessMemory {
 public:
  explicit LessMemory(std::size_t bytes) {
    std::ifstream pages("/proc/self/statm");
    std::size_t mapped = 0;
    pages >> mapped;
    REQUIRE(::getrlimit(RLIMIT_AS, &before_) == 0);
    rlimit less = before_;
    less.rlim_cur = mapped * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + bytes;
    REQUIRE(::setrlimit(RLIMIT_AS, &less) == 0);
  }
  ~LessMemory() { ::setrlimit(RLIMIT_AS, &before_); }
  LessMemory(const LessMemory&) = delete;
  LessMemory& operator=(const LessMemory&) = delete;

 private:
  rlimit before_{};
};

constexpr std::size_t kMebibyte = std::size_t{1} << 20U;

/// 16 Mi fp32 weights and their gradient.
Tensor large_weight() {
  Tensor w = at::zeros({4096, 4096}).set_requires_grad(true);
  w.mutable_grad() = at::full({4096, 4096}, 0.5);
  return w;
}

}  // namespace

TEST_CASE("a step of alkn::AdamW allocates nothing after the first") {
  Model model;
  std::vector<Tensor> params;
  for (const auto& p : model.params) params.push_back(p.tensor);
  alkn::AdamW optimizer(params);
  for (int i = 0; i < 4; ++i) {
    tiny::set_gradients(model.params, i);
    const std::int64_t count = allocations_of([&] { optimizer.step(); });
    INFO("step " << i);
    CHECK((i == 0 ? count > 0 : count == 0));
  }
}

TEST_CASE("a step of a task allocates nothing after the first") {
  Model model;
  alkn::ALKN<> unlearner(model.params);
  for (int number = 0; number < 2; ++number) {
    auto task = unlearner.begin_task({.steps = 6});
    tiny::prepare(task, model, number);
    for (int i = 0; i < 6; ++i) {
      tiny::set_gradients(model.params, i);
      const std::int64_t count = allocations_of([&] { unlearner.step(); });
      INFO("task " << number << ", step " << i);
      if (i > 0) CHECK(count == 0);
    }
    task.end();
  }
}

TEST_CASE("where the state finds no memory the error says how much, and nothing is changed") {
  const Tensor w = large_weight(), before = w.detach().clone();
  alkn::AdamW optimizer(std::vector<Tensor>{w});
  {
    const LessMemory less(40 * kMebibyte);
    CHECK_THROWS_AS(optimizer.step(), c10::OutOfMemoryError);
    CHECK(
        error_of([&] { optimizer.step(); }) ==
        "alkn: expected memory for 134217728 bytes of state, 67108864 of them at once, got none on "
        "cpu");
  }
  CHECK(same_bits(w, before));
  CHECK(optimizer.state().empty());
  optimizer.step();
  CHECK_FALSE(same_bits(w, before));
}

TEST_CASE("where a task finds no memory it does not begin") {
  const Tensor w = large_weight();
  alkn::ALKN<> unlearner(std::vector<alkn::NamedParameter>{{"w", w}});
  unlearner.step();  // moments, which are not lost either
  const auto before = everything(unlearner);
  {
    const LessMemory less(100 * kMebibyte);
    // theta_{t-1}, G_r, score: 4 bytes a weight each; a mask bit
    CHECK(
        error_of([&] { auto task = unlearner.begin_task({.steps = 2}); }) ==
        "alkn: expected memory for 203423744 bytes of state, 67108864 of them at once, got none on "
        "cpu");
  }
  CHECK(same_bits(everything(unlearner), before));
  auto task = unlearner.begin_task({.steps = 2});
  task.abandon();
}

TEST_CASE("the sum of the retain gradient takes no memory beside the gradient and the task's own") {
  const Tensor w = large_weight();
  alkn::ALKN<> unlearner(std::vector<alkn::NamedParameter>{{"w", w}});
  auto task = unlearner.begin_task({.steps = 2});
  const Tensor factor = at::full({4096, 4096}, 0.25);
  for (int batch = 0; batch < 2; ++batch) {
    const Tensor loss = w.mul(factor).sum();
    const LessMemory less(100 * kMebibyte);  // a gradient takes 64
    task.accumulate_retain_gradient(loss);
  }
  unlearner.step();
  task.end();
}
