// A task whose n-th allocation fails, for every call and every n: an error each time, everything as
// it was, and the end has the bits of a task that lacked nothing.
#include <c10/core/CPUAllocator.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/sgd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <new>

#include <alkn/checkpoint/checkpoint.hpp>

#include "method/tiny.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

using at::Tensor;
using tiny::Batch, tiny::everything, tiny::Model, tiny::same_bits;

namespace alkn_test {
void fail_allocation(std::int64_t number);  // kernel/counting_new.cpp
bool count_allocation();
}  // namespace alkn_test

namespace {

std::atomic<std::int64_t> failing_tensor{0};  // of FailingAllocator's calls alone; below 1: none

/// LibTorch's allocator on the CPU, whose calls count as those of operator new do.
class FailingAllocator : public c10::Allocator {
 public:
  explicit FailingAllocator(c10::Allocator* real) : real_(real) {}
  c10::DataPtr allocate(std::size_t bytes) override {
    const bool one_of_ours = failing_tensor.load() > 0 && failing_tensor.fetch_sub(1) == 1;
    if (bytes > 0 && (one_of_ours || alkn_test::count_allocation())) {
      C10_THROW_ERROR(OutOfMemoryError, "the allocation that is to fail");
    }
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return real_->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    real_->copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* real_;
};

/// While it lives.
class WithFailingAllocator {
 public:
  WithFailingAllocator() : failing_(c10::GetDefaultCPUAllocator()) {
    c10::SetCPUAllocator(&failing_, 1);
  }
  ~WithFailingAllocator() { c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), 1); }
  WithFailingAllocator(const WithFailingAllocator&) = delete;
  WithFailingAllocator& operator=(const WithFailingAllocator&) = delete;

 private:
  FailingAllocator failing_;
};

/// The model and the optimizer.
template <class Method>
std::vector<Tensor> model_of(Method& unlearner) {
  std::vector<Tensor> all;
  for (const auto& p : tiny::core_of(unlearner).parameters()) {
    all.push_back(p.param.detach().clone());
    const auto found = unlearner.state().find(p.param.unsafeGetTensorImpl());
    if (found == unlearner.state().end()) continue;
    if (const auto* state = dynamic_cast<const alkn::AdamWParamState*>(found->second.get())) {
      all.push_back(state->exp_avg().clone());
      all.push_back(state->exp_avg_sq().clone());
      all.push_back(at::tensor(std::vector<std::int64_t>{state->step()}));
    }
  }
  return all;
}

template <class Method>
bool is_prepared(Method& unlearner) {
  auto& core = tiny::core_of(unlearner);
  return core.in_task() && core.task().prepared;
}

/// everything(), and what a running task has set aside.
template <class Method>
std::vector<Tensor> all_of(Method& unlearner) {
  std::vector<Tensor> all = everything(unlearner);
  auto& core = tiny::core_of(unlearner);
  const auto add_states = [&](const alkn::detail::OptimizerState& states) {
    std::vector<std::int64_t> there;
    for (const auto& p : core.parameters())
      there.push_back(states.count(p.param.unsafeGetTensorImpl()) > 0 ? 1 : 0);
    there.push_back(static_cast<std::int64_t>(states.size()));
    all.push_back(at::tensor(there));
  };
  add_states(unlearner.state());
  for (const auto& p : core.parameters())
    all.push_back(p.param.grad().defined() ? p.param.grad().clone() : Tensor());
  if (!core.in_task()) return all;
  add_states(core.task().state_before);
  for (const auto& options : core.task().options_before)
    all.push_back(at::tensor(std::vector<double>{options->get_lr()}));
  return all;
}

/// One call, again and again, the first time without its first allocation, the second time without
/// its second, until it has all.
/// @param prepare what comes before each try, undisturbed
/// @param tensors_only what is missed is memory of tensors, none of operator new: LibTorch's engine
/// and nlohmann's destructors end the program without that
template <class Method, class Call>
void disturb(const char* what, Method& unlearner, const std::function<void()>& prepare, Call call,
             bool tensors_only) {
  std::int64_t number = 1;
  for (;; ++number) {
    prepare();
    const auto before = all_of(unlearner), model = model_of(unlearner);
    const bool prepared = is_prepared(unlearner);
    bool thrown = true;
    std::string error;
    tensors_only ? failing_tensor.store(number) : alkn_test::fail_allocation(number);
    try {
      call();
      thrown = false;
    } catch (const std::exception& e) {
      error = e.what();
    }
    alkn_test::fail_allocation(0);
    failing_tensor.store(0);
    if (!thrown) break;
    INFO(what << ", without allocation " << number << ": " << error.substr(0, 200));
    // the first step may have finished G_r, and made scores and masks of zeros
    REQUIRE(same_bits(model, model_of(unlearner)));
    if (is_prepared(unlearner) == prepared) REQUIRE(same_bits(before, all_of(unlearner)));
    REQUIRE(number < 20000);
  }
}

/// Two tasks. @param disturbed every call of ours lacks memory first
template <class Method>
std::vector<Tensor> run(const Model& model, Method& unlearner, bool disturbed) {
  const auto file = std::filesystem::temp_directory_path() / "alkn_no_memory.safetensors";
  const auto nothing = [] {};
  const auto call = [&](const char* what, const std::function<void()>& prepare, const auto& fn,
                        bool tensors_only = false) {
    if (disturbed) {
      disturb(what, unlearner, prepare, fn, tensors_only);
    } else {
      prepare();
      fn();
    }
  };
  for (int number = 0; number < 2; ++number) {
    using Task = typename Method::TaskType;
    std::optional<Task> task;
    call("begin_task", nothing, [&] { task.emplace(unlearner.begin_task({.steps = 3})); });
    const Batch forget(number), retain(tiny::kRetain);
    if (task->wants_memory()) {
      const Tensor logits = model.forward(forget.tokens);
      call("remember", nothing, [&] { task->remember(forget.ids, logits, forget.labels); });
    }
    for (int batch = 0; task->wants_retain_gradient() && batch < 2; ++batch) {
      Tensor loss;
      call(
          "accumulate_retain_gradient",
          [&] { loss = alkn::mean_nll(model.forward(retain.tokens), retain.labels); },
          [&] { task->accumulate_retain_gradient(loss); }, true);
    }
    for (int step = 0; step < 2; ++step) {
      call(
          "step", [&] { tiny::set_gradients(model.params, step); }, [&] { unlearner.step(); });
    }
    call(
        "save_checkpoint", nothing, [&] { alkn::save_checkpoint(file, unlearner); }, true);
    if (unlearner.method_options().rollback() || Method::kNegates) {
      call("start_weights", nothing, [&] { const auto start = task->start_weights(); });
    }
    if constexpr (Method::kNegates) {
      call("weights_at", nothing, [&] { const auto shown = task->weights_at(0.5); });
    }
    if (number == 0) {
      call("end", nothing, [&] { task->end(); });
    } else {
      if constexpr (Method::kNegates) {
        call("end with a judge", nothing, [&] { task->end([] { return 2.0; }, 1, 2); });
      } else if (unlearner.method_options().rollback()) {
        call("abandon", nothing, [&] { task->abandon(); });
      }
    }
  }
  std::filesystem::remove(file);
  return all_of(unlearner);
}

template <class Make>
void check(Make make, at::ScalarType type = at::kFloat) {
  const WithFailingAllocator failing;
  Model one(type), other(type);
  const auto undisturbed = make(one);
  const auto right = run(one, *undisturbed, false);
  const auto unlearner = make(other);
  const auto got = run(other, *unlearner, true);
  CHECK(same_bits(got, right));
}

}  // namespace

TEST_CASE("ALKN: every call that finds no memory leaves everything as it was") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  const bool paper = GENERATE(false, true);
  check(
      [&](Model& model) {
        auto options = paper ? alkn::ALKNOptions::paper() : alkn::ALKNOptions::ratio();
        return std::make_unique<alkn::ALKN<>>(model.params, options.compact_state(paper));
      },
      type);
}

TEST_CASE("methods without a mask: every call that finds no memory leaves everything as it was") {
  SECTION("task vector") {
    check([](Model& model) { return std::make_unique<alkn::TaskVector<>>(model.params); });
  }
  SECTION("gradient ascent, held in host memory") {
    check([](Model& model) {
      return std::make_unique<alkn::GradientAscent<>>(
          model.params, alkn::GradientAscentOptions().rollback(true).start_on_host(true));
    });
  }
  SECTION("NPO, bfloat16") {
    check(
        [](Model& model) {
          return std::make_unique<alkn::NPO<>>(model.params, alkn::NPOOptions().rollback(true));
        },
        at::kBFloat16);
  }
}

namespace {

/// Where a step may fail between two parameters, the task says so, and abandon() restores.
template <class Make>
void check_broken(Make make, at::ScalarType type = at::kFloat) {
  const WithFailingAllocator failing;
  bool any_broken = false;
  for (std::int64_t number = 1;; ++number) {
    Model model(type);
    const auto method = make(model);
    const auto start = model.copies();
    auto task = method->begin_task({.steps = 3});
    const Batch retain(tiny::kRetain);
    if (task.wants_retain_gradient())
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(retain.tokens), retain.labels));
    tiny::set_gradients(model.params, 1);
    bool thrown = false;
    failing_tensor.store(number);
    try {
      method->step();
    } catch (const std::exception&) {
      thrown = true;
    }
    failing_tensor.store(0);
    INFO("without allocation " << number);
    if (!thrown) break;
    if (!tiny::core_of(*method).task().broken) {
      REQUIRE(same_bits(model.copies(), start));
      method->step();
      task.end();
      continue;
    }
    any_broken = true;
    const std::string text =
        "alkn::Task: expected abandon() after a call that failed with some parameters written, "
        "got ";
    CHECK(tiny::error_of([&] { method->step(); }) == text + "step()");
    CHECK(tiny::error_of([&] { task.end(); }) == text + "end()");
    CHECK(tiny::error_of([&] { const auto scope = task.start_weights(); }) ==
          text + "start_weights()");
    CHECK(tiny::error_of([&] { alkn::save_checkpoint("never.safetensors", *method); }) ==
          text + "save_checkpoint()");
    task.abandon();
    REQUIRE(same_bits(model.copies(), start));
    tiny::unlearn(*method, model, 2);
  }
  CHECK(any_broken);
}

}  // namespace

TEST_CASE("a step that fails between two parameters breaks its task, until abandon()") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  SECTION("over SGD") {
    check_broken(
        [](Model& model) {
          return std::make_unique<alkn::ALKN<torch::optim::SGD>>(
              model.params, alkn::ALKNOptions(), torch::optim::SGDOptions(0.1).momentum(0.9));
        },
        type);
  }
  SECTION("by Backend::aten") {
    check_broken(
        [](Model& model) {
          return std::make_unique<alkn::ALKN<>>(model.params,
                                                alkn::ALKNOptions().backend(alkn::Backend::aten));
        },
        type);
  }
}

TEST_CASE("parameters whose group finds no memory are not added") {
  const WithFailingAllocator failing;
  const auto check_added = [](auto make, const auto& options) {
    Model model;
    const auto method = make(model);
    const Tensor extra = tiny::wave({4, 4}, 0.3).set_requires_grad(true);
    const std::vector<alkn::NamedParameter> added{{"extra", extra}};
    const auto groups = [&] { return method->param_groups().size(); };
    std::int64_t number = 1;
    for (;; ++number) {
      bool thrown = false;
      const std::size_t num_states = method->state().size();
      alkn_test::fail_allocation(number);
      try {
        method->add_named_parameters(added, options);
      } catch (const std::exception&) {
        thrown = true;
      }
      alkn_test::fail_allocation(0);
      if (!thrown) break;
      INFO("without allocation " << number);
      REQUIRE(groups() == 1);
      REQUIRE(tiny::core_of(*method).parameters().size() == 4);
      REQUIRE(method->state().size() == num_states);
    }
    CHECK(number > 10);
    CHECK(groups() == 2);
    model.params.push_back({"extra", extra});
    tiny::set_gradients(model.params, 1);
    method->step();
  };
  check_added([](Model& model) { return std::make_unique<alkn::TaskVector<>>(model.params); },
              alkn::AdamWOverrides());
  check_added(
      [](Model& model) {
        return std::make_unique<alkn::TaskVector<torch::optim::Adagrad>>(
            model.params, alkn::TaskVectorOptions(), torch::optim::AdagradOptions(0.1));
      },
      torch::optim::AdagradOptions(0.2));
}

TEST_CASE("loading a checkpoint without memory changes nothing") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  const WithFailingAllocator failing;
  const auto file = std::filesystem::temp_directory_path() / "alkn_no_memory_load.safetensors";
  const auto check_loaded = [&](auto make) {
    std::vector<Tensor> right;
    {
      Model model(type);
      const auto method = make(model);
      auto task = method->begin_task({.steps = 3});
      tiny::prepare(task, model);
      tiny::set_gradients(model.params, 1);
      method->step();
      alkn::save_checkpoint(file, *method);
      right = all_of(*method);
      task.end();
    }
    Model model(type);
    const auto method = make(model);
    tiny::set_gradients(model.params, 2);
    method->step();
    for (auto& p : model.params) p.tensor.mutable_grad() = Tensor();
    const auto before = all_of(*method);
    for (std::int64_t number = 1;; ++number) {
      bool thrown = false;
      std::optional<typename std::decay_t<decltype(*method)>::TaskType> task;
      failing_tensor.store(number);
      try {
        auto loaded = alkn::load_checkpoint(file, *method);
        if (loaded) task.emplace(std::move(*loaded));
      } catch (const std::exception&) {
        thrown = true;
      }
      failing_tensor.store(0);
      INFO("without allocation " << number);
      if (!thrown) {
        CHECK(number > 30);
        for (auto& p : model.params) p.tensor.mutable_grad() = Tensor();
        REQUIRE(tiny::core_of(*method).in_task());
        CHECK(same_bits(
            everything(*method),
            std::vector<Tensor>(right.begin(), right.begin() + static_cast<std::ptrdiff_t>(
                                                                   everything(*method).size()))));
        break;
      }
      REQUIRE(same_bits(all_of(*method), before));
    }
  };
  check_loaded([](Model& model) { return std::make_unique<alkn::ALKN<>>(model.params); });
  check_loaded([](Model& model) {
    return std::make_unique<alkn::TaskVector<torch::optim::SGD>>(
        model.params, alkn::TaskVectorOptions(), torch::optim::SGDOptions(0.1).momentum(0.9));
  });
  std::filesystem::remove(file);
}

TEST_CASE("a strided parameter and a mask of the user's: every call leaves everything as it was") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  check(
      [](Model& model) {
        const Tensor head = model["head"].detach();
        model["head"] = head.t().contiguous().t().set_requires_grad(true);
        using Method = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Negate>;
        const Tensor mask = head.gt(0);
        return std::make_unique<Method>(model.params, Method::Options().masks({{"head", mask}}));
      },
      type);
}

TEST_CASE("a step of alkn::AdamW that finds no memory leaves no state behind") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  const WithFailingAllocator failing;
  const auto params_of = [](const Model& model) {
    std::vector<Tensor> params;
    for (const auto& p : model.params) params.push_back(p.tensor);
    return params;
  };
  Model one(type), other(type);
  alkn::AdamW undisturbed(params_of(one)), optimizer(params_of(other));
  for (int step = 0; step < 2; ++step) {
    tiny::set_gradients(one.params, step);
    tiny::set_gradients(other.params, step);
    undisturbed.step();
    const auto before = other.copies();
    const std::size_t num_states = optimizer.state().size();
    for (std::int64_t number = 1;; ++number) {
      bool thrown = false;
      alkn_test::fail_allocation(number);
      try {
        optimizer.step();
      } catch (const std::exception&) {
        thrown = true;
      }
      alkn_test::fail_allocation(0);
      if (!thrown) break;
      INFO("step " << step << ", without allocation " << number);
      REQUIRE(same_bits(other.copies(), before));
      REQUIRE(optimizer.state().size() == num_states);
    }
    CHECK(same_bits(other.copies(), one.copies()));
    CHECK(optimizer.state().size() == 4);
  }
}
