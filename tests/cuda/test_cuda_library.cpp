// The library over the CUDA kernels, which run block by block on the CPU: steps of a CUDA graph,
// and over several devices.
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>
#include <torch/optim/sgd.h>

#include <alkn/alkn.hpp>
#include <alkn/tensor/bits.hpp>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "emulated_table.hpp"
#include "method/tiny.hpp"

namespace {

using alkn_test::EmulatedTable;
using at::Tensor;
using tiny::error_of;
using Named = std::vector<std::pair<std::string, Tensor>>;

/// With a runner that goes to the emulation.
struct EmulatedAdamW : alkn::AdamW {
  EmulatedAdamW(std::vector<Tensor> params, const alkn::AdamWOptions& options)
      : AdamW(std::move(params), options) {
    runner_.emulate_cuda(true);
  }
};
template <class Unlearner>
void emulate(Unlearner& unlearner) {
  alkn::detail::CoreAccess::core(unlearner)->base().runner().emulate_cuda(true);
}

/// While it lives, a graph is being captured.
struct Capture {
  Capture() { EmulatedTable::captures = true; }
  ~Capture() { EmulatedTable::captures = false; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
};

Tensor parameter() {
  at::manual_seed(1);
  return at::randn({60, 50}).requires_grad_(true);
}

/// Six steps, of which the third and the last are skipped; the weights and the report.
std::pair<Tensor, alkn::TaskReport> task_by(bool graph) {
  const Tensor param = parameter();
  alkn::ALKN<> unlearner(Named{{"weight", param}}, alkn::ALKNOptions::conflict(),
                         alkn::AdamWOptions(1e-2).compact_state(true));
  emulate(unlearner);
  auto task = unlearner.begin_task({.steps = 6});
  task.accumulate_retain_gradient((param * at::randn({60, 50})).sum());
  for (int i = 0; i < 6; ++i) {
    param.mutable_grad() = at::randn({60, 50});
    if (i == 2 || i == 5) param.mutable_grad()[3][4] = NAN;
    if (i == 1 && graph) {
      const Capture capture;
      unlearner.step();
    }
    if (i == 0 || !graph) {
      unlearner.step();
      continue;
    }
    unlearner.prepare_replay();
    EmulatedTable::replay();
  }
  CHECK(unlearner.last_step().skipped);
  CHECK(unlearner.last_step().step == 5);
  alkn::TaskReport report = task.end();
  return {param.detach().clone(), std::move(report)};
}

/// The memory of a CPU's tensor as one of another device, which no operation may touch.
Tensor as_if_on(at::Device device, const Tensor& t) {
  if (!t.defined()) return {};
  return at::for_blob(t.data_ptr(), t.sizes())
      .options(t.options().device(device))
      .target_device(device)
      .make_tensor();
}

alkn::detail::StepSlot slot_of(std::int64_t size, bool compact) {
  using alkn::detail::num_mask_words;
  const auto type = compact ? at::kBFloat16 : at::kFloat;
  alkn::detail::StepSlot s;
  s.param = at::randn({size}).to(type);
  if (compact) s.master = s.param->to(at::kFloat);
  s.grad = at::zeros({size}, type);
  s.retain = at::randn({size}).to(type);
  s.exp_avg = at::zeros({size}, type);
  s.exp_avg_sq = at::zeros({size}, type);
  s.score = at::zeros({size}, type);
  s.mask = at::zeros({num_mask_words(size)}, at::kLong);
  s.adamw.lr = s.adamw.lr_used = 1e-2;
  s.learns_threshold = true;
  return s;
}

std::vector<alkn::detail::TensorRef*> tensors_of(alkn::detail::StepSlot& s) {
  return {&s.param,      &s.master, &s.grad, &s.retain, &s.exp_avg,
          &s.exp_avg_sq, &s.score,  &s.mask, &s.used};
}

}  // namespace

TEST_CASE("a task's steps on two devices are those on one") {
  const EmulatedTable table;
  const bool compact = GENERATE(false, true), later = GENERATE(false, true);
  at::manual_seed(3);
  std::vector<alkn::detail::StepSlot> one, two;
  for (const std::int64_t size : {20001, 9, 70001, 300, 9000}) {
    one.push_back(slot_of(size, compact));
    if (later) one.back().used = at::randint(1 << 30, one.back().mask->sizes(), at::kLong);
    two.push_back(one.back());
    alkn::detail::StepSlot& s = two.back();
    for (alkn::detail::TensorRef* t : tensors_of(s)) {
      if (t->defined()) *t = (*t)->clone();
    }
  }
  std::vector<alkn::detail::StepSlot> held = two;  // their memory
  for (std::size_t i = 0; i < two.size(); ++i) {
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(i % 2));
    for (alkn::detail::TensorRef* t : tensors_of(two[i])) *t = as_if_on(device, *t);
  }
  alkn::detail::StepRunner on_one, on_two;
  on_one.emulate_cuda(true);
  alkn::kernel::StepArgs args;
  args.mask = alkn::kernel::MaskKind::localized;
  args.threshold_due = !later;
  args.max_norm = 1;
  args.score.penalty = 0.5F;
  for (int step = 1; step <= 4; ++step) {
    CAPTURE(compact, later, step);
    for (std::size_t i = 0; i < one.size(); ++i) {
      one[i].grad->normal_();
      if (step == 2 && i == 3) (*one[i].grad)[7] = INFINITY;  // on the second device
      held[i].grad->copy_(one[i].grad);
      one[i].adamw.step = two[i].adamw.step = step;
    }
    on_one.run(one, args, alkn::Backend::cpu);
    on_two.run(two, args, alkn::Backend::cuda);
    REQUIRE((on_one.pending() && on_two.pending()));
    const alkn::kernel::StepResult want = on_one.settle(one), got = on_two.settle(two);
    CHECK(got.skipped == (step == 2));
    CHECK(got.skipped == want.skipped);
    if (!got.skipped) CHECK(got.grad_norm == Approx(want.grad_norm).epsilon(1e-14));
    for (std::size_t i = 0; i < one.size(); ++i) {
      CAPTURE(i);
      CHECK(at::equal(held[i].param, one[i].param));
      CHECK(at::equal(held[i].score, one[i].score));
      CHECK(at::equal(held[i].exp_avg_sq, one[i].exp_avg_sq));
      CHECK(at::equal(held[i].mask, one[i].mask));
      CHECK(two[i].threshold == one[i].threshold);
      CHECK(two[i].num_trained == one[i].num_trained);
      CHECK(two[i].deviation == one[i].deviation);
    }
  }
}

TEST_CASE("parameters on the CPU and on CUDA are refused") {
  const EmulatedTable table;
  const Tensor memory = at::randn({4});
  alkn::detail::CommonBackend common(alkn::Backend::automatic, "ALKN");
  common.add(as_if_on(at::Device(at::kCUDA, 0), memory), "first");
  common.add(as_if_on(at::Device(at::kCUDA, 1), memory), "second");
  CHECK(common.get() == alkn::Backend::cuda);
  CHECK(error_of([&] { common.add(memory, "third"); }) ==
        "alkn::ALKN: expected parameters on CUDA devices or on the CPU, or Backend::aten, got some "
        "on cuda:0 and on cpu (parameter \"third\")");
}

TEST_CASE("the steps of a graph in a task are those without one, skipped ones too") {
  const EmulatedTable table;
  const auto [got, got_report] = task_by(true);
  const auto [want, want_report] = task_by(false);
  CHECK(at::equal(got, want));
  CHECK(got_report.skipped_steps == 2);
  CHECK(got_report.fraction_trained == want_report.fraction_trained);
  CHECK(got_report.tensors[0].threshold == want_report.tensors[0].threshold);
}

TEST_CASE("the steps of a graph of alkn::AdamW are those without one, at any learning rate") {
  const EmulatedTable table;
  const auto run = [](bool graph) {
    const Tensor param = parameter();
    EmulatedAdamW optimizer({param}, alkn::AdamWOptions(1e-2));
    for (int i = 0; i < 5; ++i) {
      param.mutable_grad() = at::randn({60, 50});
      optimizer.param_groups()[0].options().set_lr(1e-2 / (i + 1));
      if (i == 1 && graph) {
        const Capture capture;
        optimizer.step();
      }
      if (i == 0 || i == 3 || !graph) {  // a step without the graph in between
        optimizer.step();
        continue;
      }
      optimizer.prepare_replay();
      EmulatedTable::replay();
    }
    return param.detach().clone();
  };
  CHECK(at::equal(run(true), run(false)));
}

TEST_CASE("a capture without a step before it, and a replay without a capture, are refused") {
  const EmulatedTable table;
  const Tensor param = parameter();
  param.mutable_grad() = at::randn({60, 50});
  const std::string none =
      "alkn::kernel::CudaStep: expected a captured step of the same tensors and kind to be "
      "prepared, got none";

  EmulatedAdamW optimizer({param}, alkn::AdamWOptions(1e-2));
  {
    const Capture capture;
    CHECK(error_of([&] { optimizer.step(); }) ==
          "alkn::AdamW: expected a step with the same gradients "
          "before the one that a CUDA graph captures, got none");
  }
  optimizer.step();
  CHECK(error_of([&] { optimizer.prepare_replay(); }) == none);
  {
    const Capture capture;
    optimizer.step();
  }
  optimizer.prepare_replay();
  EmulatedTable::replay();
  const Tensor more = at::randn({70000}).requires_grad_(true);
  more.mutable_grad() = at::randn({70000});
  optimizer.add_param_group(torch::optim::OptimizerParamGroup({more}));
  optimizer.step();  // over more tensors: the graph's kernels know the old arrays
  CHECK(error_of([&] { optimizer.prepare_replay(); }) == none);

  alkn::ALKN<> unlearner(Named{{"weight", param}}, alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  emulate(unlearner);
  unlearner.step();
  {
    const Capture capture;
    unlearner.step();
  }
  auto task = unlearner.begin_task({.steps = 3});
  task.accumulate_retain_gradient((param * param).sum());
  {
    const Capture capture;
    CHECK(error_of([&] { unlearner.step(); }) ==
          "alkn::ALKN: expected a step of the task before the one "
          "that a CUDA graph captures, got none (task 0)");
  }
  unlearner.step();
  CHECK(error_of([&] { unlearner.prepare_replay(); }) ==
        none);  // the graph's kernels know no scores

  alkn::Unlearner<alkn::EntropicSoftLabels, alkn::NoMask, alkn::Negate, torch::optim::SGD> foreign(
      Named{{"weight", param}}, {}, torch::optim::SGDOptions(1e-2));
  emulate(foreign);
  auto other = foreign.begin_task({.steps = 1});
  const Capture capture;
  CHECK(error_of([&] { foreign.step(); }) ==
        "alkn::Unlearner: expected alkn::AdamW as the base of a step "
        "in a CUDA graph, got another");
}

TEST_CASE("a replay is for CUDA, and for tensors without gaps") {
  const Tensor param = parameter();
  param.mutable_grad() = at::randn({60, 50});
  alkn::AdamW on_cpu({param}, alkn::AdamWOptions(1e-2));
  CHECK(error_of([&] { on_cpu.prepare_replay(); }) ==
        "alkn::StepRunner: expected the CUDA kernels for a step of a "
        "CUDA graph, got another backend");
  const EmulatedTable table;
  EmulatedAdamW optimizer({param}, alkn::AdamWOptions(1e-2));
  optimizer.step();
  param.mutable_grad() = at::randn({50, 60}).t();
  const Capture capture;
  CHECK(error_of([&] { optimizer.step(); }) ==
        "alkn::StepRunner: expected contiguous parameters and "
        "gradients for a step of a CUDA graph, got others");
}
