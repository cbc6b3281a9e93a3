// The parameters of a method: lists, types, shapes, gradients that are there or not.
#include <torch/csrc/jit/api/module.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::core_of, tiny::error_of, tiny::Model, tiny::same_bits, tiny::unlearn;

TEST_CASE("every parameter of a list is stepped, and keeps its own memory") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto before = model.copies();
  std::vector<const void*> places;
  for (const auto& p : model.params) places.push_back(p.tensor.const_data_ptr());
  tiny::unlearn(method, model, 2);
  for (std::size_t i = 0; i < before.size(); ++i) {
    CHECK_FALSE(same_bits(model.params[i].tensor, before[i]));
    CHECK(model.params[i].tensor.const_data_ptr() == places[i]);
  }
}

TEST_CASE("frozen parameters stay, and unused ones as well") {
  for (const Backend backend : tiny::kBackends) {
    Model model;
    model["weight"].set_requires_grad(false);
    model.add("unused", {4, 5}, 0.3, at::kFloat);
    alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions().backend(backend),
                           alkn::AdamWOptions(1e-2).weight_decay(0.5));
    const auto before = model.copies();
    for (int t = 0; t < 2; ++t) {
      const auto report = unlearn(unlearner, model, 3, t);
      CHECK(report.tensors[1].fraction_trained == 0);
      CHECK(report.tensors[4].fraction_trained == 0);
      CHECK(report.tensors[0].fraction_trained > 0);
      CHECK_FALSE(report.tensors[4].threshold.has_value());
    }
    CHECK_FALSE(same_bits(model["embed"], before[0]));
    CHECK(same_bits(model["weight"], before[1]));
    CHECK(same_bits(model["unused"], before[4]));
  }
}

TEST_CASE("a parameter whose gradient is undefined is left alone in that step") {
  for (const Backend backend : tiny::kBackends) {
    Model model;
    alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions().backend(backend).threshold_every(5));
    auto task = unlearner.begin_task({.steps = 3});
    tiny::prepare(task, model);
    tiny::set_gradients(model.params, 1);
    model["head"].mutable_grad() = Tensor();
    const Tensor before = model["head"].detach().clone();
    unlearner.step();
    CHECK(same_bits(model["head"], before));
    CHECK_FALSE(core_of(unlearner).parameters()[3].eta.has_value());
    tiny::set_gradients(model.params, 2);
    unlearner.step();  // learns its threshold now, although none is due
    CHECK_FALSE(same_bits(model["head"], before));
    CHECK(core_of(unlearner).parameters()[3].eta.has_value());
    const auto& state = static_cast<const alkn::AdamWParamState&>(
        *unlearner.state().at(model["head"].unsafeGetTensorImpl()));
    CHECK(state.step() == 1);
  }
}

TEST_CASE("tied parameters are handled once") {
  for (const Backend backend : tiny::kBackends) {
    Model tied, once;
    for (Model* model : {&tied, &once}) model->params[3].tensor = model->params[0].tensor;
    auto single = once.params;
    single.pop_back();
    const auto options = alkn::ALKNOptions().backend(backend);
    alkn::ALKN<> a(tied.params, options), b(single, options);
    CHECK(a.param_groups()[0].params().size() == 3);
    for (int t = 0; t < 2; ++t) {
      unlearn(a, tied, 3, t);
      unlearn(b, once, 3, t);
    }
    CHECK(same_bits(tied.copies(), once.copies()));
    CHECK(tied.params[0].tensor.is_same(tied.params[3].tensor));
  }
}

TEST_CASE("a jit module is unlearned through its own parameter list") {
  torch::jit::Module inner("inner"), module("outer");
  const Tensor weight = tiny::wave({6, 5}, 0.4).set_requires_grad(true);
  const Tensor bias = tiny::wave({5}, 0.9).set_requires_grad(true);
  inner.register_parameter("weight", weight, false);
  inner.define("def forward(self, x):\n    return x.matmul(self.weight)\n");
  module.register_module("inner", inner);
  module.register_parameter("bias", bias, false);
  module.define("def forward(self, x):\n    return self.inner.forward(x) + self.bias\n");
  alkn::TaskVector<> unlearner(module.named_parameters());
  CHECK(core_of(unlearner).parameters().size() == 2);
  const Tensor input = tiny::wave({2, 3, 6}, 0.2);
  const Tensor labels = at::arange(6, at::kLong).remainder(5).reshape({2, 3});
  auto task = unlearner.begin_task({.steps = 5});
  double first = 0, last = 0;
  for (int i = 0; i < 5; ++i) {
    unlearner.zero_grad();
    const Tensor loss =
        task.loss(at::arange(2, at::kLong), module.forward({input}).toTensor(), labels);
    loss.backward();
    unlearner.step();
    (i == 0 ? first : last) = loss.item<double>();
  }
  CHECK(last < first);
  const auto report = task.end();
  std::vector<std::string> names{report.tensors[0].name, report.tensors[1].name};
  std::sort(names.begin(), names.end());
  CHECK(names == std::vector<std::string>{"bias", "inner.weight"});
}

TEST_CASE("pairs, OrderedDict items and NamedParameters are parameter lists") {
  const Tensor w = tiny::wave({3, 4}, 0.1).set_requires_grad(true);
  alkn::TaskVector<> pairs(std::vector<std::pair<std::string, Tensor>>{{"w", w}});
  torch::OrderedDict<std::string, Tensor> dict;
  dict.insert("w", w);
  alkn::TaskVector<> ordered(dict);
  CHECK(core_of(pairs).parameters()[0].name == "w");
  CHECK(core_of(ordered).parameters()[0].name == "w");
}

TEST_CASE("models of float, double, bfloat16 and half learn and forget") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kDouble, at::kBFloat16, at::kHalf);
  const auto check = [&](auto& unlearner, Model& model, bool ascends) {
    const tiny::Batch forget(0);
    auto task = unlearner.begin_task({.steps = 8});
    tiny::prepare(task, model);
    const auto nll = [&] {
      return alkn::mean_nll(model.forward(forget.tokens), forget.labels).template item<double>();
    };
    const double before = nll();
    for (int i = 0; i < 8; ++i) tiny::step(unlearner, task, model);
    INFO(unlearner.method_name() << " " << c10::toString(type));
    CHECK((ascends ? nll() > before : nll() < before));
    task.end();
    CHECK(nll() > before);
    for (const auto& p : model.params) CHECK(p.tensor.scalar_type() == type);
    for (const auto& state : core_of(unlearner).parameters()) {
      const Tensor master = core_of(unlearner).base().masters().get(state.param);
      CHECK(master.defined() == (type == at::kBFloat16 || type == at::kHalf));
      if (master.defined()) CHECK(same_bits(master.to(type), state.param));
    }
  };
  const auto base = alkn::AdamWOptions(1e-2);
  for (const Backend backend : {Backend::aten, Backend::automatic}) {
    Model a(type), b(type), c(type);
    alkn::ALKN<> knowledge(a.params, alkn::ALKNOptions().backend(backend), base);
    check(knowledge, a, false);
    alkn::TaskVector<> vector(b.params, alkn::TaskVectorOptions().backend(backend), base);
    check(vector, b, false);
    alkn::GradientAscent<> ascent(c.params, alkn::GradientAscentOptions().backend(backend), base);
    check(ascent, c, true);
  }
}

TEST_CASE("a low-precision parameter that somebody else writes is taken over") {
  Model model(at::kBFloat16);
  alkn::TaskVector<> unlearner(model.params);
  tiny::set_gradients(model.params, 1);
  unlearner.step();
  SECTION("in place") {
    const at::NoGradGuard no_grad;
    model["weight"].fill_(3);
  }
  SECTION("by other data under the same tensor") {
    model["weight"].set_data(at::full({tiny::kWidth, tiny::kWidth}, 3, at::kBFloat16));
  }
  model["weight"].mutable_grad() = at::zeros({tiny::kWidth, tiny::kWidth}, at::kBFloat16);
  unlearner.step();
  CHECK(tiny::distance(model["weight"], at::full({tiny::kWidth, tiny::kWidth}, 3.0)) < 0.1);
}

TEST_CASE("the retain gradient is kept in the precision that is asked for") {
  const auto type_of = [](alkn::RetainPrecision precision, at::ScalarType type) {
    Model model(type);
    alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions().retain_precision(precision));
    auto task = unlearner.begin_task({.steps = 2});
    tiny::prepare(task, model);
    tiny::step(unlearner, task, model);
    return core_of(unlearner).parameters()[0].retain.scalar_type();
  };
  CHECK(type_of(alkn::RetainPrecision::automatic, at::kFloat) == at::kFloat);
  CHECK(type_of(alkn::RetainPrecision::automatic, at::kBFloat16) == at::kBFloat16);
  CHECK(type_of(alkn::RetainPrecision::automatic, at::kHalf) == at::kFloat);
  CHECK(type_of(alkn::RetainPrecision::automatic, at::kDouble) == at::kDouble);
  CHECK(type_of(alkn::RetainPrecision::full, at::kBFloat16) == at::kFloat);
  CHECK(type_of(alkn::RetainPrecision::bfloat16, at::kFloat) == at::kBFloat16);
}

TEST_CASE("parameters added before the first task are like a group of the constructor") {
  Model all, later;
  const auto options = alkn::ALKNOptions();
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
      {{"head"}, alkn::AdamWOverrides().weight_decay(0.3)}};
  alkn::ALKN<> a(all.params, groups, options, alkn::AdamWOptions(2e-2));
  auto most = later.params;
  const std::vector<alkn::NamedParameter> rest{most.back()};
  most.pop_back();
  alkn::ALKN<> b(most, options, alkn::AdamWOptions(2e-2));
  b.add_named_parameters(rest, alkn::AdamWOverrides().weight_decay(0.3));
  for (int t = 0; t < 2; ++t) {
    unlearn(a, all, 3, t);
    unlearn(b, later, 3, t);
  }
  CHECK(same_bits(all.copies(), later.copies()));
  CHECK(core_of(b).parameters()[3].name == "head");
  CHECK(core_of(b).parameters()[3].group == 1);
  CHECK(b.param_groups()[1].options().get_lr() == 2e-2);
}

TEST_CASE("parameters added over a foreign base are stepped") {
  Model model;
  auto most = model.params;
  const std::vector<alkn::NamedParameter> rest{most.back()};
  most.pop_back();
  alkn::TaskVector<torch::optim::SGD> unlearner(most, {}, torch::optim::SGDOptions(0.1));
  unlearner.add_named_parameters(rest, torch::optim::SGDOptions(0.2));
  const auto before = model.copies();
  tiny::set_gradients(model.params, 1);
  unlearner.step();
  for (std::size_t i = 0; i < before.size(); ++i) {
    const Tensor want = before[i].sub(model.params[i].tensor.grad(), i == 3 ? 0.2 : 0.1);
    CHECK(tiny::distance(model.params[i].tensor, want) < 1e-7);
  }
}

TEST_CASE("strided parameters and gradients step like contiguous ones, in their own memory") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
    Model dense(type), strided(type);
    std::vector<Tensor> storage;
    for (auto& p : strided.params) {
      if (p.tensor.dim() < 2) continue;
      const Tensor wide = at::zeros({p.tensor.size(1), 2 * p.tensor.size(0)}, type);
      const Tensor view = wide.slice(1, 0, 2 * p.tensor.size(0), 2).t();
      view.copy_(p.tensor.detach());
      storage.push_back(wide);
      p.tensor = view.detach().set_requires_grad(true);
      REQUIRE_FALSE(p.tensor.is_contiguous());
    }
    const auto options =
        alkn::ALKNOptions().backend(backend).max_norm(0).modulation(alkn::Modulation::parameter);
    alkn::ALKN<> a(dense.params, options, alkn::AdamWOptions(1e-2)),
        b(strided.params, options, alkn::AdamWOptions(1e-2));
    auto first = a.begin_task({.steps = 4}), second = b.begin_task({.steps = 4});
    tiny::prepare(first, dense);
    tiny::prepare(second, strided);
    for (int i = 0; i < 4; ++i) {
      tiny::set_gradients(dense.params, i);
      tiny::set_gradients(strided.params, i);
      Tensor& grad = strided["head"].mutable_grad();
      grad = grad.t().contiguous().t();
      a.step();
      b.step();
      CHECK(same_bits(dense.copies(), strided.copies()));
    }
    first.end();
    second.end();
    CHECK(same_bits(dense.copies(), strided.copies()));
    CHECK(storage[0].data_ptr() == strided["embed"].data_ptr());
    CHECK(storage[0]
              .slice(1, 1, storage[0].size(1), 2)
              .eq(0)
              .all()
              .item<bool>());  // between the entries: untouched
  }
}

TEST_CASE("scalars and empty parameters take part") {
  for (const Backend backend : tiny::kBackends) {
    const Tensor scalar = tiny::wave({}, 1.0).set_requires_grad(true);
    const Tensor empty = at::zeros({0, 3}).set_requires_grad(true);
    const Tensor w = tiny::wave({5, 7}, 0.2).set_requires_grad(true);
    const std::vector<alkn::NamedParameter> params{{"scalar", scalar}, {"empty", empty}, {"w", w}};
    alkn::ALKN<> unlearner(params, alkn::ALKNOptions().backend(backend));
    for (int t = 0; t < 2; ++t) {
      auto task = unlearner.begin_task({.steps = 2});
      task.accumulate_retain_gradient(scalar.mul(w.sum()).add(empty.sum()));
      const float before = scalar.item<float>();
      for (int i = 0; i < 2; ++i) {
        tiny::set_gradients(params, i);
        unlearner.step();
      }
      CHECK(scalar.item<float>() != before);
      const auto report = task.end();
      CHECK(report.tensors[0].fraction_trained == 1);
      CHECK(report.tensors[1].fraction_trained == 0);
      CHECK_FALSE(report.tensors[0].threshold.has_value());
    }
  }
}

TEST_CASE("autograd notices what the step has written") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
    Model model(type);
    alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions().backend(backend));
    auto task = unlearner.begin_task({.steps = 2});
    tiny::prepare(task, model);
    tiny::step(unlearner, task, model);
    const Tensor stale = model["weight"].mul(model["weight"]).sum();
    tiny::step(unlearner, task, model);
    CHECK_THAT(error_of([&] { stale.backward(); }),
               Catch::Matchers::ContainsSubstring("modified by an inplace operation"));
    const Tensor again = model["weight"].mul(model["weight"]).sum();
    task.end();
    CHECK_THAT(error_of([&] { again.backward(); }),
               Catch::Matchers::ContainsSubstring("modified by an inplace operation"));
  }
}
