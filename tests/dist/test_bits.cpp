// N processes do to the bit what one process does with their averaged gradients.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "cuda/emulated_table.hpp"
#include "dist/thread_group.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::same_bits, tiny::wave;

namespace {

constexpr int kNone = -1;  // in place of a rank: one process with the averages of all

/// Parameters of two chunks, of one, of few entries, of one, without a dimension, without an
/// entry; the last one is frozen.
std::vector<alkn::NamedParameter> make_params(at::ScalarType type, double phase) {
  const std::vector<std::vector<std::int64_t>> shapes{{70000},  {300, 11}, {9},    {64, 64}, {1},
                                                      {130, 7}, {},        {0, 5}, {40, 3}};
  std::vector<alkn::NamedParameter> all;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const double own = phase + static_cast<double>(i);
    Tensor values = wave(shapes[i], own, 0.9, type);
    if (i == 5) values = values.t().contiguous().t();  // its entries are not in order
    all.push_back({fmt::format("p{}", i), values.set_requires_grad(i + 1 < shapes.size())});
  }
  return all;
}

/// The gradient that a process has at a moment; undefined: none.
Tensor part(int rank, int moment, std::size_t i, const Tensor& param) {
  if (i == 2 && moment % 2 == 1) return {};  // on no process
  if (i == 3 && rank == 0) return {};        // on some
  if (moment == 102 && rank > 0) return {};  // one process alone has retain data
  if (moment == 8 && i == 1) return {};      // in a step that is skipped
  if (!param.requires_grad()) return {};
  const double phase = 1.3 * rank + 0.7 * moment + 2.1 * static_cast<double>(i);
  Tensor values =
      wave(param.sizes(), phase, std::pow(10.0, -1 - static_cast<int>(i) % 3), param.scalar_type());
  if (i == 3) values = values.t().contiguous().t();
  if ((moment == 3 || moment == 8) && rank == 0 && i == 0)
    values[17].fill_(std::nan(""));  // skips that step
  return values;
}

/// Their mean, as the library defines it: summed in fp32 by rank, divided, rounded.
Tensor mean(int size, int moment, std::size_t i, const Tensor& param) {
  Tensor sum = at::zeros(param.sizes(), at::kFloat);
  bool any = false;
  for (int rank = 0; rank < size; ++rank) {
    const Tensor one = part(rank, moment, i, param);
    if (!one.defined()) continue;
    any = true;
    sum.add_(one.to(at::kFloat));
  }
  return any ? sum.div_(size).to(param.scalar_type()) : Tensor();
}

struct Case {
  int size, rank;  // rank kNone: alone
  [[nodiscard]] Tensor gradient(int moment, std::size_t i, const Tensor& param) const {
    return rank == kNone ? mean(size, moment, i, param) : part(rank, moment, i, param);
  }
};

/// All that a run shows, in its order.
struct Seen {
  std::vector<Tensor> weights;
  std::vector<std::string> reports;
  std::vector<Tensor> used;  // per parameter; undefined where its state is elsewhere

  void look(const std::vector<alkn::NamedParameter>& params) {
    for (const auto& p : params) weights.push_back(p.tensor.detach().clone());
  }
  void tell(const alkn::StepReport& r) {
    reports.push_back(fmt::format("step {} {} {:a} {:a} {:a} {:a} {}", r.task, r.step, r.grad_norm,
                                  r.clip_scale, r.unmask_ratio, r.fraction_trained, r.skipped));
  }
  void tell(const std::vector<alkn::TensorReport>& tensors) {
    for (const auto& t : tensors) {
      reports.push_back(fmt::format("{} {} {:a} {:a} {:a}", t.name, t.size, t.fraction_trained,
                                    t.overlap, t.threshold.value_or(-77)));
    }
  }
  void tell(const alkn::TaskReport& r) {
    reports.push_back(fmt::format("task {} {} {} {:a} {} {:a} {:a}", r.task, r.steps,
                                  r.skipped_steps, r.lambda, r.lambda_reduced, r.fraction_trained,
                                  r.overlap));
    tell(r.tensors);
  }
};

/// @param on_cuda by the CUDA kernels, which run block by block on the CPU
template <class Method, class Base>
Seen train(const typename Method::Options& options, const Base& base, at::ScalarType type,
           const Case& place, const alkn::Processes& processes, bool on_cuda = false) {
  Seen seen;
  // other values than process 0's: they are to be replaced
  const auto params = make_params(type, place.rank > 0 ? 5 : 0);
  Method method(params, options, base, processes);
  tiny::core_of(method).base().runner().emulate_cuda(on_cuda);
  int moment = 0;
  const auto set_gradients = [&] {
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Tensor gradient = place.gradient(moment, i, params[i].tensor);
      params[i].tensor.mutable_grad() = gradient.defined() ? gradient : Tensor();
    }
    ++moment;
  };
  const auto retain = [&](int batch) {
    Tensor loss;
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Tensor gradient = place.gradient(100 + 2 * batch, i, params[i].tensor);
      if (!gradient.defined()) continue;
      const Tensor term = params[i].tensor.mul(gradient).sum();
      loss = loss.defined() ? loss.add(term) : term;
    }
    return loss;
  };
  set_gradients();
  method.step();  // outside of a task
  seen.look(params);
  for (int t = 0; t < 3; ++t) {
    auto task = method.begin_task({.steps = 5});
    for (int batch = 0; batch < 2; ++batch) task.accumulate_retain_gradient(retain(3 * t + batch));
    for (int step = 0; step < 4; ++step) {
      set_gradients();
      method.step();
      seen.tell(method.last_step());
      seen.look(params);
    }
    seen.tell(method.last_tensors());
    {
      const auto scope = task.start_weights();
      seen.look(params);
    }
    seen.look(params);
    if constexpr (Method::kNegates) {
      {
        const auto scope = task.weights_at(0.3);
        seen.look(params);
      }
      seen.look(params);
      if (t == 0) {
        const auto judge = [&] {
          return params[0].tensor.detach().slice(0, 0, 100).mean().item<double>();
        };
        seen.tell(task.end(judge, judge(), 3));
      } else if (t == 1) {
        seen.tell(
            task.end({.forget = [&] { return -params[1].tensor.detach().norm().item<double>(); },
                      .forget_bound = -1e9,
                      .iterations = 3}));
      }
    }
    if (t == 2)
      task.abandon();
    else if (!Method::kNegates)
      seen.tell(task.end());
    seen.look(params);
  }
  const auto& core = tiny::core_of(method);
  for (std::size_t i = 0; i < params.size(); ++i) seen.used.push_back(core.parameters()[i].used);
  seen.reports.push_back(fmt::format("{} tasks", method.num_tasks()));
  return seen;
}

/// @param one what one process has seen
template <class Method, class Base>
void same_as(const Seen& one, int size, const typename Method::Options& options, const Base& base,
             at::ScalarType type, bool on_cuda = false) {
  for (const auto sharding : {alkn::Sharding::state, alkn::Sharding::none}) {
    std::vector<Seen> all(static_cast<std::size_t>(size));
    threads::run_all(size, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
      all[static_cast<std::size_t>(group->rank())] =
          train<Method>(options, base, type, {size, group->rank()}, {group, sharding}, on_cuda);
    });
    for (const Seen& seen : all) {
      INFO(size << " processes");
      CHECK(seen.reports == one.reports);
      REQUIRE(seen.weights.size() == one.weights.size());
      for (std::size_t k = 0; k < one.weights.size(); ++k) {
        INFO("look " << k);
        CHECK(same_bits(seen.weights[k], one.weights[k]));
      }
    }
    for (std::size_t i = 0; i < one.used.size(); ++i) {
      int holders = 0;
      for (const Seen& seen : all) {
        if (!seen.used[i].defined()) continue;
        ++holders;
        CHECK(same_bits(seen.used[i], one.used[i]));
      }
      if (one.used[i].defined()) CHECK(holders == (sharding == alkn::Sharding::none ? size : 1));
    }
  }
}

template <class Method, class Base>
void same_as_one(const typename Method::Options& options, const Base& base,
                 at::ScalarType type = at::kFloat) {
  for (const int size : {1, 2, 3, 4})
    same_as<Method>(train<Method>(options, base, type, {size, kNone}, {}), size, options, base,
                    type);
}

/// The CUDA kernels of two processes against the CPU's of one.
template <class Method, class Base>
void cuda_same_as_one(const typename Method::Options& options, const Base& base,
                      at::ScalarType type = at::kFloat) {
  constexpr int kSize = 2;
  const alkn_test::EmulatedTable table;
  const Seen one = train<Method>(options, base, type, {kSize, kNone}, {});
  CHECK(alkn_test::EmulatedTable::num_steps == 0);
  same_as<Method>(one, kSize, options, base, type, /*on_cuda=*/true);
  CHECK(alkn_test::EmulatedTable::num_steps >= 2 * kSize * 12);
}

}  // namespace

TEST_CASE("ALKN on N processes has the bits of one: conflict, reference, paper, ratio") {
  const alkn::AdamWOptions base(1e-2);
  for (const auto& options : {alkn::ALKNOptions::conflict(), alkn::ALKNOptions::reference(),
                              alkn::ALKNOptions::paper(), alkn::ALKNOptions::ratio()})
    same_as_one<alkn::ALKN<>>(options, base);
}

TEST_CASE("bfloat16 with masters and a compact state on N processes has the bits of one") {
  const alkn::AdamWOptions base(1e-2);
  same_as_one<alkn::ALKN<>>(alkn::ALKNOptions(), base, at::kBFloat16);
  same_as_one<alkn::ALKN<>>(alkn::ALKNOptions().compact_state(true), base);
}

TEST_CASE("a mask of the user's on N processes has the bits of one") {
  using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Negate>;
  std::vector<alkn::NamedParameter> masks;
  for (const auto& p : make_params(at::kFloat, 3)) {
    if (p.name != "p1") masks.push_back({p.name, p.tensor.detach().gt(0.2)});
  }
  for (const auto masked : {alkn::Masked::gradient, alkn::Masked::freeze}) {
    same_as_one<Masked>(Masked::Options().masks(masks).masked(masked), alkn::AdamWOptions(1e-2),
                        at::kBFloat16);
  }
}

TEST_CASE("methods without a mask on N processes have the bits of one") {
  const alkn::AdamWOptions base(1e-2);
  same_as_one<alkn::NPO<>>(alkn::NPOOptions().rollback(true), base);
  same_as_one<alkn::TaskVector<>>(alkn::TaskVectorOptions().start_on_host(true), base);
}

TEST_CASE("a foreign base on N processes has the bits of one") {
  const auto base = torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(0.01);
  using Method = alkn::ALKN<torch::optim::SGD>;
  same_as_one<Method>(alkn::ALKNOptions::paper(), base);
  same_as_one<Method>(alkn::ALKNOptions(), base, at::kBFloat16);
}

TEST_CASE("the CUDA kernels of two processes have the bits of one process on the CPU") {
  const alkn::AdamWOptions base(1e-2);
  cuda_same_as_one<alkn::ALKN<>>(alkn::ALKNOptions(), base, at::kBFloat16);
  cuda_same_as_one<alkn::ALKN<>>(alkn::ALKNOptions::paper().compact_state(true), base);
  cuda_same_as_one<alkn::TaskVector<>>(alkn::TaskVectorOptions(), base);
  cuda_same_as_one<alkn::ALKN<torch::optim::SGD>>(alkn::ALKNOptions::ratio(),
                                                  torch::optim::SGDOptions(0.1).momentum(0.9));
}

TEST_CASE("a step by the CUDA kernels leaves no call of all processes for a local one") {
  const alkn_test::EmulatedTable table;
  std::vector<alkn::StepReport> last(2);
  threads::run_all(2, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
    const auto params = make_params(at::kFloat, 0);
    alkn::ALKN<> method(params, alkn::ALKNOptions(), alkn::AdamWOptions(1e-2), group);
    tiny::core_of(method).base().runner().emulate_cuda(true);
    auto task = method.begin_task({.steps = 2});
    task.accumulate_retain_gradient(tiny::sum_of_squares(params));
    for (int step = 0; step < 2; ++step) {
      for (const auto& p : params) p.tensor.mutable_grad() = wave(p.tensor.sizes(), step, 0.1);
      method.step();
      if (group->rank() == 0 || step == 1)  // on one alone, where steps go on
        last[static_cast<std::size_t>(group->rank())] = method.last_step();
      tiny::ignore(group->share(1));  // the next call of all
    }
    task.end();
  });
  CHECK(last[0].step == 1);
  CHECK(last[0].fraction_trained == last[1].fraction_trained);
}

TEST_CASE("a step sends gradients and weights once, and holds the state of its share") {
  const alkn::AdamWOptions base(1e-2);
  const auto state_bytes = [](const alkn::ALKN<>& method) {
    double bytes = 0;
    for (const auto& p : tiny::core_of(method).parameters()) {
      for (const Tensor& t : {p.start, p.retain, p.score, p.mask, p.used})
        bytes += t.defined() ? static_cast<double>(t.nbytes()) : 0;
      const auto found = method.state().find(p.param.unsafeGetTensorImpl());
      if (found == method.state().end()) continue;
      const auto& moments = static_cast<const alkn::AdamWParamState&>(*found->second);
      bytes += static_cast<double>(moments.exp_avg().nbytes() + moments.exp_avg_sq().nbytes());
    }
    return bytes;
  };
  std::vector<double> held(3), sent(3);
  double whole = 0;
  const auto run = [&](const alkn::Processes& processes, int rank) {
    const auto params = make_params(at::kFloat, 0);
    alkn::ALKN<> method(params, alkn::ALKNOptions(), base, processes);
    auto task = method.begin_task({.steps = 2});
    task.accumulate_retain_gradient(tiny::sum_of_squares(params));
    const auto& group = std::dynamic_pointer_cast<threads::ThreadGroup>(processes.group);
    const std::int64_t before = group ? group->num_bytes : 0;
    for (const auto& p : params) p.tensor.mutable_grad() = wave(p.tensor.sizes(), rank, 0.1);
    method.step();
    if (group) {
      sent[static_cast<std::size_t>(rank)] = static_cast<double>(group->num_bytes - before);
      held[static_cast<std::size_t>(rank)] = state_bytes(method);
    } else {
      whole = state_bytes(method);
    }
    task.abandon();
  };
  run({}, 0);
  threads::run_all(
      3, [&](const std::shared_ptr<threads::ThreadGroup>& group) { run(group, group->rank()); });
  // 4 bytes of gradient and of weight an element; 8 a chunk for the norm; 8 a parameter to say
  // which have a gradient, 24 for what came of the step
  const double elements = 70000 + 3300 + 9 + 4096 + 1 + 910 + 1 + 0 + 120, chunks = 9, params = 9;
  for (const double bytes : sent) CHECK(bytes == 8 * elements + 8 * chunks + 32 * params);
  CHECK(held[0] + held[1] + held[2] == whole);
  // one parameter of 70,000 is more than a third: it is the largest share
  CHECK(*std::max_element(held.begin(), held.end()) < 1.03 * whole * 70000 / elements);
}
