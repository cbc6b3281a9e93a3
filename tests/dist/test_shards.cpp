// What is where: parameters dealt to processes, the state of each in one place, what goes over the
// wire.
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/optim/sgd.h>

#include <unistd.h>
#include <alkn/checkpoint/checkpoint.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "dist/thread_group.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using Group = std::shared_ptr<threads::ThreadGroup>;
using tiny::ignore, tiny::Model, tiny::same_bits, tiny::wave;

namespace {

void require(bool fact, const char* what) {
  if (!fact) throw std::runtime_error(what);
}

/// One whole task with all its calls, with a gradient that does not depend on the process: of two
/// or four their mean is it, to the bit.
template <class Method, class Base>
std::vector<Tensor> train(const Base& base, const alkn::Processes& processes,
                          const std::vector<std::vector<std::int64_t>>& shapes,
                          at::ScalarType type = at::kFloat) {
  std::vector<alkn::NamedParameter> params;
  params.reserve(shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i)
    params.push_back({fmt::format("p{}", i),
                      wave(shapes[i], static_cast<double>(i), 0.9, type).set_requires_grad(true)});
  Method method(params, {}, base, processes);
  std::vector<Tensor> seen;
  const auto look = [&] {
    for (const auto& p : params) seen.push_back(p.tensor.detach().clone());
  };
  for (int t = 0; t < 2; ++t) {
    auto task = method.begin_task({.steps = 3});
    task.accumulate_retain_gradient(tiny::sum_of_squares(params));
    for (int step = 0; step < 3; ++step) {
      tiny::set_gradients(params, step + 3.0 * t);
      method.step();
      look();
    }
    {
      const auto scope = task.start_weights();
      look();
    }
    look();
    task.end();
    look();
  }
  return seen;
}

template <class Method, class Base>
void same_as_one(const Base& base, const std::vector<std::vector<std::int64_t>>& shapes, int size,
                 at::ScalarType type = at::kFloat) {
  const auto one = train<Method>(base, {}, shapes, type);
  std::vector<std::vector<Tensor>> all(static_cast<std::size_t>(size));
  threads::run_all(size, [&](const Group& group) {
    all[static_cast<std::size_t>(group->rank())] = train<Method>(base, group, shapes, type);
  });
  for (const auto& seen : all) CHECK(same_bits(seen, one));
}

}  // namespace

TEST_CASE("a process without a parameter of its own goes along") {
  same_as_one<alkn::ALKN<>>(alkn::AdamWOptions(1e-2), {{30, 40}}, 2);
  same_as_one<alkn::ALKN<>>(alkn::AdamWOptions(1e-2), {{30, 40}, {7}}, 4, at::kBFloat16);
  same_as_one<alkn::ALKN<torch::optim::SGD>>(torch::optim::SGDOptions(0.1).momentum(0.9),
                                             {{30, 40}}, 2, at::kBFloat16);
}

TEST_CASE("a tensor larger than a bucket, and those that travel by themselves") {
  constexpr std::int64_t kLargest = 7'000'000, kOwn = 600 * 500;  // 28 MB, 1.2 MB
  threads::run_all(2, [&](const Group& group) {
    const bool last = group->rank() == 1;
    std::vector<Tensor> params{at::zeros({kLargest}), at::zeros({3}), at::zeros({500, 600}).t(),
                               at::zeros({8}, at::kBFloat16), at::zeros({5})};
    alkn::detail::Shards shards(alkn::Processes{group});
    shards.add(params);
    require(shards.owns(0) != last && shards.owns(2) == last, "another owner");
    const auto ramp = [&](const Tensor& p, double end) {  // other values at every place
      return at::linspace(-1, end, p.numel(), at::kFloat).to(p.scalar_type());
    };
    std::vector<Tensor> gradients;
    for (const Tensor& p : params) {
      const Tensor values = ramp(p, last ? 2 : 1);
      gradients.push_back(p.dim() == 2 ? values.view({500, 600}).t() : values);
    }
    if (last) gradients[1] = Tensor();
    const std::vector<char> present{1, 1, 1, 1, 0};
    std::vector<Tensor> means;
    means.reserve(params.size());
    for (const Tensor& p : params) means.push_back(at::full({p.numel()}, 77, at::kFloat));
    shards.average(gradients, present, [&](std::size_t i, std::int64_t begin, const Tensor& mean) {
      means[i].narrow(0, begin, mean.numel()).copy_(mean);
    });
    for (std::size_t i = 0; i < params.size(); ++i) {
      Tensor expected = at::full({params[i].numel()}, 77, at::kFloat);
      if (shards.owns(i) && i != 4) {
        const auto of = [&](double end) {
          const Tensor t = ramp(params[i], end).to(at::kFloat);
          return params[i].dim() == 2 ? t.view({500, 600}).t().reshape({-1}) : t;
        };
        expected = i == 1 ? of(1).div(2) : of(1).add(of(2)).div(2);
      }
      require(same_bits(means[i], expected), "another mean");
    }
    const std::int64_t before = group->num_collectives;
    std::vector<std::int64_t> versions;
    for (const Tensor& p : params) {
      versions.push_back(p._version());
      if (shards.owns(static_cast<std::size_t>(versions.size() - 1))) p.add_(5);
    }
    shards.publish(params, {1, 1, 1, 1, 0});
    for (std::size_t i = 0; i < params.size(); ++i) {
      const bool sent = i != 4 || shards.owns(i);
      require(params[i].eq(sent ? 5 : 0).all().item<bool>(), "other weights");
      require(params[i]._version() > versions[i] || !sent, "autograd does not know");
    }
    require(kOwn == params[2].numel(), "another size");
    require(group->num_collectives - before == 4, "other broadcasts");
  });
}

TEST_CASE("the state of a parameter is on one process, after every kind of call") {
  const auto folder = std::filesystem::temp_directory_path() /
                      fmt::format("alkn-state-{}", static_cast<int>(::getpid()));
  const auto check = [&]<class Method, class Base>(const Method*, const Base& base,
                                                   const typename Method::Options& options) {
    std::filesystem::remove_all(folder);
    threads::run_all(2, [&](const Group& group) {
      Model model(at::kBFloat16);
      Method method(model.params, options, base, group);
      auto& core = tiny::core_of(method);
      const auto alone = [&](const char* after) {
        std::size_t own = 0;
        for (std::size_t i = 0; i < model.params.size(); ++i) {
          const auto& p = core.parameters()[i];
          if (core.shards().owns(i)) {
            ++own;
            continue;
          }
          for (const Tensor& t :
               {p.start, p.retain, p.score, p.mask, p.used, p.given, p.masked_grad})
            require(!t.defined(), after);
          const Tensor master = core.base().masters().find(p.param);
          require(!master.defined(), after);
          require(method.state().find(p.param.unsafeGetTensorImpl()) == method.state().end(),
                  after);
        }
        require(own > 0 && own < model.params.size(), "not a share");
        require(method.state().size() <= own, after);
      };
      alone("construction");
      tiny::set_gradients(model.params, 1);
      method.step();
      alone("a plain step");
      for (int t = 0; t < 2; ++t) {
        auto task = method.begin_task({.steps = 2});
        alone("begin_task");
        task.accumulate_retain_gradient(model["head"].square().sum());
        alone("accumulate_retain_gradient");
        tiny::set_gradients(model.params, 2);
        method.step();
        alone("a step");
        { const auto scope = task.start_weights(); }
        { const auto scope = task.weights_at(1); }
        alone("scopes");
        alkn::save_checkpoint(folder, method);
        alone("save_checkpoint");
        if (t == 0)
          task.end([] { return 1.0; }, 0, 2);
        else
          task.abandon();
        alone("the end");
      }
      ignore(alkn::load_checkpoint(folder, method));
      alone("load_checkpoint");
    });
    std::filesystem::remove_all(folder);
  };
  check(static_cast<const alkn::ALKN<>*>(nullptr), alkn::AdamWOptions(1e-2), {});
  check(static_cast<const alkn::ALKN<torch::optim::SGD>*>(nullptr),
        torch::optim::SGDOptions(0.1).momentum(0.9), {});
  using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Negate>;
  check(static_cast<const Masked*>(nullptr), alkn::AdamWOptions(1e-2), {});
}

TEST_CASE(
    "after a step the average is in the gradients of one's own, the others' are as they were") {
  threads::run_all(2, [](const Group& group) {
    Model model;
    alkn::TaskVector<> method(model.params, {}, alkn::AdamWOptions(), group);
    const auto task = method.begin_task({.steps = 1});
    std::vector<Tensor> mine;
    for (auto& p : model.params) {
      p.tensor.mutable_grad() = at::full(p.tensor.sizes(), 1.0 + group->rank());
      mine.push_back(p.tensor.grad());
    }
    method.step();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      const bool own = tiny::core_of(method).shards().owns(i);
      const Tensor& now = model.params[i].tensor.grad();
      require(now.is_same(mine[i]), "another tensor");
      require(now.eq(own ? 1.5 : 1.0 + group->rank()).all().item<bool>(), "another gradient");
    }
    tiny::core_of(method).abandon(true);
  });
}
