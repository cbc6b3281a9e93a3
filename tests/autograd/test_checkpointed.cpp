// Activation checkpointing: the bits of the run without, through every way to a gradient.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/zeros.h>

#include <alkn/autograd/checkpointed.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "method/tiny.hpp"
#include "objective/support.hpp"

namespace {

using at::Tensor;
using support::AllocationCounter;
using support::leaf;
using support::noise;
using tiny::same_bits, tiny::error_of;

/// A block with a dropout: x + gate dropout(tanh(x W^T + b)) U^T.
struct Layer {
  Tensor weight, bias, out;
  explicit Layer(std::uint64_t seed, std::int64_t width = 8, std::int64_t inner = 24)
      : weight(leaf(noise({inner, width}, .7, seed))),
        bias(leaf(noise({inner}, .5, seed + 1))),
        out(leaf(noise({width, inner}, .7, seed + 2))) {}
  [[nodiscard]] Tensor forward(const Tensor& x, const Tensor& gate) const {
    const Tensor inner = x.matmul(weight.t()).add(bias).tanh();
    const Tensor y = at::dropout(inner, .3, true).matmul(out.t());
    return x.add(gate.defined() ? y.mul(gate) : y);
  }
  [[nodiscard]] std::vector<Tensor> parameters() const { return {weight, bias, out}; }
};

/// Embedding, two layers, a loss.
struct Net {
  Tensor table = leaf(noise({11, 8}, 1, 1)), gate = leaf(noise({8}, 1, 2));
  Layer first{10}, second{20};
  Tensor tokens = support::labels({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});

  [[nodiscard]] Tensor loss(bool checkpointed) const {
    at::manual_seed(5);
    Tensor x = table.index_select(0, tokens.flatten()).view({2, 5, 8});
    for (const Layer* layer : {&first, &second}) {
      const auto block = [layer](const Tensor& h, const Tensor& g) { return layer->forward(h, g); };
      x = checkpointed ? alkn::checkpointed(block, layer->parameters(), x, gate) : block(x, gate);
    }
    return x.square().mean();
  }
  [[nodiscard]] std::vector<Tensor> parameters() const {
    std::vector<Tensor> all{table, gate};
    for (const Layer* layer : {&first, &second}) {
      for (const Tensor& p : layer->parameters()) all.push_back(p);
    }
    return all;
  }
};

std::vector<Tensor> grads_of(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> all;
  for (const Tensor& p : parameters) all.push_back(p.grad());
  return all;
}

Tensor generator_state() { return at::detail::getDefaultCPUGenerator().get_state(); }

}  // namespace

TEST_CASE("checkpointed: backward has the bits of the run without") {
  const Net plain, net;
  const Tensor want = plain.loss(false), loss = net.loss(true);
  CHECK(same_bits(loss, want));
  const Tensor before = generator_state();
  want.backward();
  CHECK(same_bits(generator_state(), before));
  at::rand({3});  // somebody else's numbers in between
  const Tensor moved = generator_state();
  loss.backward();
  CHECK(same_bits(generator_state(), moved));  // the generator is where it was
  const auto grads = grads_of(net.parameters()), wanted = grads_of(plain.parameters());
  CHECK(same_bits(grads, wanted));
  for (const Tensor& g : grads) CHECK(g.abs().max().item<double>() > 1e-6);
  net.loss(true).backward();  // and adds up
  plain.loss(false).backward();
  CHECK(same_bits(grads_of(net.parameters()), grads_of(plain.parameters())));
}

TEST_CASE("checkpointed: grad writes to no .grad, and finds only what is asked for") {
  const Net plain, net;
  const auto grad = [](const Net& n, bool checkpointed, const std::vector<Tensor>& inputs) {
    return torch::autograd::grad({n.loss(checkpointed)}, inputs);
  };
  CHECK(same_bits(grad(net, true, net.parameters()), grad(plain, false, plain.parameters())));
  CHECK(same_bits(grad(net, true, {net.second.out}), grad(plain, false, {plain.second.out})));
  CHECK(same_bits(grad(net, true, {net.table}), grad(plain, false, {plain.table})));
  CHECK(same_bits(grad(net, true, {net.gate, net.first.bias}),
                  grad(plain, false, {plain.gate, plain.first.bias})));
  for (const Tensor& p : net.parameters()) CHECK_FALSE(p.grad().defined());
}

TEST_CASE("checkpointed: behind a frozen embedding, and with frozen parameters") {
  const Net plain, net;
  for (const Net* n : {&plain, &net}) {
    Tensor(n->table).set_requires_grad(false);
    Tensor(n->gate).set_requires_grad(false);
    Tensor(n->second.weight).set_requires_grad(false);
  }
  plain.loss(false).backward();
  net.loss(true).backward();
  CHECK(same_bits(grads_of(net.parameters()), grads_of(plain.parameters())));
  CHECK(net.first.weight.grad().abs().max().item<double>() > 1e-6);
  CHECK_FALSE(net.second.weight.grad().defined());
}

TEST_CASE("checkpointed: the retain gradient and a task's steps are those without") {
  const auto run = [](bool checkpointed, bool frozen) {
    const Net net;
    Tensor(net.table).set_requires_grad(!frozen);
    std::vector<alkn::NamedParameter> named;
    for (const Tensor& p : net.parameters())
      named.push_back({"p" + std::to_string(named.size()), p.set_requires_grad(p.requires_grad())});
    alkn::Unlearner<alkn::TokenNLL, alkn::LocalizedMask, alkn::Negate> method(named);
    auto task = method.begin_task({.steps = 2});
    task.accumulate_retain_gradient(net.loss(checkpointed));
    task.accumulate_retain_gradient(net.loss(checkpointed).mul(2));
    for (const Tensor& p : net.parameters()) CHECK_FALSE(p.grad().defined());
    std::vector<Tensor> all;
    for (const auto& p : tiny::core_of(method).parameters()) all.push_back(p.retain.clone());
    for (int i = 0; i < 2; ++i) {
      method.zero_grad();
      net.loss(checkpointed).backward();
      method.step();
    }
    task.end();
    for (const Tensor& p : net.parameters()) all.push_back(p.detach().clone());
    return all;
  };
  for (const bool frozen : {false, true}) {
    const auto with = run(true, frozen), without = run(false, frozen);
    CHECK(same_bits(with, without));
    CHECK((with[0].abs().max().item<double>() > 1e-6) == !frozen);
    for (std::size_t i = 1; i < 8; ++i) CHECK(with[i].abs().max().item<double>() > 1e-6);
  }
}

TEST_CASE("checkpointed: without gradients it just runs") {
  const Layer layer(3);
  const Tensor x = noise({2, 8}, 1, 4);
  int runs = 0;
  const auto block = [&](const Tensor& h) {
    ++runs;
    return layer.forward(h, Tensor());
  };
  const auto run = [&](bool checkpointed) {
    at::manual_seed(2);
    return checkpointed ? alkn::checkpointed(block, layer.parameters(), x) : block(x);
  };
  {
    const at::NoGradGuard no_grad;
    CHECK(same_bits(run(true), run(false)));
    CHECK_FALSE(run(true).requires_grad());
  }
  {
    const c10::InferenceMode inference;
    CHECK(same_bits(run(true), run(false)));
  }
  for (const Tensor& p : layer.parameters()) Tensor(p).set_requires_grad(false);
  runs = 0;
  CHECK_FALSE(run(true).requires_grad());
  CHECK(runs == 1);
}

TEST_CASE("checkpointed: what nothing asks for costs nothing") {
  const Layer layer(3);
  const Tensor x = noise({2, 8}, 1, 4);
  const Tensor before = x.clone();
  const auto writes = [&](const Tensor& h) { return Tensor(h).add_(1).matmul(layer.weight.t()); };
  {
    const at::NoGradGuard no_grad;  // just runs: nothing is counted, so nothing is refused
    alkn::checkpointed(writes, layer.parameters(), x);
    CHECK(same_bits(x, before + 1));
  }
  for (const Tensor& p : layer.parameters()) Tensor(p).set_requires_grad(false);
  alkn::checkpointed(writes, layer.parameters(), x);
  CHECK(same_bits(x, before + 1 + 1));

  // Gradients that the caller does not want are not computed in the second run either.
  const Net net;
  int asked = 0;
  net.first.bias.register_hook([&](const Tensor&) { ++asked; });
  torch::autograd::grad({net.loss(true)}, {net.first.weight});
  CHECK(asked == 0);
}

TEST_CASE("checkpointed: a parameter's hook sees its gradient once") {
  const Net plain, net;
  for (const Net* n : {&plain, &net}) {
    n->first.weight.register_hook([](const Tensor& g) { return g.mul(2); });
    n->gate.register_hook([](const Tensor& g) { return g.mul(3); });  // an input of both blocks
  }
  plain.loss(false).backward();
  net.loss(true).backward();
  CHECK(same_bits(grads_of(net.parameters()), grads_of(plain.parameters())));
}

TEST_CASE("checkpointed: a block whose result needs no gradient gives none") {
  const Tensor x = leaf(noise({2, 8}, 1, 4)), weight = leaf(noise({8}, 1, 5));
  const auto cuts = [](const Tensor& h) { return h.detach().mul(2); };
  const auto found = torch::autograd::grad({alkn::checkpointed(cuts, {weight}, x).sum()},
                                           {x, weight}, {}, std::nullopt, false, true);
  CHECK_FALSE((found[0].defined() || found[1].defined()));
}

TEST_CASE("checkpointed: a block's activations are there for one block at a time") {
  const auto peak = [](bool checkpointed) {
    std::vector<Layer> layers;
    for (std::uint64_t i = 0; i < 8; ++i) layers.emplace_back(i, 4, 4096);
    const Tensor input = leaf(noise({64, 4}, 1, 9));
    const AllocationCounter counter;
    Tensor x = input;
    for (const Layer& layer : layers) {
      const auto block = [&layer](const Tensor& h) { return layer.forward(h, Tensor()); };
      x = checkpointed ? alkn::checkpointed(block, layer.parameters(), x) : block(x);
    }
    x.sum().backward();
    return counter.peak();
  };
  CHECK(peak(true) * 3 < peak(false));
}

TEST_CASE("checkpointed: an undefined input, a parameter that is not used, one that is no leaf") {
  const Layer layer(3);
  const Tensor base = leaf(noise({8}, 1, 5)), unused = leaf(noise({3}, 1, 6));
  const auto run = [&](bool checkpointed) {
    at::manual_seed(2);
    const Tensor scale = base.mul(3);  // has a graph of its own
    const auto block = [layer, scale](const Tensor& h, const Tensor& gate) {
      return layer.forward(h, gate).mul(scale);
    };
    std::vector<Tensor> parameters = layer.parameters();
    parameters.push_back(scale);
    parameters.push_back(unused);
    const Tensor x = noise({2, 8}, 1, 4);
    const Tensor y =
        checkpointed ? alkn::checkpointed(block, parameters, x, Tensor()) : block(x, Tensor());
    return torch::autograd::grad({y.sum()}, {base, layer.weight, unused}, {}, std::nullopt, false,
                                 true);
  };
  const auto with = run(true), without = run(false);
  CHECK(same_bits({with[0], with[1]}, {without[0], without[1]}));
  CHECK_FALSE(with[2].defined());
}

TEST_CASE("checkpointed: what would be lost in silence is an error") {
  const Layer layer(3);
  const Tensor x = leaf(noise({2, 8}, 1, 4));
  const auto forward = [layer](const Tensor& h) { return layer.forward(h, Tensor()); };
  {
    const Tensor y = alkn::checkpointed(forward, {layer.weight, layer.out}, x);
    CHECK(error_of([&] { y.sum().backward(); }) ==
          "alkn::checkpointed: expected all tensors that the block reads and that need a gradient "
          "among its inputs and parameters, got another of [24]");
    CHECK_FALSE(layer.weight.grad().defined());
  }
  {
    const Tensor y = alkn::checkpointed(forward, layer.parameters(), x);
    CHECK(
        error_of([&] { torch::autograd::grad({y.sum()}, {x}, {}, true, /*create_graph=*/true); }) ==
        "alkn::checkpointed: expected a backward pass without create_graph, got one with it "
        "(second derivatives are not available)");
    const Tensor sum = y.sum();
    const at::NoGradGuard no_grad;
    layer.out.mul_(2);  // the second run would see other weights
    CHECK_THAT(error_of([&] { sum.backward(); }),
               Catch::Matchers::ContainsSubstring("modified by an inplace operation"));
  }
  const auto writes = [&](const Tensor& h) {
    const at::NoGradGuard no_grad;
    return layer.forward(Tensor(h).add_(1), Tensor());
  };
  CHECK(error_of([&] { alkn::checkpointed(writes, layer.parameters(), x); }) ==
        "alkn::checkpointed: expected a block that leaves its inputs and parameters as they are, "
        "got one that wrote to input 0");
  // a block that throws the second time: the generator is where it was
  int runs = 0;
  const auto throws = [&](const Tensor& h) {
    at::bernoulli(h.detach().sigmoid());
    if (++runs == 2) throw std::runtime_error("the block is ill");
    return layer.forward(h, Tensor());
  };
  const Tensor y = alkn::checkpointed(throws, layer.parameters(), x);
  const Tensor before = generator_state();
  CHECK(error_of([&] { y.sum().backward(); }) == "the block is ill");
  CHECK(same_bits(generator_state(), before));
}
