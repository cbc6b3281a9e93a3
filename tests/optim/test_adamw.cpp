// alkn::AdamW beside LibTorch's two AdamW, its groups, and what it writes to archives.
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>
#include <torch/serialize/archive.h>
#include <alkn/optim/archive.hpp>

#include <cmath>
#include <limits>
#include <sstream>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::error_of, tiny::same_bits;

namespace {

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr double kRate = 0.0137, kDecay = 0.11, kBeta1 = 0.83, kBeta2 = 0.977, kSmall = 1e-5;

alkn::AdamWOptions numbers() {
  return alkn::AdamWOptions(kRate)
      .weight_decay(kDecay)
      .betas({kBeta1, kBeta2})
      .eps(kSmall)
      .decay_vectors(true);
}

/// Parameter, moments and the number of steps.
struct State {
  Tensor param, avg, avg_sq;
  std::int64_t step = 0;

  explicit State(std::int64_t size, at::ScalarType type = at::kFloat)
      : param(tiny::wave({size}, 0.1, 1.3, type)),
        avg(at::zeros({size}, type)),
        avg_sq(at::zeros({size}, type)) {}
  [[nodiscard]] State clone() const {
    State copy = *this;
    copy.param = param.clone();
    copy.avg = avg.clone();
    copy.avg_sq = avg_sq.clone();
    return copy;
  }
};

/// Gradients of very different sizes, zeros among them.
Tensor gradient(std::int64_t size, int step, at::ScalarType type = at::kFloat) {
  const Tensor g = tiny::wave({size}, 0.3 + step, 1, at::kDouble);
  const Tensor scale = at::arange(size, at::kDouble).remainder(7).mul(-1.7).exp();
  return g.mul(scale).mul(at::arange(size, at::kLong).remainder(13).ne(step % 13)).to(type);
}

void step_alkn(State& s, const Tensor& grad, Backend backend) {
  Tensor param = s.param.detach().set_requires_grad(true);
  alkn::AdamW optimizer({param}, numbers(), backend);
  auto state = std::make_unique<alkn::AdamWParamState>();
  state->step(s.step).exp_avg(s.avg).exp_avg_sq(s.avg_sq);
  optimizer.state()[param.unsafeGetTensorImpl()] = std::move(state);
  param.mutable_grad() = grad.clone();
  optimizer.step();
  CHECK(static_cast<alkn::AdamWParamState&>(*optimizer.state().at(param.unsafeGetTensorImpl()))
            .step() == s.step + 1);
  s.step += 1;
}

void step_torch(State& s, const Tensor& grad) {
  Tensor param = s.param.detach().set_requires_grad(true);
  torch::optim::AdamW optimizer(
      {param},
      torch::optim::AdamWOptions(kRate).weight_decay(kDecay).betas({kBeta1, kBeta2}).eps(kSmall));
  auto state = std::make_unique<torch::optim::AdamWParamState>();
  state->step(s.step).exp_avg(s.avg).exp_avg_sq(s.avg_sq);
  optimizer.state()[param.unsafeGetTensorImpl()] = std::move(state);
  param.mutable_grad() = grad.clone();
  optimizer.step();
  s.step += 1;
}

void step_fused(State& s, const Tensor& grad) {
  s.step += 1;
  const Tensor count = at::full({}, static_cast<double>(s.step), at::kFloat);
  at::_fused_adamw_({s.param}, {grad.clone()}, {s.avg}, {s.avg_sq}, {}, {count}, kRate, kBeta1,
                    kBeta2, kDecay, kSmall, false, false);
}

/// In double, from the definition.
void step_exact(State& s, const Tensor& grad) {
  s.step += 1;
  const auto t = static_cast<double>(s.step);
  const Tensor g = grad.to(at::kDouble);
  s.avg = s.avg.to(at::kDouble).mul(kBeta1).add(g, 1 - kBeta1);
  s.avg_sq = s.avg_sq.to(at::kDouble).mul(kBeta2).add(g.square(), 1 - kBeta2);
  const Tensor root = s.avg_sq.sqrt().div(std::sqrt(1 - std::pow(kBeta2, t))).add(kSmall);
  s.param = s.param.to(at::kDouble)
                .mul(1 - kRate * kDecay)
                .sub(s.avg.div(root), kRate / (1 - std::pow(kBeta1, t)));
}

/// The largest difference of the parameters in units of eps max(|p|, lr).
double in_eps(const State& a, const State& b) {
  const Tensor p = b.param.to(at::kDouble);
  return a.param.to(at::kDouble).sub(p).abs().div(p.abs().clamp_min(kRate)).max().item<double>() /
         kEps;
}

/// The same of the moments, in units of eps times the larger of the two terms.
double moments_in_eps(const State& a, const State& b, const State& before, const Tensor& grad) {
  const auto worst = [](const Tensor& x, const Tensor& y, const Tensor& one, const Tensor& other) {
    const Tensor scale = at::maximum(one.abs(), other.abs()).to(at::kDouble).clamp_min(1e-300);
    return x.to(at::kDouble).sub(y.to(at::kDouble)).abs().div(scale).max().item<double>() / kEps;
  };
  return std::max(worst(a.avg, b.avg, before.avg, grad.mul(1 - kBeta1)),
                  worst(a.avg_sq, b.avg_sq, before.avg_sq, grad.square().mul(1 - kBeta2)));
}

}  // namespace

TEST_CASE("from equal state, a step is within 4 eps max(|p|, lr) of LibTorch's two AdamW") {
  for (const Backend backend : tiny::kBackends) {
    for (const std::int64_t size : {1, 7, 8, 9, 15, 16, 17, 997, 65535, 65536, 65537}) {
      INFO(tiny::name_of(backend) << ", size " << size);
      State mine(size);
      double torch = 0, fused = 0, exact = 0, moments = 0;
      const int steps = size > 1000 ? 4 : 25;
      for (int i = 0; i < steps; ++i) {
        const Tensor grad = gradient(size, i);
        const State before = mine.clone();
        State a = mine.clone(), b = mine.clone(), c = mine.clone();
        step_alkn(mine, grad, backend);
        step_torch(a, grad);
        step_fused(b, grad);
        step_exact(c, grad);
        torch = std::max(torch, in_eps(mine, a));
        fused = std::max(fused, in_eps(mine, b));
        exact = std::max(exact, in_eps(mine, c));
        moments = std::max({moments, moments_in_eps(mine, a, before, grad),
                            moments_in_eps(mine, c, before, grad)});
        CHECK_FALSE(same_bits(mine.param, before.param));
      }
      CHECK(torch <= 4);
      CHECK(fused <= 4);
      CHECK(exact <= 4);
      CHECK(moments <= 4);
    }
  }
}

TEST_CASE("after 100 steps the three AdamW are within 512 eps max(|p|, lr)") {
  for (const Backend backend : tiny::kBackends) {
    State mine(4099), torch(4099), fused(4099);
    for (int i = 0; i < 100; ++i) {
      const Tensor grad = gradient(4099, i);
      step_alkn(mine, grad, backend);
      step_torch(torch, grad);
      step_fused(fused, grad);
    }
    INFO(tiny::name_of(backend));
    CHECK(in_eps(mine, torch) <= 512);
    CHECK(in_eps(mine, fused) <= 512);
    CHECK(in_eps(torch, fused) <= 512);
  }
}

TEST_CASE("in double, a step is LibTorch's to rounding") {
  State mine(997, at::kDouble), torch(997, at::kDouble);
  for (int i = 0; i < 20; ++i) {
    const Tensor grad = gradient(997, i, at::kDouble);
    step_alkn(mine, grad, Backend::automatic);
    step_torch(torch, grad);
  }
  CHECK(tiny::distance(mine.param, torch.param) < 1e-14);
  CHECK(tiny::distance(mine.avg_sq, torch.avg_sq) < 1e-14);
}

TEST_CASE(
    "low precision: the masters are those of an fp32 model, and the parameters their rounding") {
  for (const Backend backend : tiny::kBackends) {
    for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
      Tensor narrow = tiny::wave({321}, 0.2, 1, type).set_requires_grad(true);
      Tensor wide = narrow.detach().to(at::kFloat).set_requires_grad(true);
      alkn::AdamW a({narrow}, numbers(), backend), b({wide}, numbers(), backend);
      for (int i = 0; i < 20; ++i) {
        narrow.mutable_grad() = gradient(321, i, type);
        wide.mutable_grad() = narrow.grad().to(at::kFloat);
        a.step();
        b.step();
        CHECK(same_bits(narrow, wide.detach().to(type)));
      }
    }
  }
}

namespace {

struct Layers {
  Tensor matrix = tiny::wave({5, 7}, 0.1).set_requires_grad(true);
  Tensor bias = tiny::wave({7}, 0.2).set_requires_grad(true);
  Tensor norm = tiny::wave({7}, 0.3).set_requires_grad(true);
  [[nodiscard]] std::vector<alkn::NamedParameter> named() const {
    return {{"matrix", matrix}, {"bias", bias}, {"norm", norm}};
  }
  void zero_gradients() const {
    for (const auto& p : named()) Tensor(p.tensor).mutable_grad() = at::zeros(p.tensor.sizes());
  }
};

/// What one step with zero gradients multiplies a tensor by.
double factor(const Tensor& before, const Tensor& after) {
  return after.div(before).mean().item<double>();
}

}  // namespace

TEST_CASE("tensors of two or more dimensions decay; others where a group says so") {
  const auto factors = [](const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>>& groups,
                          bool vectors) {
    const Layers layers, before;
    alkn::TaskVector<> unlearner(layers.named(), groups, {},
                                 alkn::AdamWOptions(0.5).weight_decay(0.2).decay_vectors(vectors));
    layers.zero_gradients();
    unlearner.step();
    return std::vector<double>{factor(before.matrix.detach(), layers.matrix.detach()),
                               factor(before.bias.detach(), layers.bias.detach()),
                               factor(before.norm.detach(), layers.norm.detach())};
  };
  const auto near = [](const std::vector<double>& got, const std::vector<double>& want) {
    return std::equal(got.begin(), got.end(), want.begin(),
                      [](double a, double b) { return std::abs(a - b) < 1e-5; });
  };
  using Overrides = alkn::AdamWOverrides;
  CHECK(near(factors({}, false), {0.9, 1, 1}));
  CHECK(near(factors({}, true), {0.9, 0.9, 0.9}));
  CHECK(near(factors({{{"bias"}, Overrides().weight_decay(0.4)}}, false), {0.9, 1, 1}));
  CHECK(near(factors({{{"bias"}, Overrides().weight_decay(0.4).decay_vectors(true)}}, false),
             {0.9, 0.8, 1}));
  CHECK(near(factors({{{"bias"}, Overrides().decay_vectors(true)}}, false), {0.9, 0.9, 1}));
  CHECK(near(factors({{{"matrix"}, Overrides().weight_decay(0)}}, false), {1, 1, 1}));
  CHECK(near(factors({{{"matrix", "norm"}, Overrides().lr(0.25)}}, true), {0.95, 0.9, 0.95}));
}

TEST_CASE("what a group leaves unset follows the defaults") {
  const Layers layers;
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
      {{"bias"}, alkn::AdamWOverrides().lr(0.5)},
      {{"norm"}, alkn::AdamWOverrides().betas({{0.3, 0.4}}).eps(1e-3).weight_decay(0.7)}};
  const auto defaults = alkn::AdamWOptions(0.1).betas({0.5, 0.6}).eps(1e-4).weight_decay(0.3);
  alkn::TaskVector<> unlearner(layers.named(), groups, {}, defaults);
  const auto& list = unlearner.param_groups();
  REQUIRE(list.size() == 3);
  const auto options = [&](std::size_t g) {
    return static_cast<const alkn::AdamWOptions&>(list[g].options());
  };
  CHECK(list[0].params()[0].is_same(layers.matrix));
  CHECK(list[1].params()[0].is_same(layers.bias));
  CHECK(list[2].params()[0].is_same(layers.norm));
  CHECK(options(0).lr() == 0.1);
  CHECK(options(0).weight_decay() == 0.3);
  CHECK_FALSE(options(0).decay_vectors());
  CHECK(options(1).lr() == 0.5);
  CHECK(options(1).betas() == std::tuple(0.5, 0.6));
  CHECK(options(1).eps() == 1e-4);
  CHECK(options(1).weight_decay() == 0.3);
  CHECK_FALSE(options(1).decay_vectors());
  CHECK(options(2).lr() == 0.1);
  CHECK(options(2).betas() == std::tuple(0.3, 0.4));
  CHECK(options(2).eps() == 1e-3);
  CHECK(options(2).weight_decay() == 0.7);
  CHECK_FALSE(options(2).decay_vectors());
}

TEST_CASE("outside a task a gradient that is not finite is taken as it is, as by LibTorch") {
  for (const Backend backend : tiny::kBackends) {
    Tensor w = tiny::wave({30}, 0.1).set_requires_grad(true);
    alkn::AdamW optimizer({w}, numbers(), backend);
    w.mutable_grad() = gradient(30, 1);
    w.mutable_grad()[29].fill_(std::nan(""));
    optimizer.step();
    CHECK(w.isnan().sum().item<std::int64_t>() == 1);
    CHECK(w[29].isnan().item<bool>());
  }
}

TEST_CASE("a step holds no gradient beyond itself") {
  Tensor w = tiny::wave({30}, 0.1).set_requires_grad(true);
  alkn::AdamW optimizer({w});
  w.mutable_grad() = gradient(30, 0);
  const c10::weak_intrusive_ptr<at::TensorImpl> grad(w.grad().getIntrusivePtr());
  optimizer.step();
  optimizer.zero_grad();
  CHECK(grad.expired());
}

namespace {

std::string saved(const torch::optim::Optimizer& optimizer) {
  torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  std::ostringstream stream;
  archive.save_to(stream);
  return stream.str();
}

void load(torch::optim::Optimizer& optimizer, const std::string& bytes) {
  std::istringstream stream(bytes);
  torch::serialize::InputArchive archive;
  archive.load_from(stream);
  optimizer.load(archive);
}

}  // namespace

TEST_CASE("a compact state takes half of the memory, and the same random numbers in each backend") {
  // Where both backends' fp32 moments agree they round alike; they differ by a rounding at most.
  const std::int64_t size = 70001;  // two rounding blocks
  std::vector<Tensor> stored[2], params[2];
  for (const Backend backend : tiny::kBackends) {
    std::vector<Tensor> list{tiny::wave({5}, 0.4).set_requires_grad(true),
                             tiny::wave({size}, 0.1, 1.3).set_requires_grad(true)};
    alkn::AdamW optimizer(list, numbers().compact_state(true), backend);
    for (int i = 0; i < 3; ++i) {
      for (Tensor& p : list) p.mutable_grad() = gradient(p.numel(), i);
      optimizer.step();
    }
    const auto& state = static_cast<const alkn::AdamWParamState&>(
        *optimizer.state().at(list[1].unsafeGetTensorImpl()));
    const std::size_t which = backend == Backend::aten ? 0 : 1;
    stored[which] = {state.exp_avg(), state.exp_avg_sq()};
    params[which] = {list[1].detach()};
    CHECK(state.exp_avg().scalar_type() == at::kBFloat16);
    CHECK(state.exp_avg_sq().scalar_type() == at::kBFloat16);
  }
  for (std::size_t k = 0; k < 2; ++k) {
    const Tensor differ = stored[0][k].ne(stored[1][k]);
    CHECK(differ.sum().item<std::int64_t>() < size / 500);
    const Tensor a = stored[0][k].to(at::kFloat), b = stored[1][k].to(at::kFloat);
    CHECK(a.sub(b).abs().le(a.abs().mul(0.02)).all().item<bool>());
  }
  CHECK(tiny::distance(params[0][0], params[1][0]) < 1e-4);
}

TEST_CASE("save and load go on with the same bits") {
  for (const Backend backend : tiny::kBackends) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const auto make = [&] {
        return std::vector<Tensor>{tiny::wave({40}, 0.1, 1, type).set_requires_grad(true),
                                   tiny::wave({4, 6}, 0.2, 1, type).set_requires_grad(true),
                                   tiny::wave({3}, 0.3, 1, type).set_requires_grad(true)};
      };
      auto first = make(), second = make();
      const bool compact = type != at::kHalf;
      alkn::AdamW a(first, numbers().compact_state(compact), backend);
      alkn::AdamW b(second, alkn::AdamWOptions(0.5), backend);
      const auto go = [&](alkn::AdamW& optimizer, std::vector<Tensor>& params, int i) {
        for (std::size_t k = 0; k < 2; ++k) {  // the third never has a gradient
          params[k].mutable_grad() =
              gradient(params[k].numel(), i, type).reshape(params[k].sizes());
        }
        optimizer.step();
      };
      for (int i = 0; i < 3; ++i) go(a, first, i);
      const std::string archive = saved(a);
      {
        const at::NoGradGuard no_grad;
        for (std::size_t k = 0; k < 3; ++k) second[k].copy_(first[k]);
      }
      go(b, second, 9);  // b has a state of its own, which goes
      {
        const at::NoGradGuard no_grad;
        for (std::size_t k = 0; k < 3; ++k) second[k].copy_(first[k]);
      }
      load(b, archive);
      CHECK(b.state().size() == 2);
      for (int i = 3; i < 6; ++i) {
        go(a, first, i);
        go(b, second, i);
        CHECK(same_bits(first, second));
      }
      CHECK(saved(b) == saved(a));
    }
  }
}

TEST_CASE("an archive that does not fit changes nothing") {
  Tensor w = tiny::wave({4, 6}, 0.2).set_requires_grad(true),
         v = tiny::wave({5}, 0.3).set_requires_grad(true);
  alkn::AdamW optimizer({w, v}, numbers());
  w.mutable_grad() = gradient(24, 0).reshape({4, 6});
  v.mutable_grad() = gradient(5, 0);
  optimizer.step();
  const std::string before = saved(optimizer);
  Tensor other = tiny::wave({6, 4}, 0.2).set_requires_grad(true);
  alkn::AdamW reshaped({other, v}, numbers()), fewer({w}, numbers()),
      grouped(
          std::vector<torch::optim::OptimizerParamGroup>{torch::optim::OptimizerParamGroup({w}),
                                                         torch::optim::OptimizerParamGroup({v})},
          numbers());
  other.mutable_grad() = gradient(24, 0).reshape({6, 4});
  reshaped.step();
  torch::optim::SGD foreign({w, v}, torch::optim::SGDOptions(0.1));
  CHECK(error_of([&] { load(optimizer, saved(reshaped)); }) ==
        "alkn::AdamW: expected exp_avg of [4, 6], got [6, 4] (load, parameter 0)");
  CHECK(error_of([&] { load(optimizer, saved(fewer)); }) ==
        "alkn::AdamW: expected 2 parameters, got 1 (load, group 0)");
  CHECK(error_of([&] { load(optimizer, saved(grouped)); }) ==
        "alkn::AdamW: expected 1 parameter groups, got 2 (load)");
  CHECK(error_of([&] { load(optimizer, saved(foreign)); }) ==
        "alkn::AdamW: expected an archive of alkn::AdamW, got one without \"num_groups\" (load)");
  CHECK(saved(optimizer) == before);
  CHECK(optimizer.state().size() == 2);
}

TEST_CASE("an archive without masters leaves none behind") {
  const Tensor start = at::ones({16}, at::kBFloat16);
  const auto rate = alkn::AdamWOptions(1e-3).weight_decay(0);
  const auto step = [](alkn::AdamW& optimizer, const Tensor& w) {
    w.mutable_grad() = at::ones({16}, at::kBFloat16);
    optimizer.step();
  };
  Tensor a = start.clone().set_requires_grad(true), b = start.clone().set_requires_grad(true);
  alkn::AdamW once({a}, rate), again({b}, rate);
  const std::string fresh = saved(again);
  step(again, b);  // below bfloat16's spacing: the master alone has moved
  {
    const at::NoGradGuard no_grad;
    b.copy_(start);
  }
  load(again, fresh);
  for (int i = 0; i < 3; ++i) step(once, a), step(again, b);
  CHECK(same_bits(a.detach(), b.detach()));
  CHECK((saved(once) == saved(again)));
}

TEST_CASE("a group that is added later is checked like the others") {
  Tensor w = tiny::wave({4}, 0.2).set_requires_grad(true);
  const auto with = [&](const Tensor& other) {
    alkn::AdamW optimizer({w}, numbers());
    optimizer.add_param_group(torch::optim::OptimizerParamGroup({other}));
    w.mutable_grad() = gradient(4, 0);
    const Tensor before = w.detach().clone();
    const std::string error = error_of([&] { optimizer.step(); });
    CHECK((error == "no error") != same_bits(w.detach(), before));
    return error;
  };
  CHECK(with(w) ==
        "alkn::AdamW: expected every parameter once, got a duplicate parameter (group 1, position "
        "0)");
  CHECK(with(w.detach().set_requires_grad(true)).find("overlapping storage") != std::string::npos);
  CHECK(with(tiny::wave({4}, 0.3).set_requires_grad(true)) == "no error");
}
