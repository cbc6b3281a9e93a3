// The loop over requests on several processes, here as threads: whose samples they are, and that
// the gradient is that of one process with the whole batch.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "continual/methods.hpp"
#include "continual/model.hpp"
#include "continual/run.hpp"
#include "continual/team.hpp"
#include "dist/thread_group.hpp"
#include "tiny_transformer.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using continual::Team;

/// Which sample is seen how often with a gradient; they differ in their first token.
class Recorder final : public continual::Transformer {
 public:
  using Transformer::Transformer;
  at::Tensor logits(const continual::Batch& batch) override {
    for (std::int64_t row = 0; at::GradMode::is_enabled() && row < batch.tokens.size(0); ++row)
      ++seen[batch.tokens[row][0].item<std::int64_t>()];
    return Transformer::logits(batch);
  }
  std::map<std::int64_t, std::int64_t> seen;
};

/// Of one to four tokens that count, and a first token of their own.
continual::Samples samples(std::int64_t count, std::int64_t first) {
  continual::Samples all;
  for (std::int64_t i = 0; i < count; ++i) {
    continual::Sample sample;
    sample.id = i;
    sample.tokens = {first + i};
    for (std::int64_t t = 0; t < 2 + (i * i) % 4; ++t)
      sample.tokens.push_back(4 + (first + 3 * i + 5 * t) % 13);
    sample.labels = sample.tokens;
    sample.labels[0] = continual::kNotCounted;
    all.push_back(sample);
  }
  return all;
}

constexpr std::int64_t kForget = 7, kShown = 5, kFirstForget = 4, kFirstShown = 11;

struct World {
  std::shared_ptr<Recorder> model;
  continual::EncodedData data;
  continual::Settings settings;
  continual::Strength strength{1e-3, 1, 1, 20, 8};
  continual::Rows rows;
  std::vector<at::Tensor> start;

  World() {
    model = tiny_transformer<Recorder>(24);
    data.requests = {{"first", samples(kForget, kFirstForget), samples(3, 17)}};
    data.shown = samples(kShown, kFirstShown);
    data.unseen = samples(3, 20);
    for (const at::Tensor& p : model->parameters()) start.push_back(p.detach().clone());
  }

  void unlearn(const std::string& method, const fs::path& folder) {
    continual::MetricsFile metrics(folder / "metrics.jsonl", false, settings.team.first());
    const continual::Run run{*model,   data,   settings,
                             strength, method, folder / "checkpoint",
                             metrics,  0,      [](std::int64_t, const continual::TaskRow&) {}};
    for (const continual::MethodEntry& entry : continual::methods())
      if (entry.name == method) rows = entry.unlearn(run);
  }
};

fs::path fresh_folder() {
  const fs::path path = fs::temp_directory_path() / fmt::format("test-team-{}", ::getpid());
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

/// A world for each process, which share the work; `set_up` says how.
template <class SetUp>
std::vector<World> unlearn(int processes, const std::string& method, const SetUp& set_up) {
  const fs::path folder = fresh_folder();
  std::vector<World> worlds(static_cast<std::size_t>(processes));
  for (World& world : worlds) set_up(world);
  threads::run_all(processes, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
    World& world = worlds[static_cast<std::size_t>(group->rank())];
    if (processes > 1) world.settings.team = Team(group);
    world.unlearn(method, folder);
  });
  const continual::MetricsFile metrics(folder / "metrics.jsonl", true);
  REQUIRE(worlds[0].rows);
  CHECK(std::ssize(metrics.lines()) == (*worlds[0].rows)[0].steps + 1);  // written by one alone
  fs::remove_all(folder);
  return worlds;
}

/// The distance between two models' weights, in units of the way they have come.
double distance(const World& a, const World& b) {
  double apart = 0, way = 0;
  const auto mine = a.model->parameters(), theirs = b.model->parameters();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    apart += mine[i].sub(theirs[i]).square().sum().item<double>();
    way += mine[i].sub(a.start[i]).square().sum().item<double>();
  }
  return std::sqrt(apart / way);
}

}  // namespace

TEST_CASE("a sample is seen once a pass by the process that has it, on any number of them") {
  const int processes = GENERATE(1, 2, 3, 9);  // nine: some have none
  const std::int64_t batch = GENERATE(1, 2, 4);
  INFO(processes << " processes, batches of " << batch);
  const auto worlds = unlearn(processes, "gradient-ascent+retain", [&](World& world) {
    world.strength.epochs = 3;
    world.strength.batch = batch;
  });
  const auto batches = [&](std::int64_t all) {
    const std::int64_t most = (all + processes - 1) / processes;
    return (most + batch - 1) / batch;
  };
  const std::int64_t steps = 3 * batches(kForget);
  std::map<std::int64_t, std::int64_t> seen;
  for (int rank = 0; rank < processes; ++rank) {
    const World& world = worlds[static_cast<std::size_t>(rank)];
    REQUIRE(world.rows);
    CHECK((*world.rows)[0].steps == steps);
    for (const auto& [token, times] : world.model->seen) {
      const bool forget = token < kFirstShown;
      CHECK((token - (forget ? kFirstForget : kFirstShown)) % processes == rank);
      CHECK(seen.emplace(token, times).second);
    }
    CHECK(distance(worlds[0], world) == 0);
  }
  for (std::int64_t i = 0; i < kForget; ++i) CHECK(seen[kFirstForget + i] == 3);
  // a step takes a batch of what is shown as well, which begins anew after its last
  const std::int64_t passes = steps / batches(kShown);
  for (std::int64_t i = 0; i < kShown; ++i) {
    CHECK(seen[kFirstShown + i] >= passes);
    CHECK(seen[kFirstShown + i] <= passes + 1);
  }
}

TEST_CASE("two and three processes take the steps of one with the whole batch") {
  const std::string method =
      GENERATE("alkn", "gradient-ascent+retain", "npo+retain", "task-vector");
  const std::int64_t micro_batch = GENERATE(0, 2);
  const auto set_up = [&](World& world) { world.settings.micro_batch = micro_batch; };
  const std::vector<World> one = unlearn(1, method, set_up);
  for (const int processes : {2, 3}) {
    const std::vector<World> all = unlearn(processes, method, [&](World& world) {
      world.strength.batch = (8 + processes - 1) / processes;
      world.settings.micro_batch = micro_batch;
    });
    INFO(method << " on " << processes << " processes, parts of " << micro_batch);
    CHECK((*all[0].rows)[0].steps == 20);
    CHECK(distance(one[0], all[0]) < 5e-5);  // 4e-6 to 2e-5
    const continual::Probabilities &a = (*one[0].rows)[0].probabilities,
                                   &b = (*all[0].rows)[0].probabilities;
    CHECK(std::abs(a.forgotten - b.forgotten) < 1e-4);
    CHECK(std::abs(a.rephrased - b.rephrased) < 1e-4);
    CHECK(std::abs(a.shown - b.shown) < 1e-4);
    CHECK(std::abs(a.unseen - b.unseen) < 1e-4);
  }
}

TEST_CASE("work that fails on some processes fails on all, and one says why") {
  std::vector<std::string> said(3);
  threads::run_all(3, [&](const std::shared_ptr<threads::ThreadGroup>& group) {
    const Team team(group);
    std::string& mine = said[static_cast<std::size_t>(team.rank())];
    try {
      team.together([&] {
        if (team.rank() > 0) throw std::runtime_error(fmt::format("of {}", team.rank()));
      });
    } catch (const continual::Elsewhere& error) {
      mine = error.what();
    } catch (const std::runtime_error& error) {
      mine = error.what();
    }
    team.once([&] { mine += team.first() ? "; once" : "; never"; });  // the group goes on
    mine += fmt::format("; {} {}", team.sum(0.1 * (1 + team.rank())), team.max(team.rank()));
    mine += team.any(team.rank() == 2) ? "; any" : "; none";
    mine += team.first_finds(team.rank() == 2) ? "; found" : "; not found";
  });
  const std::string elsewhere =
      "continual: expected all processes to go on, got an error on process 1";
  const std::string rest = fmt::format("; {} 2; any; not found", 0.1 + 0.1 * 2 + 0.1 * 3);
  CHECK(said ==
        std::vector<std::string>{elsewhere + "; once" + rest, "of 1" + rest, elsewhere + rest});

  const Team alone;
  CHECK_THROWS_WITH(alone.together([] { throw std::runtime_error("mine"); }), "mine");
  CHECK(alone.share(0) == 1);
  CHECK(alone.own(std::vector<int>{3, 1, 2}) == std::vector<int>{3, 1, 2});
}
