// The retain gradient of a task, and what it needs of a retain term.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DefaultDtype.h>

#include <cmath>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::error_of, tiny::everything, tiny::ignore, tiny::Model,
    tiny::same_bits;

TEST_CASE("the retain gradient decides which entries a task trains") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions().unmask_ratio(0.4));
  const Batch forget(tiny::kForget), retain(tiny::kRetain);
  auto task = method.begin_task({.steps = 1});
  task.remember(forget.ids, model.forward(forget.tokens), forget.labels);
  task.accumulate_retain_gradient(alkn::mean_nll(model.forward(retain.tokens), retain.labels));
  method.zero_grad();
  task.loss(forget.ids, model.forward(forget.tokens), forget.labels).backward();
  method.step();
  CHECK(method.last_step().fraction_trained > 0.3);
  CHECK(method.last_step().fraction_trained < 0.7);  // tensors below ten entries are trained whole
}

TEST_CASE("the retain gradient wants a scalar with a graph, is a mean, and may not be broken") {
  Model model;
  alkn::ALKN<> method(model.params);
  auto task = method.begin_task({.steps = 1});
  const auto error = [&](const Tensor& loss) {
    return error_of([&] { task.accumulate_retain_gradient(loss); });
  };
  CHECK(
      error(Tensor()) ==
      "alkn::ALKN: expected a scalar retain loss that depends on the parameters, got an undefined "
      "tensor");
  CHECK(error(model["weight"].mul(2)) ==
        "alkn::ALKN: expected a scalar retain loss that depends on the parameters, got a tensor of "
        "[6, 6]");
  CHECK(error(at::zeros({})) ==
        "alkn::ALKN: expected a scalar retain loss that depends on the parameters, got a tensor of "
        "[] without a graph");
  tiny::set_gradients(model.params, 1);
  const Tensor own = model["weight"].grad().clone();
  task.accumulate_retain_gradient(model["weight"].sum());
  task.accumulate_retain_gradient(model["weight"].mul(3).sum().reshape({1}));
  CHECK(same_bits(model["weight"].grad(), own));  // the user's gradients are the user's
  {
    Model copy;
    alkn::ALKN<> other(copy.params);
    auto broken = other.begin_task({.steps = 1});
    broken.accumulate_retain_gradient(copy["weight"].sum().mul(INFINITY));
    tiny::set_gradients(copy.params, 1);
    const auto before = everything(other);
    CHECK(error_of([&] { other.step(); }) ==
          "alkn::ALKN: expected a finite retain gradient, got one with NaN or infinity (group 0, "
          "parameter \"weight\")");
    CHECK(same_bits(everything(other), before));
  }
  method.step();
  CHECK(tiny::distance(core_of(method).parameters()[1].retain, at::full({6, 6}, 2.0)) == 0);
  CHECK(tiny::distance(core_of(method).parameters()[0].retain, at::zeros({11, 6})) == 0);
}

TEST_CASE(
    "a retain gradient is taken under NoGradGuard too, and from parameters as they were named") {
  Model model;
  alkn::ALKN<> method(model.params);
  auto task = method.begin_task({.steps = 1});
  const Tensor loss = model["weight"].sum();
  {
    const at::NoGradGuard no_grad;
    task.accumulate_retain_gradient(loss);
  }
  const auto before = everything(method);
  const Tensor bias = model["bias"].detach().clone();
  model["bias"].set_data(at::ones({1}));
  CHECK(error_of([&] {
          task.accumulate_retain_gradient(model["weight"].sum().add(model["bias"].sum()));
        }) ==
        "alkn::ALKN: expected Float [6] on cpu as at construction, got Float [1] on cpu "
        "(group 0, parameter \"bias\")");
  model["bias"].set_data(bias);
  CHECK(same_bits(everything(method), before));
}

TEST_CASE("G_r is a mean in fp32 whatever LibTorch's default type is") {
  struct Default {
    explicit Default(caffe2::TypeMeta type) { c10::set_default_dtype(type); }
    ~Default() { c10::set_default_dtype(before); }
    caffe2::TypeMeta before = c10::get_default_dtype();
  };
  const Tensor w = at::ones({16}).set_requires_grad(true);
  alkn::ALKN<> method(std::vector<alkn::NamedParameter>{{"w", w}});
  const Default other(caffe2::TypeMeta::Make<c10::BFloat16>());
  auto task = method.begin_task({.steps = 1});
  for (int i = 0; i < 257; ++i) task.accumulate_retain_gradient(w.sum());
  w.mutable_grad() = at::ones({16}, at::kFloat);
  method.step();
  CHECK(core_of(method).parameters()[0].retain.eq(1).all().item<bool>());
}

TEST_CASE("the score `ratio` has the same bits for any number of threads") {
  const int threads = at::get_num_threads();
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    at::Generator generator = at::detail::createCPUGenerator(seed);
    const Tensor factor = at::randn({1000, 1001}, generator);
    std::vector<Tensor> retains;
    for (const int number : {1, 2, 4}) {
      at::set_num_threads(number);
      const Tensor w = at::ones({1000, 1001}).set_requires_grad(true);
      alkn::ALKN<> method(std::vector<alkn::NamedParameter>{{"w", w}}, alkn::ALKNOptions::ratio());
      auto task = method.begin_task({.steps = 1});
      task.accumulate_retain_gradient(w.mul(factor).sum());
      w.mutable_grad() = at::ones({1000, 1001});
      method.step();
      retains.push_back(core_of(method).parameters()[0].retain.clone());
    }
    at::set_num_threads(threads);
    CHECK(same_bits(retains[1], retains[0]));
    CHECK(same_bits(retains[2], retains[0]));
    const Tensor size = factor.to(at::kDouble).abs();
    CHECK(tiny::distance(retains[0], size.add(size.mean()).reciprocal()) < 1e-5);
  }
}

TEST_CASE("a retain term by KL needs its reference") {
  Model model;
  alkn::TaskVector<> method(model.params,
                            alkn::TaskVectorOptions().retain_term(alkn::RetainTerm::kl));
  auto task = method.begin_task({.steps = 1});
  const Batch batch(1);
  const Tensor logits = model.forward(batch.tokens);
  CHECK(error_of([&] { ignore(task.retain_loss(logits, batch.labels)); }) ==
        "alkn::Task: expected reference logits for retain_term(kl), got an undefined tensor");
  CHECK(task.retain_loss(logits, batch.labels, logits).item<double>() == Approx(0).margin(1e-6));
}

TEST_CASE("frozen tensors take nobody's place in the modulation by tensor") {
  std::vector<alkn::NamedParameter> params;
  for (int i = 0; i < 8; ++i) {
    params.push_back({"p" + std::to_string(i), tiny::wave({30}, i).set_requires_grad(i >= 4)});
  }
  alkn::ALKN<> method(params);
  for (int number = 0; number < 2; ++number) {
    auto task = method.begin_task({.steps = 2});
    Tensor loss = at::zeros({});
    for (int i = 4; i < 8; ++i) loss = loss.add(params[i].tensor.square().sum());
    task.accumulate_retain_gradient(loss);
    for (int i = 4; i < 8; ++i) params[i].tensor.mutable_grad() = tiny::wave({30}, i + number);
    method.step();
    if (number == 1) {
      int slow = 0;
      for (int i = 0; i < 8; ++i) {
        const bool is_slow = core_of(method).parameters()[i].slow;
        if (i < 4) CHECK_FALSE(is_slow);
        slow += is_slow ? 1 : 0;
      }
      CHECK(slow == 2);
    }
    task.end();
  }
}
