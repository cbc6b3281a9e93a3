// The protocol of a task: order, transaction, endings, report.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;

namespace {

/// Throws away what a call returns, for error_of.
template <class T>
void ignore(T&&) {}

/// The negative log-likelihood of a batch, without a graph.
double nll_of(const Model& model, const Batch& batch) {
  const at::NoGradGuard no_grad;
  return alkn::mean_nll(model.forward(batch.tokens), batch.labels).item<double>();
}

}  // namespace

TEST_CASE("calls out of order say so and change nothing") {
  Model model;
  alkn::ALKN<> method(model.params);
  const Batch batch(0);
  const auto logits = [&] { return model.forward(batch.tokens); };
  CHECK(error_of([&] { ignore(method.last_step()); }) ==
        "alkn::ALKN: expected last_step() during a task, got none running");
  CHECK(error_of([&] { ignore(method.begin_task({.steps = 0})); }) ==
        "alkn::ALKN: expected steps in [1, inf), got 0 (begin_task)");
  CHECK(error_of([&] { ignore(method.begin_task({.steps = -3})); }) ==
        "alkn::ALKN: expected steps in [1, inf), got -3 (begin_task)");
  CHECK(method.num_tasks() == 0);

  auto task = method.begin_task({.steps = 2});
  CHECK(error_of([&] { ignore(method.begin_task({.steps = 1})); }) ==
        "alkn::ALKN: expected end() or abandon() before the next begin_task, got a task that still "
        "runs (task 0)");
  CHECK(error_of([&] { ignore(task.end()); }) ==
        "alkn::ALKN: expected at least one step before end(), got none; abandon() leaves all as it "
        "was (task 0)");
  CHECK(
      error_of([&] { ignore(task.loss(batch.ids, logits(), batch.labels)); }) ==
      "alkn::Task: expected a sample that was remembered before the first step, got an unknown id "
      "(sample 0)");
  task.remember(batch.ids, logits(), batch.labels);
  tiny::set_gradients(model.params, 1);
  const auto before = everything(method);
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::ALKN: expected accumulate_retain_gradient before the first step, got no retain "
        "gradient");
  CHECK(same_bits(everything(method), before));
  task.accumulate_retain_gradient(alkn::mean_nll(logits(), batch.labels));
  method.step();

  const auto training = everything(method);
  CHECK(error_of([&] { task.remember(batch.ids, logits(), batch.labels); }) ==
        "alkn::Task: expected remember() before the first step, got it after 1 steps");
  CHECK(
      error_of([&] { task.accumulate_retain_gradient(alkn::mean_nll(logits(), batch.labels)); }) ==
      "alkn::Task: expected accumulate_retain_gradient() before the first step, got it after 1 "
      "steps");
  CHECK(error_of([&] { ignore(task.retain_loss(logits(), batch.labels)); }) ==
        "alkn::Task: expected retain_term(nll) or retain_term(kl) in the options, got none");
  CHECK(error_of([&] { ignore(task.end(-1.0)); }) ==
        "alkn::ALKN: expected lambda in [0, inf), got -1 (end)");
  CHECK(error_of([&] { ignore(task.end(std::nan(""))); }) ==
        "alkn::ALKN: expected lambda in [0, inf), got nan (end)");
  CHECK(same_bits(everything(method), training));
  method.step();
  const auto announced = everything(method);
  CHECK(error_of([&] { method.step(); }) ==
        "alkn::ALKN: expected at most 2 steps as announced to begin_task, got one more (task 0)");
  CHECK(same_bits(everything(method), announced));
  task.end();
}

TEST_CASE("after its end a task answers nothing, whoever ended it") {
  Model model;
  auto method = std::make_unique<alkn::GradientAscent<>>(
      model.params,
      alkn::GradientAscentOptions().rollback(true).retain_term(alkn::RetainTerm::nll));
  const Batch batch(0);
  const Tensor logits = model.forward(batch.tokens);
  const auto check = [&](auto& task, const std::string& reason) {
    const auto error = [&](const std::string& call) {
      return reason.find("gone") == std::string::npos
                 ? "alkn::Task: expected " + call + " during the task, got it after the task ended"
                 : reason;
    };
    CHECK(error_of([&] { task.remember(batch.ids, logits, batch.labels); }) == error("remember()"));
    CHECK(error_of([&] { task.accumulate_retain_gradient(logits.sum()); }) ==
          error("accumulate_retain_gradient()"));
    CHECK(error_of([&] { ignore(task.loss(batch.ids, logits, batch.labels)); }) == error("loss()"));
    CHECK(error_of([&] { ignore(task.retain_loss(logits, batch.labels)); }) ==
          error("retain_loss()"));
    CHECK(error_of([&] { ignore(task.end()); }) == error("end()"));
    CHECK(error_of([&] { task.abandon(); }) == error("abandon()"));
    CHECK(error_of([&] { const auto start = task.start_weights(); }) == error("start_weights()"));
  };
  auto ended = method->begin_task({.steps = 1});
  tiny::step(*method, ended, model);
  ended.end();
  check(ended, "");
  auto abandoned = method->begin_task({.steps = 1});
  abandoned.abandon();
  check(abandoned, "");
  auto running = method->begin_task({.steps = 1});
  check(ended, "");  // the handle of another task, while one runs
  auto moved = std::move(running);
  const std::string gone =
      "alkn::Task: expected the unlearner to outlive its task, got one that is gone or moved from";
  check(running, gone);  // NOLINT(bugprone-use-after-move): that is the point
  ignore(moved.loss(batch.ids, logits, batch.labels));
  method.reset();
  check(moved, gone);
}

TEST_CASE("end is final for the negating methods as well") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 1});
  tiny::step(method, task, model);
  task.end();
  const auto after = everything(method);
  const std::string text =
      "alkn::Task: expected end() during the task, got it after the task ended";
  CHECK(error_of([&] { ignore(task.end(1.0)); }) == text);
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, 1.0)); }) == text);
  CHECK(same_bits(everything(method), after));
}

TEST_CASE("what is remembered is keyed by sample and valid token, not by padding") {
  Model model;
  for (const bool preference : {false, true}) {
    const Batch batch(0);
    // the same sequences, padded to the right, in another order and in smaller batches
    const Tensor padded_tokens = at::cat({batch.tokens, at::zeros({3, 4}, at::kLong)}, 1)
                                     .index_select(0, at::tensor({2, 0, 1}));
    const Tensor padded_labels = at::cat({batch.labels, at::full({3, 4}, -100, at::kLong)}, 1)
                                     .index_select(0, at::tensor({2, 0, 1}));
    const Tensor padded_ids = batch.ids.index_select(0, at::tensor({2, 0, 1}));
    const auto check = [&](auto& method) {
      auto task = method.begin_task({.steps = 1});
      task.remember(padded_ids.narrow(0, 0, 1), model.forward(padded_tokens.narrow(0, 0, 1)),
                    padded_labels.narrow(0, 0, 1));
      task.remember(padded_ids.narrow(0, 1, 2), model.forward(padded_tokens.narrow(0, 1, 2)),
                    padded_labels.narrow(0, 1, 2));
      // another model, so that what was remembered matters
      Model later;
      {
        const at::NoGradGuard no_grad;
        later["head"].mul_(0.5);
      }
      const double direct =
          task.loss(batch.ids, later.forward(batch.tokens), batch.labels).template item<double>();
      const double padded = task.loss(padded_ids, later.forward(padded_tokens), padded_labels)
                                .template item<double>();
      CHECK(direct == Approx(padded).epsilon(1e-6));
      Model reference;
      auto options = method.method_options();
      typename std::remove_reference_t<decltype(method)> other(reference.params, options);
      auto plain = other.begin_task({.steps = 1});
      plain.remember(batch.ids, reference.forward(batch.tokens), batch.labels);
      CHECK(plain.loss(batch.ids, later.forward(batch.tokens), batch.labels)
                .template item<double>() == Approx(direct).epsilon(1e-6));
      // remembering again replaces
      plain.remember(batch.ids, later.forward(batch.tokens), batch.labels);
      CHECK(plain.loss(batch.ids, later.forward(batch.tokens), batch.labels)
                .template item<double>() != Approx(direct).epsilon(1e-6));
    };
    if (preference) {
      alkn::NPO<> method(model.params);
      check(method);
    } else {
      alkn::ALKN<> method(model.params);
      check(method);
    }
  }
}

TEST_CASE("another number of valid tokens, unknown ids and ids of another shape are errors") {
  Model model;
  alkn::ALKN<> method(model.params);
  Batch batch(0);
  auto task = method.begin_task({.steps = 1});
  const Tensor logits = model.forward(batch.tokens);
  task.remember(batch.ids, logits, batch.labels);
  const auto before = everything(method);
  const auto error = [&](const Tensor& ids, const Tensor& labels) {
    return error_of([&] { ignore(task.loss(ids, logits, labels)); });
  };
  Tensor fewer = batch.labels.clone();
  fewer[1][2].fill_(-100);
  CHECK(error(batch.ids, fewer) ==
        "alkn::Task: expected 4 valid tokens as remembered, got 3 (sample 1)");
  CHECK(error(batch.ids.add(1), batch.labels) ==
        "alkn::Task: expected 4 valid tokens as remembered, got 3 (sample 1)");
  CHECK(
      error(at::tensor({0, 1, 77}, at::kLong), batch.labels) ==
      "alkn::Task: expected a sample that was remembered before the first step, got an unknown id "
      "(sample 77)");
  CHECK(error(batch.ids.narrow(0, 0, 2), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Long [2]");
  CHECK(error(batch.ids.unsqueeze(1), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Long [3, 1]");
  CHECK(error(batch.ids.to(at::kInt), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got Int [3]");
  CHECK(error(Tensor(), batch.labels) ==
        "alkn::Task: expected ids of Long [3], got an undefined tensor");
  CHECK(error_of([&] { task.remember(batch.ids.narrow(0, 0, 2), logits, batch.labels); }) ==
        "alkn::Task: expected ids of Long [3], got Long [2]");
  CHECK(same_bits(everything(method), before));
}

TEST_CASE("logits and labels that do not fit") {
  Model model;
  alkn::ALKN<> method(model.params);
  const Batch batch(0);
  auto task = method.begin_task({.steps = 1});
  const Tensor logits = model.forward(batch.tokens).detach();
  task.remember(batch.ids, logits, batch.labels);
  const auto before = everything(method);
  // the same text from every entry
  const auto error = [&](const Tensor& x, const Tensor& labels) {
    const std::string text = error_of([&] { task.remember(batch.ids, x, labels); });
    CHECK(error_of([&] { ignore(alkn::mean_nll(x, labels)); }) == text);
    return text;
  };
  CHECK(error(logits, batch.labels.narrow(1, 0, 4)) ==
        "alkn::token_log_probability: expected labels of shape [3, 5], got [3, 4] (labels)");
  CHECK(error(logits, batch.labels.to(at::kInt)) ==
        "alkn::token_log_probability: expected labels of type Long, got Int (labels)");
  Tensor outside = batch.labels.clone();
  outside[2][3].fill_(11);
  CHECK(error(logits, outside) ==
        "alkn::token_log_probability: expected a label in [0, 11) or -100, got 11 (sample 2, "
        "position 3)");
  outside[2][3].fill_(-1);
  CHECK(error(logits, outside) ==
        "alkn::token_log_probability: expected a label in [0, 11) or -100, got -1 (sample 2, "
        "position 3)");
  Tensor nan = logits.clone();
  nan[1][2][4].fill_(std::nan(""));
  CHECK(
      error(nan, batch.labels) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 2)");
  CHECK(
      error_of([&] { ignore(task.loss(batch.ids, nan, batch.labels)); }) ==
      "alkn::token_log_probability: expected logits with a finite log-sum-exp, got nan (sample 1, "
      "position 2)");
  CHECK(same_bits(everything(method), before));
}

TEST_CASE("a batch without a valid token has loss 0 and gradient 0") {
  Model model;
  const auto check = [&](auto& method) {
    const Batch batch(0);
    const Tensor none = at::full({3, 5}, -100, at::kLong);
    auto task = method.begin_task({.steps = 1});
    task.remember(batch.ids, model.forward(batch.tokens), none);
    if (task.wants_retain_gradient()) {
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), none));
    }
    method.zero_grad();
    const Tensor loss = task.loss(batch.ids, model.forward(batch.tokens), none);
    CHECK(loss.template item<double>() == 0);
    loss.backward();
    for (const auto& p : model.params) CHECK(p.tensor.grad().eq(0).all().template item<bool>());
    method.step();
    CHECK_FALSE(method.last_step().skipped);
    CHECK(method.last_step().grad_norm == 0);
  };
  alkn::ALKN<> a(model.params);
  check(a);
  alkn::NPO<> b(model.params);
  check(b);
  alkn::GradientAscent<> c(model.params);
  check(c);
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

TEST_CASE("a gradient that is not finite skips the step and is counted") {
  for (const Backend backend : tiny::kBackends) {
    for (const double bad : {std::nan(""), double{INFINITY}, double{-INFINITY}}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        Model model(type);
        alkn::ALKN<> method(model.params, alkn::ALKNOptions().backend(backend));
        auto task = method.begin_task({.steps = 4});
        tiny::prepare(task, model);
        tiny::set_gradients(model.params, 1);
        model["head"].mutable_grad()[10][5].fill_(bad);
        const auto start = model.copies();
        method.step();  // the very first one
        CHECK(method.last_step().skipped);
        CHECK_FALSE(std::isfinite(method.last_step().grad_norm));
        CHECK(same_bits(model.copies(), start));
        CHECK(core_of(method).parameters()[0].score.eq(0).all().item<bool>());
        tiny::set_gradients(model.params, 1);
        method.step();
        CHECK_FALSE(method.last_step().skipped);
        const auto before = model.copies();
        const Tensor score = core_of(method).parameters()[0].score.clone();
        tiny::set_gradients(model.params, 2);
        model["embed"].mutable_grad()[0][0].fill_(bad);
        method.step();
        CHECK(method.last_step().skipped);
        CHECK(method.last_step().step == 2);
        CHECK(same_bits(model.copies(), before));
        CHECK(same_bits(core_of(method).parameters()[0].score, score));
        const auto& state = static_cast<const alkn::AdamWParamState&>(
            *method.state().at(model["head"].unsafeGetTensorImpl()));
        CHECK(state.step() == 1);
        const auto report = task.end();
        CHECK(report.steps == 3);
        CHECK(report.skipped_steps == 2);
      }
    }
  }
}

TEST_CASE("a task whose every step was skipped still ends, and learns its thresholds next time") {
  Model model;
  alkn::ALKN<> method(model.params);
  const auto before = model.copies();
  auto task = method.begin_task({.steps = 1});
  tiny::prepare(task, model);
  tiny::set_gradients(model.params, 1);
  model["bias"].mutable_grad().fill_(std::nan(""));
  method.step();
  const auto report = task.end();
  CHECK(report.skipped_steps == 1);
  CHECK(report.fraction_trained == 0);
  CHECK(same_bits(model.copies(), before));
  CHECK(tiny::unlearn(method, model, 2, 1).tensors[0].threshold.has_value());
}

TEST_CASE("a foreign base is not asked to step on a gradient that is not finite") {
  Model model;
  alkn::TaskVector<torch::optim::Adam> method(model.params, {}, torch::optim::AdamOptions(0.1));
  auto task = method.begin_task({.steps = 2});
  tiny::set_gradients(model.params, 1);
  model["head"].mutable_grad()[0][0].fill_(std::nan(""));
  const auto before = model.copies();
  method.step();
  CHECK(method.last_step().skipped);
  CHECK(same_bits(model.copies(), before));
  CHECK(method.state().empty());
}

namespace {

/// What torch SGD or Adam or alkn::AdamW holds, as tensors.
std::vector<Tensor> base_state(const torch::optim::Optimizer& optimizer) {
  std::vector<Tensor> all;
  for (const auto& group : optimizer.param_groups()) {
    for (const Tensor& param : group.params()) {
      const auto found = optimizer.state().find(param.unsafeGetTensorImpl());
      if (found == optimizer.state().end()) {
        all.emplace_back();
        continue;
      }
      if (const auto* s = dynamic_cast<const torch::optim::SGDParamState*>(found->second.get())) {
        all.push_back(s->momentum_buffer().clone());
      } else if (const auto* a =
                     dynamic_cast<const torch::optim::AdamParamState*>(found->second.get())) {
        all.insert(all.end(),
                   {a->exp_avg().clone(), a->exp_avg_sq().clone(), at::tensor(a->step())});
      } else if (const auto* w = dynamic_cast<const alkn::AdamWParamState*>(found->second.get())) {
        all.insert(all.end(),
                   {w->exp_avg().clone(), w->exp_avg_sq().clone(), at::tensor(w->step())});
      }
    }
    all.push_back(at::tensor(group.options().get_lr()));
  }
  return all;
}

template <class Base>
auto base_options() {
  if constexpr (std::is_same_v<Base, torch::optim::SGD>) {
    return torch::optim::SGDOptions(0.05).momentum(0.9);
  } else if constexpr (std::is_same_v<Base, torch::optim::Adam>) {
    return torch::optim::AdamOptions(0.01);
  } else {
    return alkn::AdamWOptions(0.01).weight_decay(0.1);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("abandon restores to the bit: weights, moments of before, options, history", "",
                   alkn::AdamW, torch::optim::SGD, torch::optim::Adam) {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
  const bool by_scope = GENERATE(false, true);
  Model model(type), twin(type);
  const auto options = alkn::ALKNOptions().lr_decay(0.5).start_on_host(by_scope);
  alkn::ALKN<TestType> method(model.params, options, base_options<TestType>()),
      undisturbed(twin.params, options, base_options<TestType>());
  // a first task, then plain steps whose moments must survive
  tiny::unlearn(method, model, 3, 0);
  tiny::unlearn(undisturbed, twin, 3, 0);
  const auto plain = [](auto& unlearner, const Model& m, int i) {
    tiny::set_gradients(m.params, i);
    unlearner.step();
  };
  for (int i = 0; i < 2; ++i) {
    plain(method, model, i);
    plain(undisturbed, twin, i);
  }
  const auto weights = model.copies();
  const auto state = base_state(method);
  const auto all = everything(method);
  for (const int steps : {0, 1, 4}) {
    auto task = std::make_optional(method.begin_task({.steps = 4}));
    if (steps > 0) tiny::prepare(*task, model, 1);
    for (int i = 0; i < steps; ++i) {
      tiny::step(method, *task, model, 1);
      method.param_groups()[0].options().set_lr(0.7);
    }
    if (steps > 0) CHECK_FALSE(same_bits(model.copies(), weights));
    if (by_scope) {
      task.reset();
    } else {
      task->abandon();
    }
    CHECK(same_bits(model.copies(), weights));
    CHECK(same_bits(base_state(method), state));
    CHECK(same_bits(everything(method), all));
  }
  // as if the task had never been: the same bits from here on
  for (int i = 2; i < 4; ++i) {
    plain(method, model, i);
    plain(undisturbed, twin, i);
  }
  tiny::unlearn(method, model, 2, 2);
  tiny::unlearn(undisturbed, twin, 2, 2);
  CHECK(same_bits(model.copies(), twin.copies()));
}

TEST_CASE("an exception on the way through the scope of a task abandons it") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto before = model.copies();
  CHECK(error_of([&] {
          auto task = method.begin_task({.steps = 2});
          tiny::step(method, task, model);
          throw std::runtime_error("the user's own");
        }) == "the user's own");
  CHECK(same_bits(model.copies(), before));
  tiny::unlearn(method, model, 1);
}

TEST_CASE("without held weights a task that has stepped cannot be abandoned") {
  Model model;
  alkn::NPO<> method(model.params, {}, alkn::AdamWOptions(0.1));
  const auto before = model.copies();
  auto early = method.begin_task({.steps = 2});
  early.abandon();  // nothing was written yet
  CHECK(same_bits(model.copies(), before));
  {
    auto task = method.begin_task({.steps = 2});
    tiny::prepare(task, model);
    tiny::step(method, task, model);
    const auto stepped = everything(method);
    const std::string text =
        "alkn::NPO: expected held weights to go back to, got none after 1 steps; construct with "
        "rollback(true) to be able to abandon";
    CHECK(error_of([&] { task.abandon(); }) == text);
    CHECK(same_bits(everything(method), stepped));
    tiny::step(method, task, model);  // and it goes on
    method.param_groups()[0].options().set_lr(0.3);
  }  // out of scope: the weights stay, the task and its options are closed
  CHECK_FALSE(same_bits(model.copies(), before));
  CHECK(method.param_groups()[0].options().get_lr() == 0.1);
  CHECK(method.num_tasks() == 0);
  auto next = method.begin_task({.steps = 1});

  Model held;
  alkn::NPO<> careful(held.params, alkn::NPOOptions().rollback(true));
  auto task = careful.begin_task({.steps = 1});
  tiny::prepare(task, held);
  tiny::step(careful, task, held);
  task.abandon();
  CHECK(same_bits(held.copies(), before));
}

TEST_CASE("start_weights puts the weights of the start into the model for a scope") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type), twin(type);
  const auto options = alkn::GradientAscentOptions().rollback(true);
  alkn::GradientAscent<> method(model.params, options), undisturbed(twin.params, options);
  const auto before = model.copies();
  auto task = method.begin_task({.steps = 4});
  auto same = undisturbed.begin_task({.steps = 4});
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  const auto tuned = model.copies();
  {
    const auto scope = task.start_weights();
    CHECK(same_bits(model.copies(), before));
    CHECK(error_of([&] { const auto second = task.start_weights(); }) ==
          "alkn::Task: expected one scope of start_weights() or weights_at() at a time, got a "
          "second");
    tiny::set_gradients(model.params, 1);
    CHECK(
        error_of([&] { method.step(); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got a step inside the "
        "scope of start_weights()");
    CHECK(
        error_of([&] { ignore(task.end()); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got end() inside the "
        "scope of start_weights()");
    CHECK(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), tuned));
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  CHECK(same_bits(model.copies(), twin.copies()));  // masters too have come through
  {
    const auto scope = task.start_weights();
    task.abandon();  // ends the scope
    CHECK(same_bits(model.copies(), before));
  }
  CHECK(same_bits(model.copies(), before));

  alkn::GradientAscent<> without(model.params);
  auto bare = without.begin_task({.steps = 1});
  {
    const auto scope = bare.start_weights();  // nothing was written yet
    CHECK(same_bits(model.copies(), before));
    tiny::set_gradients(model.params, 1);
    CHECK(
        error_of([&] { without.step(); }) ==
        "alkn::GradientAscent: expected the fine-tuned weights in the model, got a step inside the "
        "scope of start_weights()");
    CHECK(same_bits(model.copies(), before));
  }
  tiny::step(without, bare, model);
  CHECK(error_of([&] { const auto scope = bare.start_weights(); }) ==
        "alkn::Task: expected held weights for start_weights() after the first step, got none; "
        "construct with rollback(true)");
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

TEST_CASE("end with another lambda") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
    const auto run = [&](std::optional<double> lambda, double negation) {
      Model model(type);
      alkn::TaskVector<> method(model.params,
                                alkn::TaskVectorOptions().negation(negation).backend(backend));
      auto task = method.begin_task({.steps = 2});
      for (int i = 0; i < 2; ++i) tiny::step(method, task, model);
      const auto report = lambda ? task.end(*lambda) : task.end();
      CHECK(report.lambda == lambda.value_or(negation));
      CHECK_FALSE(report.lambda_reduced);
      return model.copies();
    };
    CHECK(same_bits(run(0.3, 1), run({}, 0.3)));
    CHECK(same_bits(run(0.0, 1), Model(type).copies()));  // lambda 0: the weights of the start
    CHECK_FALSE(same_bits(run(0.3, 1), run({}, 1)));
  }
}

TEST_CASE("a judge finds the largest lambda within its bound, to the bit of end with that lambda") {
  for (const Backend backend : tiny::kBackends) {
    const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
    const auto run = [&](auto&& finish) {
      Model model(type);
      alkn::ALKN<> method(
          model.params, alkn::ALKNOptions().backend(type == at::kDouble ? Backend::aten : backend),
          alkn::AdamWOptions(0.05));
      auto task = method.begin_task({.steps = 4});
      tiny::prepare(task, model);
      for (int i = 0; i < 4; ++i) tiny::step(method, task, model);
      const alkn::TaskReport report = finish(task, model);
      const auto after = tiny::unlearn(method, model, 2, 1);  // the history is the same as well
      return std::tuple(report, model.copies(), after.overlap);
    };
    int calls = 0;
    std::vector<double> seen;
    const auto [reduced, weights, overlap] = run([&](auto& task, Model& model) {
      // the largest distance from the start grows with lambda
      const auto distance = [&] { return tiny::distance(model["head"], Model(type)["head"]); };
      const auto report = task.end(
          [&] {
            ++calls;
            seen.push_back(distance());
            return seen.back();
          },
          0.1, 12);
      CHECK(distance() <= 0.1);
      return report;
    });
    CHECK(reduced.lambda_reduced);
    CHECK(reduced.lambda > 0);
    CHECK(reduced.lambda < 2);
    CHECK(calls == 13);
    CHECK(seen.front() > 0.1);
    CHECK(seen[1] == Approx(seen.front() / 2).epsilon(0.02));  // halfway
    const auto [direct, same, same_overlap] =
        run([&](auto& task, Model&) { return task.end(reduced.lambda); });
    CHECK(same_bits(weights, same));
    CHECK(overlap == same_overlap);
    CHECK(direct.fraction_trained == reduced.fraction_trained);
    // the next of the 2^12 steps to lambda_t, which was judged as well, passes the bound
    const auto [above, farther, unused] = run([&](auto& task, Model& model) {
      auto report = task.end(reduced.lambda + 2.0 / 4096);
      CHECK(tiny::distance(model["head"], Model(type)["head"]) > 0.1);
      return report;
    });
    // a bound that holds: the whole lambda, asked once
    calls = 0;
    const auto [whole, full, unused_too] =
        run([&](auto& task, Model&) { return task.end([&] { return ++calls, 0.0; }, 0.0); });
    CHECK(whole.lambda == 2);
    CHECK_FALSE(whole.lambda_reduced);
    CHECK(calls == 1);
    const auto [plain, expected, unused_three] =
        run([&](auto& task, Model&) { return task.end(); });
    CHECK(same_bits(full, expected));
    // NaN is within no bound; nor is anything: lambda 0, the weights of the start
    const auto [never, untouched, unused_four] = run([&](auto& task, Model& model) {
      auto report = task.end([&] { return std::nan(""); }, 1e9);
      CHECK(same_bits(model.copies(), Model(type).copies()));
      return report;
    });
    CHECK(never.lambda == 0);
    CHECK(never.lambda_reduced);
  }
}

TEST_CASE("a judge that throws leaves the task going") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type), twin(type);
  alkn::ALKN<> method(model.params), undisturbed(twin.params);
  auto task = method.begin_task({.steps = 4});
  auto same = undisturbed.begin_task({.steps = 4});
  tiny::prepare(task, model);
  tiny::prepare(same, twin);
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  const auto tuned = everything(method);
  for (const int good : {0, 3}) {
    int calls = 0;
    CHECK(error_of([&] {
            ignore(task.end(
                [&]() -> double {
                  if (calls++ == good) throw std::runtime_error("the judge is ill");
                  return 2;
                },
                1));
          }) == "the judge is ill");
    CHECK(same_bits(everything(method), tuned));
  }
  CHECK(error_of([&] { ignore(task.end(std::function<double()>(), 1.0)); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got no judge, bound 1 "
        "and 10 iterations (end)");
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, std::nan(""))); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got a judge, bound nan "
        "and 10 iterations (end)");
  CHECK(error_of([&] { ignore(task.end([] { return 0.0; }, 1.0, 0)); }) ==
        "alkn::ALKN: expected a judge, a bound and at least one iteration, got a judge, bound 1 "
        "and 0 iterations (end)");
  for (int i = 0; i < 2; ++i) {
    tiny::step(method, task, model);
    tiny::step(undisturbed, same, twin);
  }
  task.end();
  same.end();
  CHECK(same_bits(everything(method), everything(undisturbed)));
}

TEST_CASE("a judge may look, but not act") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions().retain_term(alkn::RetainTerm::nll));
  auto task = method.begin_task({.steps = 3});
  tiny::prepare(task, model);
  tiny::step(method, task, model);
  const Batch batch(0);
  int calls = 0;
  task.end(
      [&] {
        ++calls;
        const Tensor logits = model.forward(batch.tokens);
        const auto inside = [](const std::string& call) {
          return "alkn::Task: expected " + call + " outside the judge of end(), got it inside";
        };
        CHECK(error_of([&] { task.abandon(); }) == inside("abandon()"));
        CHECK(error_of([&] { ignore(task.end()); }) == inside("end()"));
        CHECK(error_of([&] { ignore(task.end(1.0)); }) == inside("end()"));
        CHECK(error_of([&] { task.remember(batch.ids, logits, batch.labels); }) ==
              inside("remember()"));
        CHECK(error_of([&] { method.step(); }) ==
              "alkn::ALKN: expected a step outside the judge of end(), got it inside");
        CHECK(task.loss(batch.ids, logits, batch.labels).item<double>() > 0);
        return task.retain_loss(logits, batch.labels).item<double>();
      },
      1e9);
  CHECK(calls == 1);
  CHECK(method.num_tasks() == 1);
}

TEST_CASE("the report has the numbers of the task") {
  for (const Backend backend : tiny::kBackends) {
    Model model;
    alkn::ALKN<> method(
        model.params,
        alkn::ALKNOptions().backend(backend).negation(0.5).negation_decay(0.5).max_norm(0.01));
    std::vector<Tensor> used(4);
    for (int t = 0; t < 3; ++t) {
      auto task = method.begin_task({.steps = 3});
      tiny::prepare(task, model, t);
      for (int i = 0; i < 3; ++i) {
        tiny::step(method, task, model, t);
        const auto& last = method.last_step();
        CHECK(last.task == t);
        CHECK(last.step == i);
        double squares = 0;
        for (const auto& p : model.params) {
          squares += p.tensor.grad().to(at::kDouble).square().sum().item<double>();
        }
        CHECK(last.grad_norm == Approx(std::sqrt(squares)).epsilon(1e-6));
        CHECK(last.clip_scale == Approx(0.01 / (std::sqrt(squares) + 1e-6)).epsilon(1e-6));
        CHECK(last.clip_scale < 1);
      }
      std::vector<Tensor> masks;
      double on = 0, again = 0, all = 0;
      for (const auto& p : core_of(method).parameters()) {
        masks.push_back(alkn::detail::unpack_bits(p.mask, p.shape));
      }
      const double last_fraction = method.last_step().fraction_trained;
      const double last_scale = method.last_step().clip_scale;
      const auto report = task.end();
      CHECK(report.task == t);
      CHECK(report.steps == 3);
      CHECK(report.skipped_steps == 0);
      CHECK(report.lambda == 0.5 * std::pow(0.5, t));
      CHECK_FALSE(report.lambda_reduced);
      REQUIRE(report.tensors.size() == 4);
      for (std::size_t i = 0; i < 4; ++i) {
        const auto& row = report.tensors[i];
        const auto& p = core_of(method).parameters()[i];
        const auto count = masks[i].sum().item<double>();
        const auto both =
            used[i].defined() ? masks[i].logical_and(used[i]).sum().item<double>() : 0.0;
        CHECK(row.name == model.params[i].name);
        CHECK(row.size == p.param.numel());
        CHECK(row.fraction_trained == count / static_cast<double>(row.size));
        CHECK(row.overlap == (count > 0 ? both / count : 0));
        CHECK(row.threshold.has_value() == (row.size >= 10));
        if (row.threshold) CHECK(row.threshold.value() == p.threshold.value());
        used[i] = used[i].defined() ? used[i].logical_or(masks[i]) : masks[i];
        CHECK(same_bits(alkn::detail::unpack_bits(p.used, p.shape), used[i]));
        on += count;
        again += both;
        all += static_cast<double>(row.size);
      }
      CHECK(report.fraction_trained == on / all);
      CHECK(report.fraction_trained == last_fraction);
      CHECK(report.clip_scale == last_scale);
      CHECK(report.overlap == again / on);
      if (t > 0) CHECK(report.overlap > 0);
    }
  }
}

TEST_CASE("a judge is asked under the conditions of end, and reports only in a task") {
  Model model;
  alkn::ALKN<> method(model.params);
  CHECK(error_of([&] { static_cast<void>(method.last_tensors()); }) ==
        "alkn::ALKN: expected last_tensors() during a task, got none running");
  CHECK(error_of([&] { static_cast<void>(method.last_step()); }) ==
        "alkn::ALKN: expected last_step() during a task, got none running");
  auto task = method.begin_task({.steps = 2});
  int calls = 0;
  const auto judge = [&] { return ++calls, 0.0; };
  CHECK(error_of([&] { task.end(judge, 1.0); }) ==
        "alkn::ALKN: expected at least one step before end(), got none; abandon() leaves all as it "
        "was (task 0)");
  tiny::prepare(task, model);
  tiny::step(method, task, model);
  {
    const auto scope = task.start_weights();
    CHECK(error_of([&] { task.end(judge, 1.0); }) ==
          "alkn::ALKN: expected the fine-tuned weights in the model, got end() inside the scope of "
          "start_weights()");
  }
  CHECK(calls == 0);  // nor are weights tried that it would have judged
  const auto before = everything(method);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double lambda : {-1.0, nan, std::numeric_limits<double>::infinity()}) {
    CHECK(error_of([&] { task.end(lambda); }) ==
          fmt::format("alkn::ALKN: expected lambda in [0, inf), got {} (end)", lambda));
  }
  CHECK(same_bits(everything(method), before));
  task.end();
}

namespace {

/// Its batch is one tensor and the number of values that count in each sample.
struct SquaredValues {
  static constexpr const char* kName = "squared_values";
  static constexpr bool kRemembers = true;
  template <class Self>
  using Options = alkn::TokenNLL::Options<Self>;  // none
  static std::vector<Tensor> remember(const Tensor& values, const Tensor& counts) {
    std::vector<Tensor> all;
    for (std::int64_t b = 0; b < values.size(0); ++b) {
      all.push_back(values[b].narrow(0, 0, counts[b].item<std::int64_t>()).detach());
    }
    return all;
  }
  static Tensor token_counts(const Tensor&, const Tensor& counts) { return counts; }
  template <class MethodOptions>
  static Tensor loss(const MethodOptions&, const std::vector<Tensor>& memory, const Tensor& values,
                     const Tensor& counts) {
    Tensor sum = at::zeros({});
    for (std::int64_t b = 0; b < values.size(0); ++b) {
      const std::int64_t size = counts[b].item<std::int64_t>();
      sum = sum + (values[b].narrow(0, 0, size) - memory[static_cast<std::size_t>(b)])
                      .add(1)
                      .square()
                      .sum();
    }
    return sum;
  }
};

}  // namespace

TEST_CASE("an objective of one's own takes a batch of its own, and counts its own tokens") {
  const Tensor w = tiny::wave({2, 3}, 0.4).set_requires_grad(true);
  alkn::Unlearner<SquaredValues, alkn::NoMask, alkn::Keep> method(
      std::vector<alkn::NamedParameter>{{"w", w}});
  auto task = method.begin_task({.steps = 1});
  const Tensor ids = at::arange(2, at::kLong), counts = at::arange(2, at::kLong).add(1);
  task.remember(ids, w, counts);
  const Tensor loss = task.loss(ids, w, counts);
  CHECK(loss.item<double>() == Approx(3));  // 1 + 2 values that count, each (0 + 1)^2
  CHECK(error_of([&] { static_cast<void>(task.loss(ids, w, counts.sub(1))); }) ==
        "alkn::Task: expected 1 valid tokens as remembered, got 0 (sample 0)");
  loss.backward();
  CHECK(w.grad()[0][1].item<double>() == 0);
  CHECK(w.grad()[1][1].item<double>() == Approx(2));
}

TEST_CASE("the protocol is typed: what a method does not want costs nothing") {
  Model model;
  alkn::GradientAscent<> ascent(model.params);
  alkn::NPO<> preference(model.params);
  alkn::ALKN<> knowledge(model.params);
  {
    auto task = ascent.begin_task({.steps = 1});
    CHECK_FALSE(task.wants_memory());
    CHECK_FALSE(task.wants_retain_gradient());
    CHECK_FALSE(task.wants_retain_loss());
    const Batch batch(0);
    const Tensor logits = model.forward(batch.tokens);
    task.remember(batch.ids, logits, batch.labels);  // harmless
    task.accumulate_retain_gradient(logits.sum());   // harmless
    CHECK(core_of(ascent).task().memory.entries().empty());
    CHECK_FALSE(core_of(ascent).parameters()[0].retain.defined());
    CHECK_FALSE(core_of(ascent).parameters()[0].start.defined());  // no second copy of the weights
    ignore(task.loss(Tensor(), logits, batch.labels));             // ids are not looked at
  }
  CHECK(preference.begin_task({.steps = 1}).wants_memory());
  CHECK(knowledge.begin_task({.steps = 1}).wants_retain_gradient());
  CHECK(std::is_nothrow_destructible_v<alkn::ALKN<>::TaskType>);
  CHECK_FALSE(std::is_copy_constructible_v<alkn::ALKN<>::TaskType>);
  CHECK_FALSE(std::is_move_constructible_v<alkn::ALKN<>>);
  CHECK_FALSE(std::is_copy_constructible_v<alkn::ALKN<>>);
}

TEST_CASE("five tasks in a row forget their requests and keep their history") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-2));
  for (std::int64_t t = 0; t < 5; ++t) {
    const Batch request(t);
    const double before = nll_of(model, request);
    const auto report = tiny::unlearn(method, model, 5, t);
    CHECK(nll_of(model, request) > before);
    CHECK(report.task == t);
  }
  CHECK(method.num_tasks() == 5);
  CHECK(method.state().empty());
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

TEST_CASE("a reference to a group's options is good across tasks") {
  Model model;
  alkn::TaskVector<> fused(model.params, alkn::TaskVectorOptions().lr_decay(0.5));
  alkn::TaskVector<torch::optim::SGD> foreign(model.params, alkn::TaskVectorOptions().lr_decay(0.5),
                                              torch::optim::SGDOptions(0.1));
  const auto check = [&](auto& method) {
    auto& options = method.param_groups()[0].options();
    const double rate = options.get_lr();
    for (int number = 0; number < 2; ++number) {
      auto task = method.begin_task({.steps = 1});
      CHECK(&method.param_groups()[0].options() == &options);
      CHECK(options.get_lr() == rate * std::pow(0.5, number));
      options.set_lr(0.003);
      tiny::set_gradients(model.params, number);
      method.step();
      task.end();
      CHECK(&method.param_groups()[0].options() == &options);
      CHECK(options.get_lr() == rate);
    }
    method.begin_task({.steps = 1}).abandon();
    CHECK(&method.param_groups()[0].options() == &options);
  };
  check(fused);
  check(foreign);
}

TEST_CASE("tasks begin and end in inference mode as well") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto begin = [&] {
    const c10::InferenceMode inference;
    return method.begin_task({.steps = 1});
  };
  auto task = begin();
  tiny::step(method, task, model);
  const auto tuned = model.copies();
  { const auto start = task.start_weights(); }
  CHECK(same_bits(model.copies(), tuned));
  {
    const c10::InferenceMode inference;
    task.end();
  }
  tiny::set_gradients(model.params, 1);
  method.step();
}

TEST_CASE("a tensor without a gradient in the last step is reported as not trained") {
  Model model;
  alkn::TaskVector<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::step(method, task, model);
  method.zero_grad();
  model["bias"].mutable_grad() = at::ones({6});
  method.step();
  CHECK(method.last_tensors()[2].fraction_trained == 1);
  CHECK(method.last_tensors()[3].fraction_trained == 0);
  const auto report = task.end();
  CHECK(report.tensors[2].fraction_trained == 1);
  CHECK(report.tensors[0].fraction_trained == 0);
}

TEST_CASE("a master takes over what the user wrote, to the sign of zero, wherever it lies") {
  Tensor w = at::zeros({64}, at::kBFloat16).set_requires_grad(true);
  alkn::TaskVector<> method(std::vector<alkn::NamedParameter>{{"w", w}}, {},
                            alkn::AdamWOptions(0.01).weight_decay(0));
  method.begin_task({.steps = 1}).abandon();  // makes the master
  {
    const at::NoGradGuard no_grad;
    w.neg_();
  }
  const Tensor negative = w.detach().clone();
  method.begin_task({.steps = 1}).abandon();
  CHECK(same_bits(w.detach(), negative));

  for (int trial = 0; trial < 50; ++trial) {  // now and then at the address of before
    w.set_data(at::full({64}, 1, at::kBFloat16));
    w.mutable_grad() = at::zeros({64}, at::kBFloat16);
    method.step();
    w.set_data(at::full({64}, 2, at::kBFloat16));
    w.set_data(at::full({64}, 5, at::kBFloat16));
    method.step();
    REQUIRE(w[0].item<double>() == 5);
  }
}

TEST_CASE("a group that cannot be added is not") {
  Model model;
  const Tensor extra = at::ones({20}).set_requires_grad(true);
  const Tensor more = at::ones({20}).set_requires_grad(true);
  alkn::TaskVector<> method(model.params);
  method.add_param_group(torch::optim::OptimizerParamGroup(
      std::vector<Tensor>{extra}, std::make_unique<alkn::AdamWOptions>(0.1)));
  const std::vector<alkn::NamedParameter> named{{"more", more}};
  CHECK(error_of([&] { method.add_named_parameters(named, alkn::AdamWOptions(0.1)); }) ==
        "alkn::TaskVector: expected the parameters that were named, got one without a name; use "
        "add_named_parameters (group 1, position 0)");
  CHECK(method.param_groups().size() == 2);
}
