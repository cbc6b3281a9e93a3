// What a step and a task allocate, and what they do where there is no memory.
#include <c10/util/ThreadLocalDebugInfo.h>
#include <sys/resource.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <fstream>
#include <memory>

#include "method/tiny.hpp"

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

namespace {

/// A small and a large parameter of ones, which a step moves to .5.
struct TwoSizes {
  explicit TwoSizes(at::ScalarType type = at::kFloat, bool strided = false) {
    Tensor large = at::ones({4096, 4096}, type);
    if (strided) large = large.t();
    params = {{"small", at::ones({1024}, type).set_requires_grad(true)},
              {"large", large.set_requires_grad(true)}};
  }
  void set_gradients() {
    for (auto& p : params) p.tensor.mutable_grad() = at::ones_like(p.tensor);
  }
  /// The value of all entries of both; -1 where they differ.
  [[nodiscard]] double value() const {
    const double first = params[0].tensor[0].item<double>();
    for (const auto& p : params) {
      if (!p.tensor.detach().eq(first).all().item<bool>()) return -1;
    }
    return first;
  }
  std::vector<alkn::NamedParameter> params;
};

const auto kHalfStep = alkn::AdamWOptions(0.5).weight_decay(0).eps(0);

}  // namespace

TEST_CASE(
    "where start_weights finds no memory the model is as it was; on the way back it takes none") {
  TwoSizes model;
  alkn::TaskVector<> unlearner(model.params, {}, kHalfStep);
  auto task = unlearner.begin_task({.steps = 2});
  model.set_gradients();
  unlearner.step();
  const double tuned = model.value();
  CHECK(tuned == Approx(0.5).epsilon(1e-5));
  {
    const LessMemory less(30 * kMebibyte);
    CHECK_THROWS(task.start_weights());
  }
  CHECK(model.value() == tuned);
  {
    const std::unique_ptr<alkn::StartWeights> start(new alkn::StartWeights(task.start_weights()));
    CHECK(model.value() == 1);
    const LessMemory less(kMebibyte);
    auto& owner = const_cast<std::unique_ptr<alkn::StartWeights>&>(start);
    owner.reset();
    CHECK(model.params[1].tensor[5][5].item<double>() == tuned);
  }
  CHECK(model.value() == tuned);
  task.abandon();
  CHECK(model.value() == 1);
}

TEST_CASE("end negates every parameter or none, where there is no memory") {
  const auto check = [](TwoSizes& model, auto& unlearner, const auto& disturb, std::size_t bytes) {
    auto task = unlearner.begin_task({.steps = 2});
    model.set_gradients();
    unlearner.step();
    disturb();
    const double tuned = model.value();
    CHECK(tuned == Approx(0.5).epsilon(0.01));
    std::string error;
    {
      const LessMemory less(bytes);
      error = error_of([&] { task.end(); });
    }
    if (error == "no error") {  // needs none
      CHECK(model.value() == Approx(1.5).epsilon(0.01));
    } else {
      CHECK(model.value() == tuned);
      CHECK(unlearner.num_tasks() == 0);
      task.end();
      CHECK(model.value() == Approx(1.5).epsilon(0.01));
    }
    CHECK(unlearner.num_tasks() == 1);
    CHECK_FALSE(tiny::core_of(unlearner).in_task());
    return error;
  };
  const auto nothing = [] {};
  SECTION("a base whose constructor makes state") {
    TwoSizes model;
    alkn::TaskVector<torch::optim::Adagrad> unlearner(model.params, {},
                                                      torch::optim::AdagradOptions(0.5));
    CHECK(check(model, unlearner, nothing, 30 * kMebibyte) != "no error");
  }
  SECTION("double") {
    TwoSizes model(at::kDouble);
    alkn::TaskVector<> unlearner(model.params, {}, kHalfStep);
    CHECK(check(model, unlearner, nothing, 30 * kMebibyte) == "no error");
  }
  SECTION("strided") {
    TwoSizes model(at::kFloat, true);
    alkn::TaskVector<> unlearner(model.params, {}, kHalfStep);
    CHECK(check(model, unlearner, nothing, 30 * kMebibyte) == "no error");
  }
  SECTION("bfloat16, written by the user") {
    TwoSizes model(at::kBFloat16);
    alkn::TaskVector<> unlearner(model.params, {}, kHalfStep);
    const auto clamp = [&] {
      const at::NoGradGuard no_grad;
      model.params[1].tensor.clamp_(-10, 10);
    };
    CHECK(check(model, unlearner, clamp, 20 * kMebibyte) != "no error");
  }
}

TEST_CASE(
    "where the copy for the modulation of a foreign base finds no memory nothing is written") {
  TwoSizes model;
  alkn::ALKN<torch::optim::SGD> unlearner(
      model.params, alkn::ALKNOptions().modulation(alkn::Modulation::parameter),
      torch::optim::SGDOptions(0.1));
  for (int number = 0; number < 2; ++number) {
    auto task = unlearner.begin_task({.steps = 2});
    task.accumulate_retain_gradient(model.params[0].tensor.sum().add(model.params[1].tensor.sum()));
    model.set_gradients();
    unlearner.step();
    if (number == 1) {
      model.set_gradients();
      const auto& large = tiny::core_of(unlearner).parameters()[1];
      const double weight = large.param[0][0].item<double>();
      const Tensor score = large.score[0].clone();
      {
        const LessMemory less(30 * kMebibyte);
        CHECK_THROWS(unlearner.step());
      }
      CHECK(same_bits(large.score[0], score));
      CHECK(large.param.grad()[0][0].item<double>() == 1);
      CHECK(large.param[0][0].item<double>() == weight);
      CHECK(unlearner.last_step().step == 0);
      unlearner.step();
      CHECK(unlearner.last_step().step == 1);
    }
    task.end();
  }
}
