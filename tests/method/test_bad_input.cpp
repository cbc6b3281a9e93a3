// Bad input to constructors and steps: the whole text, and nothing changed.
#include <ATen/ops/complex.h>
#include <ATen/ops/ones.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;
using Parameters = std::vector<alkn::NamedParameter>;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

Tensor weight() { return tiny::wave({3, 4}, 0.1).set_requires_grad(true); }

/// The error of a method's constructor over these parameters.
std::string error_over(const Parameters& params) {
  return error_of([&] { alkn::ALKN<> unlearner(params); });
}

/// Feeds values that lie outside [low, high], (low, high) and so on, and compares the whole text.
template <class Options>
void check_option(const std::string& method, const std::string& field, const std::string& range,
                  const std::vector<double>& bad, const std::function<Options(double)>& with,
                  const std::function<void(const Options&)>& construct) {
  for (const double value : bad) {
    const std::string want =
        fmt::format("alkn::{}: expected {} in {}, got {}", method, field, range, value);
    CHECK(error_of([&] { construct(with(value)); }) == want);
  }
}

}  // namespace

TEST_CASE("parameter lists that are refused") {
  const Tensor w = weight();
  CHECK(error_over({}) == "alkn::ALKN: expected at least one parameter, got an empty list");
  CHECK(error_over({{"w", w}, {"w", weight()}}) ==
        "alkn::ALKN: expected every name once, got a duplicate parameter (parameter \"w\")");
  CHECK(error_over({{"w", w}, {"v", Tensor()}}) ==
        "alkn::ALKN: expected a defined tensor, got an undefined one (parameter \"v\")");
  CHECK(error_over({{"w", w.detach().to_sparse()}}) ==
        "alkn::ALKN: expected a dense parameter, got layout Sparse (parameter \"w\")");
  CHECK(error_over({{"w", at::ones({2}, at::kComplexFloat)}}) ==
        "alkn::ALKN: expected a parameter of float, double, bfloat16 or half, got ComplexFloat "
        "(parameter \"w\")");
  CHECK(error_over({{"w", at::ones({2}, at::kInt)}}) ==
        "alkn::ALKN: expected a parameter of float, double, bfloat16 or half, got Int (parameter "
        "\"w\")");
  CHECK(error_over({{"w", w.mul(2)}}) ==
        "alkn::ALKN: expected a leaf tensor, got the result of an operation (parameter \"w\")");
  CHECK(error_over({{"w", at::ones({1, 4}).expand({3, 4})}}) ==
        "alkn::ALKN: expected entries in memory of their own, got a tensor of [3, 4] with strides "
        "[0, 1] (parameter \"w\")");
}

TEST_CASE("storage that is partly shared is refused, storage side by side is not") {
  const Tensor flat = tiny::wave({100}, 0.3);
  const auto piece = [&](std::int64_t from, std::int64_t to) {
    return flat.slice(0, from, to).set_requires_grad(true);
  };
  const std::string text =
      "alkn::ALKN: expected parameters in memory of their own, got overlapping storage (parameters "
      "\"a\" and \"b\")";
  CHECK(error_over({{"a", piece(0, 50)}, {"b", piece(49, 100)}}) == text);
  CHECK(error_over({{"b", piece(10, 20)}, {"a", piece(0, 100)}, {"c", weight()}}) == text);
  CHECK(error_over({{"a", piece(0, 50)}, {"b", piece(0, 50)}}).substr(0, 80) == text.substr(0, 80));
  alkn::ALKN<> neighbours(Parameters{{"a", piece(0, 50)}, {"b", piece(50, 100)}});
}

TEST_CASE("alkn::AdamW refuses the same lists") {
  const Tensor w = weight();
  using Tensors = std::vector<Tensor>;
  CHECK(error_of([] { alkn::AdamW optimizer(Tensors{}); }) ==
        "alkn::AdamW: expected at least one parameter, got an empty list");
  CHECK(error_of([&] {
          alkn::AdamW optimizer(Tensors{w, w});
        }) ==
        "alkn::AdamW: expected every parameter once, got a duplicate parameter (group 0, position "
        "1)");
  CHECK(error_of([&] {
          alkn::AdamW optimizer(Tensors{w, at::ones({2}, at::kInt)});
        }) ==
        "alkn::AdamW: expected a parameter of float, double, bfloat16 or half, got Int (parameter "
        "\"group 0, position 1\")");
  CHECK(error_of([&] {
          alkn::AdamW optimizer(Tensors{w, w.detach()});
        }) ==
        "alkn::AdamW: expected parameters in memory of their own, got overlapping storage "
        "(parameters \"group 0, position 0\" and \"group 0, position 1\")");
}

TEST_CASE("every option of ALKN has its range") {
  using Options = alkn::ALKNOptions;
  const auto construct = [](const Options& options) {
    alkn::ALKN<> unlearner(Parameters{{"w", weight()}}, options);
  };
  const auto check = [&](const std::string& field, const std::string& range,
                         const std::vector<double>& bad,
                         const std::function<Options(double)>& with) {
    check_option<Options>("ALKN", field, range, bad, with, construct);
  };
  const std::vector<double> not_negative{-1e-9, kNaN, kInf, -kInf}, positive{0, -1, kNaN, kInf};
  check("max_norm", "[0, inf)", not_negative, [](double x) { return Options().max_norm(x); });
  check("lr_decay", "(0, inf)", positive, [](double x) { return Options().lr_decay(x); });
  check("retain_weight", "[0, inf)", not_negative,
        [](double x) { return Options().retain_weight(x); });
  check("steepness", "(0, inf)", positive, [](double x) { return Options().steepness(x); });
  check("center", "(-inf, inf)", {kNaN, kInf, -kInf}, [](double x) { return Options().center(x); });
  check("alignment", "(-inf, inf)", {kNaN, kInf, -kInf},
        [](double x) { return Options().alignment(x); });
  check("unmask_ratio", "(0, inf)", positive, [](double x) { return Options().unmask_ratio(x); });
  check("trim_ratio", "(0, 0.5)", {0, 0.5, -0.1, kNaN, kInf},
        [](double x) { return Options().trim_ratio(x); });
  check("threshold_every", "[1, inf)", {0, -3},
        [](double x) { return Options().threshold_every(static_cast<std::int64_t>(x)); });
  check("penalty", "[0, inf)", not_negative, [](double x) { return Options().penalty(x); });
  check("low_lr_ratio", "[0, 1]", {-0.1, 1.1, kNaN, kInf},
        [](double x) { return Options().low_lr_ratio(x); });
  check("negation", "[0, 1e+30]", not_negative, [](double x) { return Options().negation(x); });
  check("negation_decay", "(0, inf)", positive,
        [](double x) { return Options().negation_decay(x); });
  // the limits themselves are fine
  construct(Options().max_norm(0).retain_weight(0).penalty(0).low_lr_ratio(0).negation(0));
  construct(Options().low_lr_ratio(1).alignment(0).center(-5).unmask_ratio(1.5).threshold_every(1));
}

TEST_CASE("rho_0 / 2 must stay above the trim ratio") {
  const auto error = [](double rho, double trim) {
    return error_of([&] {
      alkn::ALKN<> unlearner(Parameters{{"w", weight()}},
                             alkn::ALKNOptions().unmask_ratio(rho).trim_ratio(trim));
    });
  };
  CHECK(error(0.3, 0.15) ==
        "alkn::ALKN: expected unmask_ratio / 2 above trim_ratio (0.15), got 0.15");
  CHECK(error(0.8, 0.45) ==
        "alkn::ALKN: expected unmask_ratio / 2 above trim_ratio (0.45), got 0.4");
  CHECK(error(0.31, 0.15) == "no error");
}

TEST_CASE("the other methods' options have ranges as well, under the method's name") {
  check_option<alkn::NPOOptions>(
      "NPO", "beta", "(0, inf)", {0, -1, kNaN, kInf},
      [](double x) { return alkn::NPOOptions().beta(x); },
      [](const auto& options) {
        alkn::NPO<> method(Parameters{{"w", weight()}}, options);
      });
  check_option<alkn::GradientAscentOptions>(
      "GradientAscent", "retain_weight", "[0, inf)", {-1, kNaN},
      [](double x) { return alkn::GradientAscentOptions().retain_weight(x); },
      [](const auto& options) {
        alkn::GradientAscent<torch::optim::SGD> method(Parameters{{"w", weight()}}, options,
                                                       torch::optim::SGDOptions(0.1));
      });
  check_option<alkn::TaskVectorOptions>(
      "TaskVector", "negation", "[0, 1e+30]", {-1, kNaN},
      [](double x) { return alkn::TaskVectorOptions().negation(x); },
      [](const auto& options) {
        alkn::TaskVector<> method(Parameters{{"w", weight()}}, options);
      });
  using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::LocalizedMask, alkn::Keep>;
  check_option<Masked::Options>(
      "Unlearner", "penalty", "[0, inf)", {-1, kNaN},
      [](double x) { return Masked::Options().penalty(x); },
      [](const auto& options) {
        Masked method(Parameters{{"w", weight()}}, options);
      });
}

TEST_CASE("alkn::AdamW's options: defaults, groups, and what is set later") {
  using Options = alkn::AdamWOptions;
  const auto check = [](const std::string& field, const std::string& range,
                        const std::vector<double>& bad, auto with) {
    for (const double value : bad) {
      const std::string text =
          fmt::format("alkn::AdamW: expected {} in {}, got {}", field, range, value);
      CHECK(error_of([&] {
              alkn::ALKN<> method(Parameters{{"w", weight()}}, {}, with(Options(), value));
            }) == text);
      CHECK(error_of([&] { alkn::AdamW optimizer({weight()}, with(Options(), value)); }) == text);
      const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
          {{"v"}, with(alkn::AdamWOverrides(), value)}};
      CHECK(error_of([&] {
              alkn::ALKN<> method(Parameters{{"w", weight()}, {"v", weight()}}, groups, {},
                                  Options());
            }) == text + " (group 1)");
      // set later, by a scheduler perhaps: noticed before anything is written
      Model model;
      alkn::TaskVector<> method(model.params);
      tiny::set_gradients(model.params, 1);
      auto& options = static_cast<Options&>(method.param_groups()[0].options());
      const Options fine = options;
      options = with(options, value);
      const auto before = everything(method);
      CHECK(error_of([&] { method.step(); }) == text + " (group 0)");
      CHECK(error_of([&] { static_cast<void>(method.begin_task({.steps = 1})); }) ==
            text + " (group 0)");
      CHECK(same_bits(everything(method), before));
      options = fine;
      auto task = method.begin_task({.steps = 1});
      const auto inside = everything(method);
      auto& later = static_cast<Options&>(method.param_groups()[0].options());
      later = with(later, value);
      CHECK(error_of([&] { method.step(); }) == text + " (group 0)");
      later = fine;
      CHECK(same_bits(everything(method), inside));
    }
  };
  check("lr", "[0, inf)", {-1, kNaN, kInf}, [](auto options, double x) { return options.lr(x); });
  check("betas[0]", "[0, 1)", {-0.1, 1, kNaN, kInf},
        [](auto options, double x) { return options.betas(std::tuple<double, double>(x, 0.9)); });
  check("betas[1]", "[0, 1)", {-0.1, 1, kNaN, kInf},
        [](auto options, double x) { return options.betas(std::tuple<double, double>(0.9, x)); });
  check("eps", "[0, inf)", {-1, kNaN, kInf}, [](auto options, double x) { return options.eps(x); });
  check("weight_decay", "[0, inf)", {-1, kNaN, kInf},
        [](auto options, double x) { return options.weight_decay(x); });
}

TEST_CASE("a foreign base's learning rate is checked at the start of a task and at all steps") {
  Model model;
  alkn::TaskVector<torch::optim::SGD> method(model.params, {}, torch::optim::SGDOptions(0.1));
  method.param_groups()[0].options().set_lr(kNaN);
  const std::string nan = "alkn::TaskVector: expected lr in [0, 1e+30], got nan (group 0)";
  CHECK(error_of([&] { method.step(); }) == nan);
  CHECK(error_of([&] { static_cast<void>(method.begin_task({.steps = 1})); }) == nan);
  method.param_groups()[0].options().set_lr(0.1);
  const auto task = method.begin_task({.steps = 1});
  tiny::set_gradients(model.params, 1);
  const auto before = model.copies();
  method.param_groups()[0].options().set_lr(-0.1);
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::TaskVector: expected lr in [0, 1e+30], got -0.1 (group 0)");
  method.param_groups()[0].options().set_lr(1e300);  // LibTorch throws when half of a step is done
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::TaskVector: expected lr in [0, 1e+30], got 1e+300 (group 0)");
  CHECK(same_bits(model.copies(), before));
}

TEST_CASE("every number of a foreign base's group is checked before a task and its steps") {
  const auto check = [](auto base, auto set, const std::string& field, const std::string& range,
                        const std::vector<double>& bad) {
    using Base = typename decltype(base)::type;
    using Options = std::remove_cvref_t<decltype(set(0.0))>;
    for (const double value : bad) {
      const std::string want =
          fmt::format("alkn::TaskVector: expected {} in {}, got {} (", field, range, value);
      const std::vector<alkn::NamedParameter> params{{"w", weight()}, {"v", weight()}};
      const std::vector<alkn::ParameterGroup<Options>> groups{{{"v"}, set(value)}};
      CHECK(error_of([&] { alkn::TaskVector<Base> method(params, groups, {}, set(0.5)); }) ==
            want + "group 1)");
      alkn::TaskVector<Base> method(params, {}, set(0.5));
      CHECK(error_of([&] {
              method.add_named_parameters(Parameters{{"u", weight()}}, set(value));
            }) == want + "add_named_parameters)");
      static_cast<Options&>(method.param_groups()[0].options()) = set(value);
      CHECK(error_of([&] { static_cast<void>(method.begin_task({.steps = 1})); }) ==
            want + "group 0)");
      static_cast<Options&>(method.param_groups()[0].options()) = set(0.5);
      const auto task = method.begin_task({.steps = 1});
      tiny::set_gradients(params, 1);
      static_cast<Options&>(method.param_groups()[0].options()) = set(value);
      const Tensor before = params[0].tensor.detach().clone();
      CHECK(error_of([&] { method.step(); }) == want + "group 0)");
      CHECK(same_bits(params[0].tensor, before));
      static_cast<Options&>(method.param_groups()[0].options()) = set(0.5);
    }
  };
  using torch::optim::SGDOptions, torch::optim::AdamOptions, torch::optim::RMSpropOptions,
      torch::optim::AdagradOptions;
  const auto sgd = std::type_identity<torch::optim::SGD>();
  const auto adam = std::type_identity<torch::optim::Adam>();
  const auto rmsprop = std::type_identity<torch::optim::RMSprop>();
  const auto adagrad = std::type_identity<torch::optim::Adagrad>();
  const std::vector<double> negative{-1, kNaN, kInf}, no_beta{-0.1, 1, kNaN};
  check(
      sgd, [](double x) { return SGDOptions(0.1).momentum(x); }, "momentum", "[0, inf)", negative);
  check(
      sgd, [](double x) { return SGDOptions(0.1).weight_decay(x); }, "weight_decay", "[0, inf)",
      negative);
  check(sgd, [](double x) { return SGDOptions(0.1).dampening(x); }, "dampening", "(-inf, inf)",
        {kNaN, kInf});
  check(
      adam,
      [](double x) {
        return AdamOptions(0.1).betas({x, 0.9});
      },
      "betas[0]", "[0, 1)", no_beta);
  check(
      adam,
      [](double x) {
        return AdamOptions(0.1).betas({0.9, x});
      },
      "betas[1]", "[0, 1)", no_beta);
  check(
      adam, [](double x) { return AdamOptions(0.1).eps(x); }, "eps", "[0, inf)", negative);
  check(
      rmsprop, [](double x) { return RMSpropOptions(0.1).alpha(x); }, "alpha", "[0, inf)",
      negative);
  check(
      adagrad, [](double x) { return AdagradOptions(0.1).lr_decay(x); }, "lr_decay", "[0, inf)",
      negative);
}

TEST_CASE("groups name parameters that are there, once") {
  const Parameters params{{"w", weight()}, {"v", weight()}};
  using Groups = std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>>;
  const auto error = [&](const Groups& groups) {
    return error_of([&] { alkn::ALKN<> method(params, groups, {}, alkn::AdamWOptions()); });
  };
  CHECK(error({{{"v", "x"}, {}}}) ==
        "alkn::ALKN: expected the name of a parameter that is in no other group, got \"x\" (named "
        "group 0)");
  CHECK(error({{{"v"}, {}}, {{"v"}, {}}}) ==
        "alkn::ALKN: expected the name of a parameter that is in no other group, got \"v\" (named "
        "group 1)");
  CHECK(error({{{"v"}, {}}, {{"w"}, {}}}) == "no error");
}

TEST_CASE("masks of the wrong size, type or name") {
  using Method = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Keep>;
  const auto error = [](const Parameters& masks) {
    return error_of([&] {
      Method method(Parameters{{"w", weight()}}, Method::Options().masks(masks));
    });
  };
  CHECK(error({{"w", at::ones({4, 3}, at::kBool)}}) ==
        "alkn::Unlearner: expected a mask of Bool [3, 4], got Bool [4, 3] (group 0, parameter "
        "\"w\")");
  CHECK(error({{"w", at::ones({3, 4})}}) ==
        "alkn::Unlearner: expected a mask of Bool [3, 4], got Float [3, 4] (group 0, parameter "
        "\"w\")");
  CHECK(error({{"w", Tensor()}}) ==
        "alkn::Unlearner: expected a mask of Bool [3, 4], got an undefined tensor (group 0, "
        "parameter \"w\")");
  CHECK(error({{"v", at::ones({3, 4}, at::kBool)}}) ==
        "alkn::Unlearner: expected masks of parameters only, got one of an unknown parameter "
        "\"v\"");
  CHECK(error({}) == "no error");
}

TEST_CASE("Backend::cpu is refused where it cannot serve") {
  CHECK(
      error_of([] {
        alkn::ALKN<> method(
            Parameters{{"w", tiny::wave({3}, 0.1, 1, at::kDouble).set_requires_grad(true)}},
            alkn::ALKNOptions().backend(Backend::cpu));
      }) ==
      "alkn::ALKN: expected CPU tensors of float, bfloat16 or half for Backend::cpu, got Double on "
      "cpu (parameter \"w\")");
}

TEST_CASE("a parameter that changed between steps") {
  for (const bool in_task : {false, true}) {
    INFO(in_task);
    const Tensor w = weight();
    alkn::TaskVector<> fused(Parameters{{"w", w}, {"v", weight()}});
    alkn::TaskVector<torch::optim::SGD> foreign(Parameters{{"w", w}}, {},
                                                torch::optim::SGDOptions(0.1).momentum(0.9));
    std::optional<alkn::TaskVector<>::TaskType> task;
    std::optional<alkn::TaskVector<torch::optim::SGD>::TaskType> foreign_task;
    if (in_task) {
      task.emplace(fused.begin_task({.steps = 5}));
      foreign_task.emplace(foreign.begin_task({.steps = 5}));
    }
    w.mutable_grad() = at::ones({3, 4});
    fused.step();
    foreign.step();
    const Tensor data = w.detach().clone();
    const auto error = [&](const Tensor& now) {
      Tensor(w).set_data(now);
      const std::string first = error_of([&] { fused.step(); });
      CHECK(error_of([&] { foreign.step(); }) == first);
      CHECK(same_bits(w, now));
      Tensor(w).set_data(data);
      return first;
    };
    const std::string text =
        "alkn::TaskVector: expected Float [3, 4] on cpu as at construction, got ";
    const Tensor grad = w.grad();
    w.mutable_grad().reset();
    CHECK(error(at::ones({4, 3})) == text + "Float [4, 3] on cpu (group 0, parameter \"w\")");
    CHECK(error(at::ones({3, 4}, at::kDouble)) ==
          text + "Double [3, 4] on cpu (group 0, parameter \"w\")");
    w.mutable_grad() = grad;
    // no other device here: as if it had been built on one
    for (auto* state :
         {&tiny::core_of(fused).parameters()[0], &tiny::core_of(foreign).parameters()[0]}) {
      state->device = at::Device(at::kCUDA, 1);
    }
    CHECK(
        error(data) ==
        "alkn::TaskVector: expected Float [3, 4] on cuda:1 as at construction, got Float [3, 4] on "
        "cpu (group 0, parameter \"w\")");
    for (auto* state :
         {&tiny::core_of(fused).parameters()[0], &tiny::core_of(foreign).parameters()[0]}) {
      state->device = at::kCPU;
    }
    fused.step();  // and on it goes
    foreign.step();
  }
}

TEST_CASE("a gradient that does not fit") {
  for (const bool in_task : {false, true}) {
    Model model;
    alkn::TaskVector<> method(model.params);
    std::optional<alkn::TaskVector<>::TaskType> task;
    if (in_task) task.emplace(method.begin_task({.steps = 5}));
    tiny::set_gradients(model.params, 1);
    method.step();
    const auto before = everything(method);
    const auto error = [&](const Tensor& grad) {
      tiny::set_gradients(model.params, 2);
      model["weight"].mutable_grad() = grad;
      const std::string text = error_of([&] { method.step(); });
      model["weight"].mutable_grad() = Tensor();
      CHECK(same_bits(everything(method), before));
      return text;
    };
    const std::string place = " (group 0, parameter \"weight\")";
    CHECK(error(at::ones({6, 6}).to_sparse()) ==
          "alkn::TaskVector: expected a dense gradient, got layout Sparse" + place);
    CHECK(error(at::ones({6})) ==
          "alkn::TaskVector: expected a gradient of Float [6, 6] on cpu, got Float [6] on cpu" +
              place);
    CHECK(error(at::ones({6, 6}, at::kDouble)) ==
          "alkn::TaskVector: expected a gradient of Float [6, 6] on cpu, got Double [6, 6] on cpu" +
              place);
  }
  {  // another Base writes g' in place
    Model model;
    alkn::ALKN<torch::optim::SGD> method(model.params, {}, torch::optim::SGDOptions(0.1));
    auto task = method.begin_task({.steps = 5});
    tiny::prepare(task, model);
    tiny::step(method, task, model);
    model["weight"].mutable_grad() = at::ones({1, 1}).expand({6, 6});
    const auto before = everything(method);
    CHECK(error_of([&] { method.step(); }) ==
          "alkn::ALKN: expected a gradient with entries in memory of their own, got one of [6, 6] "
          "with strides [0, 0] (group 0, parameter \"weight\")");
    CHECK(same_bits(everything(method), before));
  }
  const auto step_on_expanded = [](auto& method, Model& model) {
    auto task = method.begin_task({.steps = 5});
    tiny::set_gradients(model.params, 1);
    model["weight"].mutable_grad() = at::ones({1, 1}, model["weight"].scalar_type()).expand({6, 6});
    return error_of([&] { method.step(); });
  };
  {  // alkn::AdamW reads it only, and masters have gradients of their own
    Model model, narrow(at::kBFloat16);
    alkn::TaskVector<> fused(model.params);
    CHECK(step_on_expanded(fused, model) == "no error");
    alkn::TaskVector<torch::optim::SGD> foreign(narrow.params, {}, torch::optim::SGDOptions(0.1));
    CHECK(step_on_expanded(foreign, narrow) == "no error");
  }
  const Tensor w = weight();
  alkn::AdamW plain({w});
  w.mutable_grad() = at::ones({1, 1}).expand({3, 4});
  plain.step();
  w.mutable_grad() = at::ones({4});
  CHECK(error_of([&] { plain.step(); }) ==
        "alkn::AdamW: expected a gradient of Float [3, 4] on cpu, got Float [4] on cpu (group 0, "
        "position 0)");
  w.mutable_grad() = Tensor();
  Tensor(w).set_data(at::ones({4, 3}));
  CHECK(error_of([&] { plain.step(); }) ==
        "alkn::AdamW: expected a parameter of shape [3, 4] on cpu as at its first step, got Float "
        "[4, 3] on cpu (group 0, position 0)");
}

TEST_CASE("parameters added without a name are noticed") {
  Model model;
  alkn::TaskVector<> method(model.params);
  torch::optim::Optimizer& optimizer = method;
  optimizer.add_param_group(torch::optim::OptimizerParamGroup({weight()}));
  const std::string text =
      "alkn::TaskVector: expected the parameters that were named, got one without a name; use "
      "add_named_parameters (group 1, position 0)";
  CHECK(error_of([&] { static_cast<void>(method.begin_task({.steps = 1})); }) == text);
  CHECK(error_of([&] { method.step(); }) == text);
  method.param_groups().pop_back();
  method.param_groups()[0].params().pop_back();
  CHECK(error_of([&] { method.step(); }) == "alkn::TaskVector: expected 4 parameters, got 3");
}

TEST_CASE("add_named_parameters checks before it adds") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto error = [&](const Parameters& params, const auto& options) {
    const std::string text = error_of([&] { method.add_named_parameters(params, options); });
    CHECK(method.param_groups().size() == 1);
    return text;
  };
  const auto none = alkn::AdamWOverrides();
  CHECK(error({}, none) == "alkn::TaskVector: expected at least one parameter, got an empty list");
  CHECK(
      error({{"head", weight()}}, none) ==
      "alkn::TaskVector: expected every name once, got a duplicate parameter (parameter \"head\")");
  CHECK(error({{"again", model["head"]}}, none) ==
        "alkn::TaskVector: expected new parameters, got a duplicate parameter (parameter "
        "\"again\")");
  CHECK(error({{"new", weight()}}, alkn::AdamWOverrides().lr(-1)) ==
        "alkn::AdamW: expected lr in [0, inf), got -1 (add_named_parameters)");
  alkn::TaskVector<torch::optim::SGD> foreign(model.params, {}, torch::optim::SGDOptions(0.1));
  CHECK(
      error_of([&] {
        foreign.add_named_parameters(Parameters{{"new", weight()}}, torch::optim::AdamOptions(0.1));
      }) ==
      "alkn::TaskVector: expected the base optimizer's options, got those of another "
      "(add_named_parameters)");
  auto task = method.begin_task({.steps = 1});
  const std::string late =
      "alkn::TaskVector: expected new parameters before the first task, got them after it began";
  CHECK(error({{"new", weight()}}, none) == late);
  tiny::step(method, task, model);
  task.end();
  CHECK(error({{"new", weight()}}, none) == late);
}

TEST_CASE("LinearSchedule refuses what is no schedule") {
  Model model;
  alkn::AdamW optimizer({model["head"]}, alkn::AdamWOptions(0.25));
  const auto error = [&](std::int64_t warmup, std::int64_t total) {
    return error_of([&] { alkn::LinearSchedule schedule(optimizer, warmup, total); });
  };
  CHECK(error(0, 0) == "alkn::LinearSchedule: expected total in [1, inf), got 0");
  CHECK(error(-1, 4) == "alkn::LinearSchedule: expected warmup in [0, 4], got -1");
  CHECK(error(5, 4) == "alkn::LinearSchedule: expected warmup in [0, 4], got 5");
  CHECK(optimizer.param_groups()[0].options().get_lr() == 0.25);
}
