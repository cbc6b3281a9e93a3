// A model's buffers on all processes.
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <torch/nn/module.h>

#include <alkn/dist/buffers.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "dist/thread_group.hpp"

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Process 1 has another mean and mask, process 2 another count and another table, a view.
struct Model : torch::nn::Module {
  explicit Model(int rank) {
    mean = register_buffer("mean", at::tensor({1.0F, kNaN, rank == 1 ? 7.0F : 3.0F}));
    count = register_buffer("count", at::full({}, rank == 2 ? 5 : 4, at::kLong));
    mask = register_buffer("mask", at::full({3}, rank == 1, at::kBool));
    const at::Tensor wide = at::full({3, 2}, 1.0, at::kDouble);
    if (rank == 2) wide[1][0] = 2.0;
    table = register_buffer("table", wide.t());
    register_buffer("empty", at::full({0}, 1.0F));
    register_buffer("none", at::Tensor());
  }
  at::Tensor mean, count, mask, table;
};

}  // namespace

TEST_CASE("buffers take the values of process 0, and those that were others are named") {
  std::vector<std::vector<std::string>> named(3);
  std::vector<std::shared_ptr<Model>> models;
  for (int rank = 0; rank < 3; ++rank) models.push_back(std::make_shared<Model>(rank));
  threads::run_all(3, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
    const auto i = static_cast<std::size_t>(group->rank());
    named[i] = alkn::dist::broadcast(models[i]->named_buffers(), group);
  });
  const Model first(0);
  for (int rank = 0; rank < 3; ++rank) {
    const auto i = static_cast<std::size_t>(rank);
    CHECK(named[i] == std::vector<std::string>{"mean", "count", "mask", "table"});
    const Model& model = *models[i];
    CHECK(model.mean[0].item<float>() == 1);
    CHECK(model.mean[1].isnan().item<bool>());  // the same bits everywhere: no other one
    CHECK(model.mean[2].item<float>() == 3);
    CHECK(model.count.item<std::int64_t>() == 4);
    CHECK(model.mask.equal(first.mask));
    CHECK(model.table.equal(first.table));
  }
  const std::vector<std::string> nothing;
  CHECK(alkn::dist::broadcast(Model(2).named_buffers(), nullptr) == nothing);
}

TEST_CASE("buffers of other shapes are an error everywhere, and nothing is changed") {
  std::vector<at::Tensor> buffers;
  for (const int size : {2, 2, 3})
    buffers.push_back(at::full({size}, std::ssize(buffers), at::kFloat));
  const auto errors = threads::run(3, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
    const std::vector<std::pair<std::string, at::Tensor>> mine{
        {"mean", buffers[static_cast<std::size_t>(group->rank())]}};
    static_cast<void>(alkn::dist::broadcast(mine, group));
  });
  for (const std::exception_ptr& error : errors) {
    REQUIRE(error);
    try {
      std::rethrow_exception(error);
    } catch (const c10::Error& e) {
      CHECK(std::string(e.what_without_backtrace()) ==
            "alkn::dist::broadcast: expected the same parameters and options on every process, got "
            "buffer \"mean\" Float [2] on process 0 and buffer \"mean\" Float [3] on process 2 "
            "(broadcast())");
    }
  }
  for (std::size_t i = 0; i < buffers.size(); ++i)
    CHECK(buffers[i][0].item<float>() == static_cast<float>(i));
}
