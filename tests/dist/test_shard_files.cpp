// Checkpoints of several processes: a folder that is whole, read by as many.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/optim/sgd.h>

#include <unistd.h>
#include <algorithm>
#include <alkn/checkpoint/checkpoint.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "dist/thread_group.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using Group = std::shared_ptr<threads::ThreadGroup>;
using tiny::Batch, tiny::error_of, tiny::ignore, tiny::Model, tiny::same_bits;

namespace {

struct Folder {
  Folder()
      : path(std::filesystem::temp_directory_path() /
             fmt::format("alkn-shards-{}", static_cast<int>(::getpid()))) {
    std::filesystem::remove_all(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      all.insert(entry.path().filename().string());
    return all;
  }
  std::filesystem::path path;
};

void set_gradients(Model& model, int rank, int moment) {
  for (std::size_t i = 0; i < model.params.size(); ++i) {
    Tensor& param = model.params[i].tensor;
    param.mutable_grad() = tiny::wave(param.sizes(), moment + 3.0 * rank + static_cast<double>(i),
                                      0.1, param.scalar_type());
  }
}

/// One process of a run: a task that has ended, and a second one in its middle.
template <class Method, class Base>
struct Run {
  using Task = typename Method::TaskType;

  Run(const Group& group, at::ScalarType type, const Base& base)
      : rank(group ? group->rank() : 0),
        model(type),
        method(model.params, typename Method::Options(), base, group) {}

  void begin() {
    task.emplace(method.begin_task({.steps = 4}));
    const Batch batch(1 + rank);
    {
      const at::NoGradGuard no_grad;
      if (task->wants_memory())
        task->remember(batch.ids, model.forward(batch.tokens), batch.labels);
    }
    task->accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), batch.labels));
  }
  void load(const std::filesystem::path& path) {
    auto loaded = alkn::load_checkpoint(path, method);
    if (loaded) task.emplace(std::move(*loaded));
  }
  void step(int moment) {
    set_gradients(model, rank, moment);
    method.step();
  }
  void to_the_middle() {
    step(9);
    begin();
    step(1);
    step(2);
    task->end();
    begin();
    step(3);
  }
  /// The rest, with what the objective remembers of this process's samples.
  std::string finish() {
    const Batch batch(1 + rank);
    std::string loss = "none";
    if (task->wants_memory()) {
      const at::NoGradGuard no_grad;
      loss = fmt::format(
          "{:a}",
          task->loss(batch.ids, model.forward(batch.tokens), batch.labels).template item<double>());
    }
    step(4);
    const alkn::TaskReport report = task->end();
    step(5);
    std::string text =
        fmt::format("{} {} {:a} {:a}", loss, report.steps, report.fraction_trained, report.overlap);
    for (const auto& t : report.tensors)
      text += fmt::format(" {:a} {:a}", t.fraction_trained, t.threshold.value_or(-7));
    for (const Tensor& t : model.copies()) {
      const Tensor values = t.to(at::kFloat);
      for (std::int64_t i = 0; i < values.numel(); ++i)
        text += fmt::format(" {:a}", values.const_data_ptr<float>()[i]);
    }
    return text;
  }

  int rank;
  Model model;
  Method method;
  std::optional<Task> task;
};

template <class Method, class Base>
void check_resumed(const Base& base, at::ScalarType type) {
  for (const int size : {1, 2, 3}) {
    const Folder folder;
    std::vector<std::string> undisturbed(static_cast<std::size_t>(size)), resumed = undisturbed;
    threads::run_all(size, [&](const Group& group) {
      Run<Method, Base> run(group, type, base);
      run.to_the_middle();
      alkn::save_checkpoint(folder.path, run.method);
      undisturbed[static_cast<std::size_t>(run.rank)] = run.finish();
    });
    CHECK(folder.names().size() == static_cast<std::size_t>(size) + 1);
    threads::run_all(size, [&](const Group& group) {
      Run<Method, Base> run(group, type, base);
      run.step(7);  // weights and moments that are to go
      run.load(folder.path);
      REQUIRE(run.task.has_value());
      resumed[static_cast<std::size_t>(run.rank)] = run.finish();
    });
    CHECK(resumed == undisturbed);
  }
}

using ALKN = alkn::ALKN<>;

}  // namespace

TEST_CASE("a run of N processes goes on from its folder with the same bits") {
  check_resumed<ALKN>(alkn::AdamWOptions(1e-2), at::kFloat);
  check_resumed<ALKN>(alkn::AdamWOptions(1e-2).compact_state(true), at::kBFloat16);
  check_resumed<alkn::TaskVector<>>(alkn::AdamWOptions(1e-2), at::kBFloat16);
  check_resumed<alkn::ALKN<torch::optim::SGD>>(torch::optim::SGDOptions(0.1).momentum(0.9),
                                               at::kFloat);
  check_resumed<alkn::ALKN<torch::optim::SGD>>(torch::optim::SGDOptions(0.1).momentum(0.9),
                                               at::kBFloat16);
}

TEST_CASE("the file of one process is read by several, each its share") {
  const Folder folder;
  std::filesystem::create_directories(folder.path);
  const auto file = folder.path / "one.safetensors";
  const alkn::AdamWOptions base(1e-2);
  std::vector<Tensor> saved;
  {
    Run<ALKN, alkn::AdamWOptions> run(nullptr, at::kFloat, base);
    run.to_the_middle();
    alkn::save_checkpoint(file, run.method);
    saved = run.model.copies();
  }
  threads::run_all(2, [&](const Group& group) {
    Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, base);
    run.load(file);
    if (!same_bits(run.model.copies(), saved)) throw std::runtime_error("other weights");
    std::size_t states = 0;
    for (const auto& p : tiny::core_of(run.method).parameters()) {
      states += p.score.defined() ? 1 : 0;
      const bool moments =
          run.method.state().find(p.param.unsafeGetTensorImpl()) != run.method.state().end();
      if (moments != p.score.defined()) throw std::runtime_error("moments of another's parameter");
    }
    if (states == 0 || states == run.model.params.size())
      throw std::runtime_error("not a share of the state");
    run.step(4);
    run.task->end();
  });
}

TEST_CASE(
    "a save that fails on one process leaves the last checkpoint, and so does a damaged one") {
  const Folder folder;
  const alkn::AdamWOptions base(1e-2);
  std::vector<std::string> texts(2);
  std::vector<Tensor> right;
  threads::run_all(2, [&](const Group& group) {
    Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, base);
    run.to_the_middle();
    alkn::save_checkpoint(folder.path, run.method);
    if (run.rank == 0) right = run.model.copies();
    run.step(6);
    const alkn::io::NamedTensors bad{{"\xff", at::zeros({1})}};
    std::string& text = texts[static_cast<std::size_t>(run.rank)];
    text = error_of([&] {
      alkn::save_checkpoint(folder.path, run.method,
                            run.rank == 1 ? bad : alkn::io::NamedTensors{});
    });
    run.task->abandon();
  });
  CHECK(texts[0] ==
        "alkn::ALKN: expected save_checkpoint() to go on on every process, got an error on process "
        "1; nothing was changed");
  CHECK(texts[1].starts_with("alkn::save_checkpoint: expected names in UTF-8, got "));
  CHECK(folder.names().size() == 3);

  const auto load = [&](int size) {
    std::vector<std::string> said(static_cast<std::size_t>(size));
    threads::run_all(size, [&](const Group& group) {
      Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, base);
      const auto before = run.model.copies();
      std::string& text = said[static_cast<std::size_t>(run.rank)];
      text = error_of([&] { run.load(folder.path); });
      if (text != "no error" && !same_bits(run.model.copies(), before)) text += " changed";
      if (text == "no error" && !same_bits(run.model.copies(), right)) text += " other weights";
      if (run.task) run.task->abandon();
    });
    return said;
  };
  CHECK(load(2) == std::vector<std::string>{"no error", "no error"});
  for (const std::string& text : load(3)) {
    CHECK(text == "alkn::load_checkpoint: expected a checkpoint of 3 processes, got one of 2 (" +
                      (folder.path / "index.json").string() + ")");
  }
  {
    Run<ALKN, alkn::AdamWOptions> alone(nullptr, at::kFloat, base);
    CHECK(error_of([&] { ignore(alkn::load_checkpoint(folder.path, alone.method)); }) ==
          "alkn::load_checkpoint: expected a checkpoint of 1 process, got one of 2 (" +
              (folder.path / "index.json").string() + ")");
  }
  for (const std::string& name : folder.names()) {
    if (!name.starts_with("shard-1-")) continue;
    std::fstream file(folder.path / name, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-9, std::ios::end);
    file.put('\x5a');
  }
  const auto damaged = load(2);
  CHECK(damaged[0] ==
        "alkn::ALKN: expected load_checkpoint() to go on on every process, got an error on process "
        "1; nothing was changed");
  CHECK(damaged[1].find("shard-1-of-2") != std::string::npos);
  CHECK(damaged[1].find("changed") == std::string::npos);
}

TEST_CASE(
    "an index that cannot be written leaves the last checkpoint, and no file of the new one") {
  const Folder folder;
  const auto index = folder.path / "index.json", aside = folder.path / "aside.json";
  std::vector<std::string> texts(2);
  threads::run_all(2, [&](const Group& group) {
    Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, alkn::AdamWOptions(1e-2));
    run.to_the_middle();
    alkn::save_checkpoint(folder.path, run.method);
    const auto saved = run.model.copies();
    if (run.rank == 0) {
      std::filesystem::rename(index, aside);
      std::filesystem::create_directory(index);
    }
    run.step(6);
    std::string& text = texts[static_cast<std::size_t>(run.rank)];
    text = error_of([&] { alkn::save_checkpoint(folder.path, run.method); });
    run.task->abandon();
    ignore(group->share(1));  // all have removed what they wrote
    if (run.rank == 0) {
      std::filesystem::remove(index);
      std::filesystem::rename(aside, index);
    }
    ignore(group->share(1));
    run.load(folder.path);
    if (!same_bits(run.model.copies(), saved)) text = "other weights";
    run.task->abandon();
    alkn::save_checkpoint(folder.path, run.method);  // in its place: the files before it go
  });
  CHECK(texts[0].find("expected a regular file, or none, at") != std::string::npos);
  CHECK(texts[1] ==
        "alkn::ALKN: expected save_checkpoint() to go on on every process, got an error on process "
        "0; nothing was changed");
  CHECK(folder.names().size() == 3);
}
