// Checkpoints of several processes: a folder that is whole, read by any number.
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
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
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
  CHECK(load(3) == std::vector<std::string>(3, "no error"));
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

namespace {

/// A run whose gradients are those of every process, so that the mean of one, two or four of them
/// has the same bits. Sample `id` is on process id modulo size.
template <class Method, class Base>
struct Even {
  using Task = typename Method::TaskType;

  Even(const alkn::Processes& processes, at::ScalarType type, const Base& base)
      : rank(processes.group ? processes.group->rank() : 0),
        size(processes.group ? processes.group->size() : 1),
        model(type),
        method(model.params, typename Method::Options(), base, processes) {}

  void step(int moment) {
    set_gradients(model, 0, moment);
    method.step();
  }
  void to_the_middle() {
    step(9);
    for (int t = 0; t < 2; ++t) {
      task.emplace(method.begin_task({.steps = 3}));
      if (task->wants_memory()) remember();
      if (task->wants_retain_gradient())
        task->accumulate_retain_gradient(tiny::sum_of_squares(model.params));
      step(t);
      if (t == 0) task->end();
    }
  }
  /// Each process its own of twelve samples, of which it has the losses with the weights of now.
  void remember() {
    const at::NoGradGuard no_grad;
    for (std::int64_t i = 0; i < 4; ++i) {
      const Batch batch(i);  // ids 10 i, 10 i + 1, 10 i + 2
      for (std::int64_t row = 0; row < 3; ++row) {
        if ((10 * i + row) % size != rank) continue;
        const auto one = [&](const Tensor& t) { return t.narrow(0, row, 1); };
        task->remember(one(batch.ids), model.forward(one(batch.tokens)), one(batch.labels));
      }
    }
  }
  /// What is remembered here, in order; where a sample is elsewhere, so.
  [[nodiscard]] std::string memory() const {
    std::string text;
    const auto& entries = tiny::core_of(method).task().memory.entries();
    const std::map<std::int64_t, alkn::detail::SampleMemory::Entry> sorted(entries.begin(),
                                                                           entries.end());
    for (const auto& [id, entry] : sorted) {
      text += fmt::format("{}: {}", id, entry.num_tokens);
      for (std::int64_t i = 0; i < entry.values.numel(); ++i)
        text += fmt::format(" {:a}", entry.values.template const_data_ptr<float>()[i]);
      text += id % size == rank ? "\n" : " in another place\n";
    }
    return text;
  }
  std::vector<Tensor> finish() {
    step(5);
    std::vector<Tensor> seen = model.copies();
    if constexpr (Method::kNegates) {
      const auto scope = task->start_weights();
      const auto start = model.copies();
      seen.insert(seen.end(), start.begin(), start.end());
    }
    step(6);
    task->end();
    step(7);
    const auto last = model.copies();
    seen.insert(seen.end(), last.begin(), last.end());
    return seen;
  }

  int rank, size;
  Model model;
  Method method;
  std::optional<Task> task;
};

/// Runs `process` on `size` processes, or alone on 0. @returns what each has to say
template <class Process>
auto each_of(int size, alkn::Sharding sharding, const Process& process) {
  using Result = decltype(process(alkn::Processes()));
  std::vector<Result> all(static_cast<std::size_t>(size == 0 ? 1 : size));
  if (size == 0)
    all[0] = process(alkn::Processes());
  else
    threads::run_all(size, [&](const Group& group) {
      all[static_cast<std::size_t>(group->rank())] = process(alkn::Processes(group, sharding));
    });
  return all;
}

template <class Method, class Base>
void check_any_number(const Base& base, at::ScalarType type) {
  using alkn::Sharding;
  for (const int writers : {1, 2, 4}) {
    const Folder folder;
    const auto written = writers == 2 ? Sharding::none : Sharding::state;
    std::vector<std::string> memories(4);
    const auto undisturbed = each_of(writers, written, [&](const alkn::Processes& processes) {
      Even<Method, Base> run(processes, type, base);
      run.to_the_middle();
      alkn::save_checkpoint(folder.path, run.method);
      memories[static_cast<std::size_t>(run.rank)] = run.memory();
      return run.finish();
    });
    for (const int readers : {0, 1, 2, 4}) {
      for (const auto read : {Sharding::state, Sharding::none}) {
        INFO(writers << " processes, then " << readers);
        std::vector<std::string> now(4);
        const auto resumed = each_of(readers, read, [&](const alkn::Processes& processes) {
          Even<Method, Base> run(processes, type, base);
          run.step(3);  // weights and moments that are to go
          auto loaded = alkn::load_checkpoint(folder.path, run.method);
          if (!loaded) throw std::runtime_error("no task");
          run.task.emplace(std::move(*loaded));
          now[static_cast<std::size_t>(run.rank)] = run.memory();
          return run.finish();
        });
        for (const auto& seen : resumed) CHECK(same_bits(seen, undisturbed[0]));
        // the same lines in other places
        const auto lines = [](const std::vector<std::string>& texts) {
          std::multiset<std::string> all;
          std::istringstream stream(fmt::format("{}", fmt::join(texts, "")));
          for (std::string line; std::getline(stream, line);) all.insert(line);
          return all;
        };
        CHECK(lines(now) == lines(memories));
        CHECK(lines(now).size() == (Method::ObjectiveType::kRemembers ? 12 : 0));
      }
    }
  }
}

}  // namespace

TEST_CASE("a folder of N processes is read by any number of them, and by one without a group") {
  check_any_number<ALKN>(alkn::AdamWOptions(1e-2).compact_state(true), at::kFloat);
  check_any_number<ALKN>(alkn::AdamWOptions(1e-2), at::kBFloat16);
  check_any_number<alkn::NPO<>>(alkn::AdamWOptions(1e-2), at::kFloat);
  const auto sgd = torch::optim::SGDOptions(0.1).momentum(0.9);
  check_any_number<alkn::ALKN<torch::optim::SGD>>(sgd, at::kFloat);
  check_any_number<alkn::TaskVector<torch::optim::SGD>>(sgd, at::kBFloat16);
}

TEST_CASE("samples of one process's file are dealt by their ids") {
  const Folder folder;
  std::filesystem::create_directories(folder.path);
  const auto file = folder.path / "one.safetensors";
  using Process = Even<alkn::NPO<>, alkn::AdamWOptions>;
  std::string memory;
  {
    Process run({}, at::kFloat, alkn::AdamWOptions(1e-2));
    run.to_the_middle();
    alkn::save_checkpoint(file, run.method);
    memory = run.memory();
    run.task->end();
  }
  const auto parts = each_of(3, alkn::Sharding::state, [&](const alkn::Processes& processes) {
    Process run(processes, at::kFloat, alkn::AdamWOptions(1e-2));
    auto task = alkn::load_checkpoint(file, run.method);
    std::string text = run.memory();
    task->end();
    return text;
  });
  for (const std::string& part : parts) {
    CHECK(!part.empty());
    CHECK(part.find("another place") == std::string::npos);
    CHECK(part.size() < memory.size());
  }
  CHECK(parts[0].size() + parts[1].size() + parts[2].size() == memory.size());
}

TEST_CASE("a file of another save, an index of another kind, and two folders at once are refused") {
  const Folder folder;
  const auto one = folder.path / "one", two = folder.path / "two";
  const auto find = [](const std::filesystem::path& where, const std::string& start) {
    for (const auto& entry : std::filesystem::directory_iterator(where)) {
      if (entry.path().filename().string().starts_with(start)) return entry.path();
    }
    return std::filesystem::path();
  };
  const auto base = alkn::AdamWOptions(1e-2);
  threads::run_all(2, [&](const Group& group) {
    Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, base);
    run.to_the_middle();
    alkn::save_checkpoint(two, run.method);
    run.step(6);
    alkn::save_checkpoint(one, run.method);
    run.task->abandon();
  });
  /// @param second what process 1 loads
  const auto load = [&](int size, const std::filesystem::path& second) {
    return each_of(size, alkn::Sharding::state, [&](const alkn::Processes& processes) {
      Model model;
      ALKN method(model.params, {}, base, processes);
      const auto before = tiny::everything(method);
      const bool last = processes.group && processes.group->rank() == 1;
      std::string text =
          error_of([&] { ignore(alkn::load_checkpoint(last ? second : one, method)); });
      if (text != "no error" && !same_bits(tiny::everything(method), before)) text += " changed";
      return text;
    });
  };
  CHECK(load(2, one) == std::vector<std::string>(2, "no error"));
  CHECK(load(2, two) ==
        std::vector<std::string>(2,
                                 "alkn::load_checkpoint: expected one checkpoint for all "
                                 "processes, got others on process 0 and on process 1"));
  const auto shard = find(one, "shard-1-of-2-"), index = one / "index.json";
  std::filesystem::copy_file(find(two, "shard-1-of-2-"), shard,
                             std::filesystem::copy_options::overwrite_existing);
  const std::string other = "alkn::load_checkpoint: expected the file that belongs to " +
                            index.string() + ", got another (" + shard.string() + ")";
  const std::string told =
      "alkn::ALKN: expected load_checkpoint() to go on on every process, got an error on process "
      "1; nothing was changed";
  CHECK(load(2, one) == std::vector<std::string>{told, other});
  CHECK(load(0, one) == std::vector<std::string>{other});
  std::filesystem::remove(shard);
  CHECK(load(0, one)[0].find(shard.string()) != std::string::npos);

  const auto write = [&](const std::string& text) { std::ofstream(index) << text; };
  const std::string expected = "alkn::load_checkpoint: expected ", at = " (" + index.string() + ")";
  for (const char* text :
       {"[]", R"({"alkn.checkpoint": "shards", "processes": 2, "save": 1})",
        R"({"alkn.checkpoint": "shards", "processes": 1, "save": 1, "hashes": [1, 2]})",
        R"({"alkn.checkpoint": "shards", "processes": 2, "save": 1, "hashes": [1, -2]})",
        R"({"alkn.checkpoint": "shards", "processes": 0, "save": 1, "hashes": []})",
        R"({"alkn.checkpoint": "shards", "processes": 2, "save": "1", "hashes": [1, 2]})",
        R"({"alkn.checkpoint": "shard", "processes": 2, "save": 1, "hashes": [1, 2]})"}) {
    write(text);
    CHECK(load(0, one)[0] ==
          expected + "the index of a checkpoint of several processes, got another file" + at);
  }
  write("{");
  CHECK(load(0, one)[0] == expected + "complete JSON, got the end after 1 bytes" + at);
  std::filesystem::remove(index);
  CHECK(load(0, one)[0] == expected + "a readable file, got none" + at);
}

TEST_CASE(
    "what the disk has not kept is noticed before it takes the place of the last checkpoint") {
  const Folder folder;
  std::vector<std::string> texts(2);
  threads::run_all(2, [&](const Group& group) {
    Run<ALKN, alkn::AdamWOptions> run(group, at::kFloat, alkn::AdamWOptions(1e-2));
    run.to_the_middle();
    alkn::save_checkpoint(folder.path, run.method);
    const auto saved = run.model.copies();
    run.step(6);
    std::string& text = texts[static_cast<std::size_t>(run.rank)];
    text = error_of([&] {
      alkn::detail::save_shards(
          folder.path, tiny::core_of(run.method), [&](const std::filesystem::path& path) {
            alkn::detail::write_checkpoint(path, run.method, {});
            if (run.rank == 0) return;
            std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
            file.seekp(-9, std::ios::end);
            file.put('\x5a');
          });
    });
    run.task->abandon();
    run.load(folder.path);
    if (!same_bits(run.model.copies(), saved)) text += " other weights";
    run.task->abandon();
  });
  CHECK(texts[0] ==
        "alkn::ALKN: expected save_checkpoint() to go on on every process, got an error on process "
        "1; nothing was changed");
  CHECK(texts[1].starts_with("alkn::io::SafetensorsFile: expected data with checksum "));
  CHECK(texts[1].find("weights") == std::string::npos);
  CHECK(folder.names().size() == 3);
}

TEST_CASE("a base that cannot read its archive on one process changes nothing on any") {
  const Folder folder;
  const auto sgd = torch::optim::SGDOptions(0.1).momentum(0.9);
  using Method = alkn::ALKN<torch::optim::SGD>;
  std::vector<std::string> texts(2);
  threads::run_all(2, [&](const Group& group) {
    Run<Method, torch::optim::SGDOptions> run(group, at::kFloat, sgd);
    run.to_the_middle();
    alkn::save_checkpoint(folder.path, run.method);
    run.task->abandon();
  });
  // all that the checksums are of, but for what the base of process 1 has saved
  nlohmann::json index;
  std::ifstream(folder.path / "index.json") >> index;
  const auto path =
      folder.path / alkn::detail::shard_name(1, 2, index["save"].get<std::uint64_t>());
  const alkn::io::Metadata metadata = alkn::io::SafetensorsFile(path).metadata();
  alkn::io::NamedTensors arrays = alkn::io::load_tensors(path);
  for (auto& [name, array] : arrays) {
    if (name == "base/now") array.fill_(7);
  }
  alkn::io::save_tensors(path, arrays, {{"alkn.checkpoint", metadata.at("alkn.checkpoint")}});
  index["hashes"][1] = alkn::detail::file_hash(alkn::io::SafetensorsFile(path));
  std::ofstream(folder.path / "index.json") << index.dump();
  threads::run_all(2, [&](const Group& group) {
    Run<Method, torch::optim::SGDOptions> run(group, at::kFloat, sgd);
    run.step(7);
    const auto before = tiny::everything(run.method);
    std::string& text = texts[static_cast<std::size_t>(run.rank)];
    text = error_of([&] { run.load(folder.path); });
    if (!same_bits(tiny::everything(run.method), before)) text += " changed";
    run.step(7);  // and they can go on
  });
  CHECK(texts[0] ==
        "alkn::ALKN: expected load_checkpoint() to go on on every process, got an error on process "
        "1; nothing was changed");
  CHECK(texts[1] ==
        "alkn::load_checkpoint: expected what the base optimizer has saved, got an archive that it "
        "cannot load (\"base/now\")");
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
