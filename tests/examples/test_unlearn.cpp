// The loop over requests with what an experiment looks into: where a target stops it, what a sweep
// sees, and that an interruption changes neither.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "continual/interrupt.hpp"
#include "continual/methods.hpp"
#include "continual/model.hpp"
#include "continual/run.hpp"
#include "tiny_transformer.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("test-unlearn-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
};

/// Four tokens each, the last two of which count.
continual::Samples samples(std::int64_t count, std::int64_t seed) {
  continual::Samples all;
  for (std::int64_t i = 0; i < count; ++i) {
    continual::Sample sample;
    sample.id = i;
    for (std::int64_t t = 0; t < 4; ++t) sample.tokens.push_back(4 + (seed + 3 * i + 5 * t) % 13);
    sample.labels = sample.tokens;
    sample.labels[0] = sample.labels[1] = continual::kNotCounted;
    all.push_back(sample);
  }
  return all;
}

/// A target that so many steps of a request meet, as the judge counts them.
struct Steps {
  std::int64_t taken = 0, needed = 6;
  std::int64_t interrupt_after = 0;
  std::vector<std::int64_t> judged{};

  void set_up(continual::Run& run, bool each_step) {
    run.target = continual::Target{0.5};
    run.target->each_step = each_step;
    run.target->judge = [this](std::int64_t task) {
      judged.push_back(task);
      return needed == 0 || taken % needed == 0 ? 0.25 : 0.75;
    };
    run.before_step = [this] {
      if (++taken == interrupt_after) continual::detail::interrupt_flag = 1;
    };
  }
};

/// Two requests of eight samples, in batches of two: four steps a pass.
struct World {
  std::shared_ptr<continual::Transformer> model;
  continual::EncodedData data;
  continual::Settings settings;
  continual::Strength strength{1e-3, 1, 1, 5, 2};

  World() {
    model = tiny_transformer(20);
    data.requests = {{"first", samples(8, 1), {}}, {"second", samples(8, 2), {}}};
    data.shown = samples(4, 7);
    data.unseen = samples(4, 9);
    settings.resume = true;
  }

  /// What a method does; `set_up` may set the run's hooks.
  template <class SetUp>
  continual::Rows unlearn(const std::string& method, const fs::path& folder, SetUp&& set_up) {
    fs::create_directories(folder);
    continual::MetricsFile metrics(folder / "metrics.jsonl", true);
    continual::Run run{*model,   data,   settings,
                       strength, method, folder / "checkpoint.safetensors",
                       metrics,  0,      [](std::int64_t, const continual::TaskRow&) {}};
    set_up(run);
    for (const continual::MethodEntry& entry : continual::methods()) {
      if (entry.name == method) return entry.unlearn(run);
    }
    return std::nullopt;
  }
  /// The same until the target of the steps.
  continual::Rows unlearn_until(Steps& steps, const std::string& method, const fs::path& folder,
                                bool each_step) {
    return unlearn(method, folder, [&](continual::Run& run) { steps.set_up(run, each_step); });
  }

  [[nodiscard]] bool has_weights_of(const World& other) const {
    const auto mine = model->parameters(), theirs = other.model->parameters();
    for (std::size_t i = 0; i < mine.size(); ++i) {
      if (!mine[i].equal(theirs[i])) return false;
    }
    return true;
  }
};

}  // namespace

TEST_CASE("a method without a strength stops at the target, if need be after one step",
          "[unlearn]") {
  const Folder folder;
  World each, passes, never, nothing;
  Steps steps, whole, all, none;
  const auto rows = each.unlearn_until(steps, "npo+retain", folder.path / "each", true);
  REQUIRE(rows);
  CHECK((*rows)[0].steps == 6);
  CHECK((*rows)[1].steps == 6);  // of its own
  CHECK((*rows)[0].target_met == true);
  // After each of the six steps, and once at the end.
  CHECK(steps.judged == std::vector<std::int64_t>{0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1});

  whole.needed = 8;
  const auto after = passes.unlearn_until(whole, "npo+retain", folder.path / "passes", false);
  REQUIRE(after);
  CHECK((*after)[0].steps == 8);
  CHECK(whole.judged == std::vector<std::int64_t>{0, 0, 0, 1, 1, 1});

  all.needed = 1000;
  const auto missed = never.unlearn_until(all, "gradient-ascent", folder.path / "never", false);
  REQUIRE(missed);
  CHECK((*missed)[0].steps == 20);
  CHECK((*missed)[0].target_met == false);

  none.needed = 0;  // forgotten by what was unlearned before
  const auto spared = nothing.unlearn_until(none, "npo+retain", folder.path / "nothing", true);
  REQUIRE(spared);
  CHECK((*spared)[0].steps == 1);
  CHECK((*spared)[1].steps == 1);
}

TEST_CASE("an interruption at the step that meets the target takes no other", "[unlearn]") {
  const Folder folder;
  World whole, cut;
  Steps steps, stopped;
  REQUIRE(whole.unlearn_until(steps, "npo+retain", folder.path / "whole", true));
  stopped.interrupt_after = 6;
  const auto go = [&] {
    return cut.unlearn_until(stopped, "npo+retain", folder.path / "cut", true);
  };
  CHECK_FALSE(go());
  continual::detail::interrupt_flag = 0;
  const auto rows = go();
  REQUIRE(rows);
  CHECK((*rows)[0].steps == 6);
  CHECK(cut.has_weights_of(whole));
}

TEST_CASE("methods that negate sweep with the run's own eyes", "[unlearn]") {
  const Folder folder;
  World plain, looked;
  REQUIRE(plain.unlearn("task-vector", folder.path / "plain", [](continual::Run&) {}));
  std::vector<std::int64_t> seen;
  const auto sweep =
      looked.unlearn("task-vector", folder.path / "looked", [&](continual::Run& run) {
        run.sweep = {0.5, 2};
        run.look = [&](std::int64_t task) {
          seen.push_back(task);
          continual::Probabilities found;
          found.forgotten = 0.125 * static_cast<double>(seen.size());
          return found;
        };
      });
  REQUIRE(sweep);
  CHECK(seen == std::vector<std::int64_t>{0, 0, 1, 1});
  REQUIRE((*sweep)[1].sweep.size() == 2);
  CHECK((*sweep)[1].sweep[1].lambda == 2);
  CHECK((*sweep)[1].sweep[1].probabilities.forgotten == 0.5);
  CHECK_FALSE((*sweep)[1].target_met);
  CHECK(looked.has_weights_of(plain));  // a look changes nothing
}

TEST_CASE("a target takes the smallest strength within the given ones, by the run's own judge",
          "[unlearn]") {
  const Folder folder;
  World aimed, met;
  std::vector<double> probabilities;  // of the strengths, in the order in which they are tried
  continual::TaskRow first;
  const auto aim = [&](World& world, const std::string& name) {
    std::size_t asked = 0;
    const auto rows = world.unlearn("task-vector", folder.path / name, [&](continual::Run& run) {
      run.until = 1;
      run.target = continual::Target{0.5};
      run.target->max_lambda = 3;
      run.target->iterations = 4;
      run.target->judge = [&](std::int64_t task) {
        CHECK(task == 0);
        REQUIRE(asked < probabilities.size());
        return probabilities[asked++];
      };
      run.on_row = [&](std::int64_t, const continual::TaskRow& row) { first = row; };
    });
    CHECK_FALSE(rows);  // a request is left, and its checkpoint
    CHECK(fs::exists(folder.path / name / "checkpoint.safetensors"));
    CHECK(asked == probabilities.size());
    CHECK(first.steps == 20);
  };
  const at::Tensor start = aimed.model->parameters()[0].detach().clone();
  probabilities = {1, 1, 1, 1, 1};  // the largest strength is not enough
  aim(aimed, "aimed");
  CHECK(first.lambda == 3);
  CHECK(first.target_met == false);
  CHECK_FALSE(aimed.model->parameters()[0].equal(start));

  probabilities = {1, 1, 0, 0};  // 0.1875, 0.375, 0.75, 0.5625
  aim(met, "met");
  CHECK(first.lambda == 0.5625);
  CHECK(first.target_met == true);
  CHECK_FALSE(first.lambda_reduced);  // below the method's own, as was asked for: no guard took it
}
