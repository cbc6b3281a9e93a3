// The loop of docs/processes.md: a batch on two processes does what the whole does on one.
#include <alkn/alkn.hpp>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

#include "catch.hpp"
#include "dist/thread_group.hpp"
#include "method/tiny.hpp"

using tiny::Batch, tiny::Model;

namespace {

// [loop]
/// @param steps an epoch, the same on all processes: as many as the largest share has batches
template <class Method>
alkn::TaskReport unlearn(Model& model, Method& unlearner, alkn::Group& group,
                         const std::vector<Batch>& forget, const std::vector<Batch>& retain,
                         std::int64_t steps, std::int64_t epochs) {
  const auto tokens = [](const Batch& b) {
    return alkn::valid_tokens(b.labels).sum().item<double>();
  };
  auto task = unlearner.begin_task({.steps = epochs * steps});
  {
    const at::NoGradGuard no_grad;  // of this process's own samples, by itself
    for (const Batch& b : forget) task.remember(b.ids, model.forward(b.tokens), b.labels);
  }
  for (std::int64_t i = 0; i < steps; ++i) {
    const Batch* b = i < std::ssize(retain) ? &retain[static_cast<std::size_t>(i)] : nullptr;
    const double share = group.share(b ? tokens(*b) : 0);
    task.accumulate_retain_gradient(
        b ? alkn::mean_nll(model.forward(b->tokens), b->labels).mul(share) : at::Tensor());
  }
  for (std::int64_t i = 0; i < epochs * steps; ++i) {
    const auto k = static_cast<std::size_t>(i % steps);
    unlearner.zero_grad();
    const Batch* b = k < forget.size() ? &forget[k] : nullptr;
    const double share = group.share(b ? tokens(*b) : 0);
    if (b) task.loss(b->ids, model.forward(b->tokens), b->labels).mul(share).backward();
    unlearner.step();  // averages the gradients, without one on this process too
  }
  return task.end();
}
// [loop]

/// Rows of the batches, dealt to processes by their number.
std::vector<Batch> own(const std::vector<Batch>& all, int rank, int size) {
  std::vector<Batch> mine;
  for (const Batch& whole : all) {
    std::vector<std::int64_t> rows;
    for (std::int64_t i = rank; i < whole.ids.size(0); i += size) rows.push_back(i);
    if (rows.empty()) continue;
    const at::Tensor index = at::tensor(rows);
    Batch part = whole;
    part.ids = whole.ids.index_select(0, index);
    part.tokens = whole.tokens.index_select(0, index);
    part.labels = whole.labels.index_select(0, index);
    mine.push_back(part);
  }
  return mine;
}

}  // namespace

TEST_CASE("a batch dealt to processes moves the weights as the whole on one") {
  const std::vector<Batch> forget{Batch(1), Batch(2)}, retain{Batch(5), Batch(6)};
  const alkn::ALKNOptions options;
  const alkn::AdamWOptions base(1e-3);
  for (const int size : {2, 3, 4}) {  // of four, one process has no sample
    std::vector<std::vector<at::Tensor>> weights(static_cast<std::size_t>(size) + 1);
    threads::run_all(1, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
      Model model;
      alkn::ALKN<> method(model.params, options, base, group);
      unlearn(model, method, *group, forget, retain, 2, 3);
      weights.back() = model.copies();
    });
    threads::run_all(size, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
      const int rank = group->rank();
      Model model;
      alkn::ALKN<> method(model.params, options, base, group);
      unlearn(model, method, *group, own(forget, rank, size), own(retain, rank, size), 2, 3);
      weights[static_cast<std::size_t>(rank)] = model.copies();
    });
    const Model start;
    for (int rank = 0; rank < size; ++rank) {
      const auto& mine = weights[static_cast<std::size_t>(rank)];
      CHECK(tiny::same_bits(mine, weights[0]));
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const double moved = tiny::distance(weights.back()[i], start.params[i].tensor);
        CHECK(moved > 1e-4);
        CHECK(tiny::distance(mine[i], weights.back()[i]) < 1e-3 * moved);
      }
    }
  }
}
