// Methods over the base optimizers of LibTorch and over alkn::AdamW.
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/serialize/archive.h>
#include <alkn/tensor/bits.hpp>

#include <cmath>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::Model, tiny::same_bits, tiny::error_of, tiny::core_of;

namespace {

template <class Base>
struct Options;
template <>
struct Options<alkn::AdamW> {
  static auto make() { return alkn::AdamWOptions(1e-2).weight_decay(0.1).betas({0.8, 0.97}); }
};
template <>
struct Options<torch::optim::SGD> {
  static auto make() { return torch::optim::SGDOptions(3e-2).momentum(0.8).weight_decay(0.01); }
};
template <>
struct Options<torch::optim::Adam> {
  static auto make() {
    return torch::optim::AdamOptions(1e-2).weight_decay(0.01).betas({0.8, 0.97});
  }
};
template <>
struct Options<torch::optim::AdamW> {
  static auto make() {
    return torch::optim::AdamWOptions(1e-2).weight_decay(0.1).betas({0.8, 0.97});
  }
};
template <>
struct Options<torch::optim::RMSprop> {
  static auto make() { return torch::optim::RMSpropOptions(3e-3).momentum(0.5).alpha(0.9); }
};
template <>
struct Options<torch::optim::Adagrad> {
  static auto make() { return torch::optim::AdagradOptions(3e-2).lr_decay(0.1); }
};

std::vector<Tensor> tensors_of(const Model& model) {
  std::vector<Tensor> all;
  for (const auto& p : model.params) all.push_back(p.tensor);
  return all;
}

/// The gradients that a task of these options hands to the base: everything but the base's own
/// step.
alkn::TaskVectorOptions plain_options() { return alkn::TaskVectorOptions().max_norm(0); }

}  // namespace

#define ALKN_BASES                                                                                \
  alkn::AdamW, torch::optim::SGD, torch::optim::Adam, torch::optim::AdamW, torch::optim::RMSprop, \
      torch::optim::Adagrad

TEMPLATE_TEST_CASE("every method unlearns over every base", "", ALKN_BASES) {
  const auto base = Options<TestType>::make();
  const auto check = [](auto& unlearner, Model& model, bool ascends) {
    double last = 0;
    for (std::int64_t t = 0; t < 2; ++t) {
      const tiny::Batch forget(t);
      const auto nll = [&] {
        return alkn::mean_nll(model.forward(forget.tokens), forget.labels).template item<double>();
      };
      const double before = nll();
      const auto report = tiny::unlearn(unlearner, model, 6, t);
      CHECK(report.task == t);
      CHECK(report.steps == 6);
      CHECK(report.skipped_steps == 0);
      INFO(unlearner.method_name() << ", task " << t);
      CHECK(nll() > before);
      last = nll();
    }
    CHECK(std::isfinite(last));
    CHECK(unlearner.num_tasks() == 2);
    static_cast<void>(ascends);
  };
  Model a, b, c, d;
  alkn::ALKN<TestType> knowledge(a.params, alkn::ALKNOptions(), base);
  check(knowledge, a, false);
  alkn::TaskVector<TestType> vector(b.params, alkn::TaskVectorOptions(), base);
  check(vector, b, false);
  alkn::GradientAscent<TestType> ascent(c.params, alkn::GradientAscentOptions(), base);
  check(ascent, c, true);
  alkn::NPO<TestType> preference(d.params, alkn::NPOOptions(), base);
  check(preference, d, true);
}

TEMPLATE_TEST_CASE("a step outside a task is the base's own, to the bit", "", ALKN_BASES) {
  Model mine, plain;
  const auto base = Options<TestType>::make();
  alkn::ALKN<TestType> unlearner(mine.params, alkn::ALKNOptions(), base);
  TestType optimizer(tensors_of(plain), base);
  const auto before = mine.copies();
  for (int i = 0; i < 4; ++i) {
    tiny::set_gradients(mine.params, i);
    tiny::set_gradients(plain.params, i);
    unlearner.step();
    optimizer.step();
  }
  CHECK(same_bits(mine.copies(), plain.copies()));
  CHECK_FALSE(same_bits(mine.copies(), before));
}

TEMPLATE_TEST_CASE("without a mask and a clip, a step in a task is the base's own", "",
                   ALKN_BASES) {
  Model mine, plain;
  const auto base = Options<TestType>::make();
  alkn::TaskVector<TestType> unlearner(mine.params, plain_options(), base);
  TestType optimizer(tensors_of(plain), base);
  auto task = unlearner.begin_task({.steps = 4});
  for (int i = 0; i < 4; ++i) {
    tiny::set_gradients(mine.params, i);
    tiny::set_gradients(plain.params, i);
    unlearner.step();
    optimizer.step();
  }
  CHECK(same_bits(mine.copies(), plain.copies()));
}

TEMPLATE_TEST_CASE("a task starts from fresh moments and drops its own", "", ALKN_BASES) {
  Model mine, plain;
  const auto base = Options<TestType>::make();
  alkn::TaskVector<TestType> unlearner(mine.params, plain_options().negation(0), base);
  const auto num_states = unlearner.state().size();  // only Adagrad's constructor makes some
  for (int t = 0; t < 2; ++t) {
    TestType fresh(tensors_of(plain), base);
    auto task = unlearner.begin_task({.steps = 2});
    for (int i = 0; i < 2; ++i) {
      tiny::set_gradients(mine.params, i);
      tiny::set_gradients(plain.params, i);
      unlearner.step();
      fresh.step();
    }
    CHECK(same_bits(mine.copies(), plain.copies()));
    task.abandon();
    for (std::size_t i = 0; i < plain.params.size(); ++i) {
      const at::NoGradGuard no_grad;
      plain.params[i].tensor.copy_(mine.params[i].tensor);
    }
    CHECK(unlearner.state().size() == num_states);
  }
}

TEMPLATE_TEST_CASE("clipping is by the global norm", "", ALKN_BASES) {
  Model mine, plain;
  const auto base = Options<TestType>::make();
  alkn::TaskVector<TestType> unlearner(mine.params, alkn::TaskVectorOptions().max_norm(0.25), base);
  TestType optimizer(tensors_of(plain), base);
  auto task = unlearner.begin_task({.steps = 3});
  for (int i = 0; i < 3; ++i) {
    tiny::set_gradients(mine.params, i);
    tiny::set_gradients(plain.params, i);
    double squares = 0;
    for (auto& p : plain.params)
      squares += p.tensor.grad().to(at::kDouble).square().sum().template item<double>();
    const double scale = 0.25 / (std::sqrt(squares) + 1e-6);
    for (auto& p : plain.params) p.tensor.mutable_grad().mul_(scale);
    unlearner.step();
    optimizer.step();
    CHECK(unlearner.last_step().grad_norm == Approx(std::sqrt(squares)).epsilon(1e-9));
    CHECK(unlearner.last_step().clip_scale == Approx(scale).epsilon(1e-9));
  }
  for (std::size_t i = 0; i < mine.params.size(); ++i) {
    CHECK(tiny::distance(mine.params[i].tensor, plain.params[i].tensor) < 2e-6);
  }
}

TEMPLATE_TEST_CASE("a low-precision model is stepped through fp32 masters", "", ALKN_BASES) {
  const at::ScalarType type = GENERATE(at::kBFloat16, at::kHalf);
  Model mine(type), wide;
  {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < wide.params.size(); ++i)
      wide.params[i].tensor.copy_(mine.params[i].tensor);
  }
  const auto base = Options<TestType>::make();
  alkn::TaskVector<TestType> unlearner(mine.params, plain_options(), base);
  auto optimizer = std::make_unique<TestType>(tensors_of(wide), base);
  const auto go = [&](int i) {
    tiny::set_gradients(mine.params, i);
    for (std::size_t k = 0; k < wide.params.size(); ++k) {
      wide.params[k].tensor.mutable_grad() = mine.params[k].tensor.grad().to(at::kFloat);
    }
    unlearner.step();
    optimizer->step();
  };
  const auto check = [&] {
    for (std::size_t k = 0; k < wide.params.size(); ++k) {
      const Tensor master = core_of(unlearner).base().masters().get(mine.params[k].tensor);
      CHECK(same_bits(master, wide.params[k].tensor));
      CHECK(same_bits(mine.params[k].tensor, wide.params[k].tensor.to(type)));
    }
  };
  for (int i = 0; i < 3; ++i) go(i);
  check();                                                         // outside a task
  optimizer = std::make_unique<TestType>(tensors_of(wide), base);  // a task has moments of its own
  auto task = unlearner.begin_task({.steps = 3});
  for (int i = 0; i < 3; ++i) go(i);
  check();  // inside
  for (std::size_t k = 0; k < mine.params.size(); ++k) {
    CHECK(unlearner.param_groups()[0].params()[k].is_same(mine.params[k].tensor));
    CHECK(mine.params[k].tensor.grad().scalar_type() == type);
  }
}

TEMPLATE_TEST_CASE("updates far below half a unit in the last place add up", "", ALKN_BASES) {
  auto base = Options<TestType>::make();
  base.lr(std::is_same_v<TestType, torch::optim::Adagrad> ? 1e-3 : 1e-5);
  Tensor weight = at::full({4, 8}, 1.0, at::kBFloat16).set_requires_grad(true);
  alkn::TaskVector<TestType> unlearner(std::vector<alkn::NamedParameter>{{"w", weight}},
                                       plain_options().negation(0), base);
  auto task = unlearner.begin_task({.steps = 900});
  for (int i = 0; i < 900; ++i) {
    weight.mutable_grad() = at::full({4, 8}, 1.0, at::kBFloat16);
    unlearner.step();
  }
  CHECK(weight.detach().to(at::kFloat).max().template item<float>() < 1.0F);
}

namespace {

/// Two equal unlearners, one of them with modulation, after a first task in which it has no effect;
/// then the first step of the second task with equal gradients.
template <class Base>
struct Pair {
  Model a, b;
  alkn::ALKN<Base> none, modulated;
  std::vector<Tensor> old;

  Pair(alkn::Modulation modulation, at::ScalarType type)
      : a(type),
        b(type),
        none(a.params, alkn::ALKNOptions().modulation(alkn::Modulation::none),
             Options<Base>::make()),
        modulated(b.params, alkn::ALKNOptions().modulation(modulation).low_lr_ratio(0.3),
                  Options<Base>::make()) {
    tiny::unlearn(none, a, 3, 0);
    tiny::unlearn(modulated, b, 3, 0);
    REQUIRE(same_bits(a.copies(), b.copies()));
    for (auto& p : a.params) old.push_back(live(none, p.tensor).detach().clone());
    auto first = none.begin_task({.steps = 2});
    auto second = modulated.begin_task({.steps = 2});
    tiny::prepare(first, a, 1);
    tiny::prepare(second, b, 1);
    tiny::step(none, first, a, 1);
    tiny::step(modulated, second, b, 1);
    for (std::size_t i = 0; i < a.params.size(); ++i) {
      plain.push_back(live(none, a.params[i].tensor).detach().clone());
      scaled.push_back(live(modulated, b.params[i].tensor).detach().clone());
    }
    slow.resize(a.params.size());
    for (std::size_t i = 0; i < slow.size(); ++i) slow[i] = core_of(modulated).parameters()[i].slow;
    first.abandon();
    second.abandon();
  }

  template <class Method>
  static Tensor live(Method& method, const Tensor& param) {
    const Tensor master = core_of(method).base().masters().get(param);
    return master.defined() ? master : param;
  }

  std::vector<Tensor> plain, scaled;
  std::vector<bool> slow;
};

}  // namespace

TEMPLATE_TEST_CASE("modulation over a foreign base scales the displacement", "", torch::optim::SGD,
                   torch::optim::Adam, torch::optim::AdamW, torch::optim::RMSprop,
                   torch::optim::Adagrad) {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16, at::kDouble);
  SECTION("by parameter: the entries in M") {
    Pair<TestType> pair(alkn::Modulation::parameter, type);
    std::int64_t inside = 0, outside = 0;
    for (std::size_t i = 0; i < pair.old.size(); ++i) {
      const auto& state = core_of(pair.modulated).parameters()[i];
      const Tensor used = alkn::detail::unpack_bits(state.used, state.shape);
      const Tensor want =
          at::where(used, pair.old[i].add(pair.plain[i].sub(pair.old[i]), 0.3), pair.plain[i]);
      CHECK(same_bits(pair.scaled[i], want));
      inside += used.sum().template item<std::int64_t>();
      outside += used.logical_not().sum().template item<std::int64_t>();
    }
    CHECK(inside > 0);
    CHECK(outside > 0);
  }
  SECTION("by tensor: the upper half by share of entries in M") {
    Pair<TestType> pair(alkn::Modulation::tensor, type);
    std::vector<std::pair<double, std::size_t>> share;
    for (std::size_t i = 0; i < pair.old.size(); ++i) {
      const auto& state = core_of(pair.modulated).parameters()[i];
      const Tensor used = alkn::detail::unpack_bits(state.used, state.shape);
      share.emplace_back(used.to(at::kDouble).mean().template item<double>(), i);
    }
    std::sort(share.begin(), share.end());
    for (std::size_t rank = 0; rank < share.size(); ++rank) {
      const std::size_t i = share[rank].second;
      CHECK(pair.slow[i] == (rank >= share.size() / 2));
      const Tensor want =
          pair.slow[i] ? pair.old[i].add(pair.plain[i].sub(pair.old[i]), 0.3) : pair.plain[i];
      CHECK(same_bits(pair.scaled[i], want));
    }
  }
}

TEST_CASE("modulation over alkn::AdamW is a lower learning rate, for the decay too") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kDouble);
  Pair<alkn::AdamW> pair(alkn::Modulation::parameter, type);
  for (std::size_t i = 0; i < pair.old.size(); ++i) {
    const auto& state = core_of(pair.modulated).parameters()[i];
    const Tensor used = alkn::detail::unpack_bits(state.used, state.shape);
    const Tensor want =
        at::where(used, pair.old[i].add(pair.plain[i].sub(pair.old[i]), 0.3), pair.plain[i]);
    CHECK(tiny::distance(pair.scaled[i], want) < (type == at::kFloat ? 3e-7 : 1e-14));
    CHECK(same_bits(pair.scaled[i].masked_select(used.logical_not()),
                    pair.plain[i].masked_select(used.logical_not())));
    CHECK(used.all().item<bool>() == (state.param.numel() < 10));
    CHECK(tiny::distance(pair.scaled[i], pair.plain[i]) > 1e-4);
  }
}

TEST_CASE("freeze requires alkn::AdamW") {
  Model model;
  const auto options = alkn::ALKNOptions().masked(alkn::Masked::freeze);
  CHECK(error_of([&] {
          alkn::ALKN<torch::optim::SGD>(model.params, options, torch::optim::SGDOptions(0.1));
        }) == "alkn::ALKN: expected alkn::AdamW as Base for Masked::freeze, got another optimizer");
  alkn::ALKN<> fine(model.params, options);
  using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Keep, torch::optim::Adam>;
  CHECK(error_of([&] {
          Masked(model.params, Masked::Options().masked(alkn::Masked::freeze),
                 torch::optim::AdamOptions(0.1));
        }) ==
        "alkn::Unlearner: expected alkn::AdamW as Base for Masked::freeze, got another optimizer");
}

namespace {

/// Moves its first parameter, then throws.
class Broken : public torch::optim::SGD {
 public:
  using torch::optim::SGD::SGD;
  Tensor step(LossClosure closure = nullptr) override {
    if (!throws) return torch::optim::SGD::step(closure);
    const at::NoGradGuard no_grad;
    param_groups_[0].params()[0].add_(1);
    throw std::runtime_error("broken");
  }
  bool throws = false;
};

}  // namespace

TEST_CASE("after an exception inside a foreign step, abandon restores") {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type);
  alkn::ALKN<Broken> unlearner(model.params, alkn::ALKNOptions(),
                               torch::optim::SGDOptions(0.1).momentum(0.9));
  tiny::set_gradients(model.params, 3);
  unlearner.step();
  const auto before = model.copies();
  Tensor momentum;
  {
    auto& state = *unlearner.state().begin()->second;
    momentum = static_cast<torch::optim::SGDParamState&>(state).momentum_buffer().clone();
  }
  auto task = unlearner.begin_task({.steps = 3});
  tiny::prepare(task, model);
  tiny::step(unlearner, task, model);
  unlearner.throws = true;
  CHECK(error_of([&] { tiny::step(unlearner, task, model); }) == "broken");
  for (std::size_t k = 0; k < model.params.size(); ++k) {
    CHECK(unlearner.param_groups()[0].params()[k].is_same(model.params[k].tensor));
  }
  task.abandon();
  CHECK(same_bits(model.copies(), before));
  CHECK(same_bits(static_cast<torch::optim::SGDParamState&>(*unlearner.state().begin()->second)
                      .momentum_buffer(),
                  momentum));
  unlearner.throws = false;
  tiny::unlearn(unlearner, model, 2);
  CHECK(unlearner.num_tasks() == 1);
}

TEST_CASE("a foreign base's own save and load work under a low-precision model") {
  Model a(at::kBFloat16), b(at::kBFloat16);
  const auto options = torch::optim::SGDOptions(1e-1).momentum(0.9);
  alkn::TaskVector<torch::optim::SGD> first(a.params, plain_options(), options),
      second(b.params, plain_options(), options);
  tiny::set_gradients(a.params, 1);
  first.step();
  torch::serialize::OutputArchive out;
  first.save(out);
  std::stringstream stream;
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  second.load(in);
  const auto momentum = [](auto& unlearner, const Tensor& param) {
    const Tensor master = core_of(unlearner).base().masters().get(param);
    return static_cast<torch::optim::SGDParamState&>(
               *unlearner.state().at(master.unsafeGetTensorImpl()))
        .momentum_buffer();
  };
  for (std::size_t k = 0; k < a.params.size(); ++k) {
    CHECK(same_bits(momentum(first, a.params[k].tensor), momentum(second, b.params[k].tensor)));
    CHECK(second.param_groups()[0].params()[k].is_same(b.params[k].tensor));
  }
}
