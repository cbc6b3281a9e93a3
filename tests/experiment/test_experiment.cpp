// The experiment: its data, its search, its attacks, and the program as a user runs it.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "experiment/nf4.hpp"
#include "experiment/search.hpp"
#include "experiment/world.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using experiment::AxisPoint;
using Json = nlohmann::json;

std::set<std::int64_t> authors_of(const experiment::QuestionSet& set) {
  return {set.authors.begin(), set.authors.end()};
}

fs::path shared_folder() {
  const char* folder = std::getenv("ALKN_SHARED_DIR");
  return folder != nullptr ? folder : ALKN_SHARED_DIR;
}

/// A folder that goes when the test does, or stays where ALKN_EXPERIMENT_KEEP says: for a look at
/// its report.
struct Folder {
  const char* kept = std::getenv("ALKN_EXPERIMENT_KEEP");
  fs::path path = kept != nullptr ? fs::path(kept)
                                  : fs::temp_directory_path() /
                                        ("experiment-e2e-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path / "out");
    fs::create_directories(path);
  }
  ~Folder() {
    if (kept == nullptr) {
      fs::remove_all(path);
    }
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
};

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Result {
  int status;
  std::string output;
};

Result run(const fs::path& folder, const std::string& arguments) {
  const fs::path log = folder / "log.txt";
  const std::string command = "'" ALKN_EXPERIMENT "' --quick --out '" + (folder / "out").string() +
                              "' " + arguments + " > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(log)};
}

/// An authors' world is what it says: nobody is in two groups.
void check_world(const experiment::World& world, const experiment::WorldSettings& s) {
  std::vector<std::set<std::int64_t>> groups;
  REQUIRE(world.tasks.size() == static_cast<std::size_t>(s.tasks));
  for (const auto& task : world.tasks) {
    groups.push_back(authors_of(task));
    CHECK(groups.back().size() == static_cast<std::size_t>(s.authors_per_task));
  }
  for (const auto* set : {&world.shown, &world.selection, &world.unseen, &world.held_out}) {
    groups.push_back(authors_of(*set));
  }
  CHECK(groups[groups.size() - 4].size() == static_cast<std::size_t>(s.shown));
  CHECK(groups[groups.size() - 2].size() == static_cast<std::size_t>(s.unseen));
  std::set<std::int64_t> all;
  std::size_t sum = 0;
  for (const auto& group : groups) {
    all.insert(group.begin(), group.end());
    sum += group.size();
  }
  CHECK(all.size() == sum);
  // The questions of those known to no model are in nothing that is learned.
  std::set<std::string> learned;
  for (const auto& request : world.learned.requests) {
    for (const auto& pair : request.forget) learned.insert(pair.question);
  }
  for (const auto* list : {&world.learned.shown, &world.learned.unseen}) {
    for (const auto& pair : *list) learned.insert(pair.question);
  }
  for (const auto& question : world.held_out.asked) CHECK(learned.count(question.question) == 0);
  for (const auto& question : world.selection.asked) CHECK(learned.count(question.question) == 1);
  for (const auto& question : world.unseen.asked) CHECK(learned.count(question.question) == 1);
  for (const auto* set : {&world.tasks.front(), &world.shown, &world.unseen}) {
    REQUIRE(set->wrong.size() == set->asked.size());
    REQUIRE(set->rephrased.size() == set->asked.size());
    for (std::size_t i = 0; i < set->asked.size(); ++i) {
      CHECK(set->rephrased[i].question != set->asked[i].question);
      CHECK(set->wrong[i].size() == 5);
      for (const auto& wrong : set->wrong[i]) CHECK(wrong != set->asked[i].answer);
    }
  }
}

}  // namespace

TEST_CASE("the generated world keeps its groups apart", "[experiment]") {
  const experiment::WorldSettings settings;
  const auto world = experiment::make_world(settings, 1);
  check_world(world, settings);
  CHECK(experiment::make_world(settings, 1).unseen.asked.front().question ==
        world.unseen.asked.front().question);
  CHECK(experiment::make_world(settings, 2).unseen.asked.front().question !=
        world.unseen.asked.front().question);
}

TEST_CASE("the world of TOFU keeps its groups apart", "[experiment]") {
  experiment::WorldSettings settings;
  settings.paths = {shared_folder() / "tofu"};
  if (!fs::exists(settings.paths[0] / "forget10.json")) {
    WARN("skipped: no TOFU in " << settings.paths[0].string() << " (set ALKN_SHARED_DIR)");
    return;
  }
  const auto world = experiment::make_world(settings, 1);
  check_world(world, settings);
  REQUIRE(world.real_authors.has_value());
  CHECK(world.real_authors->asked.size() == 100);
  CHECK(world.world_facts->asked.size() == 117);
  CHECK(world.shown.paraphrased.front().answer != world.shown.asked.front().answer);
  const auto order = [&](std::uint64_t seed) {
    std::vector<std::string> names;
    for (const auto& r : experiment::make_world(settings, seed).learned.requests) {
      names.push_back(r.name);
    }
    return names;
  };
  CHECK(order(1) == order(1));
  CHECK(order(1) != order(2));
}

TEST_CASE("few runs find three levels, from a start that is far off", "[experiment]") {
  const std::vector<double> levels{.5, .2, .05};
  for (const double start : {1e-4, 1e-3, 5e-3}) {
    // A logistic curve in the logarithm of the strength, as steep as those of the methods.
    const auto forgotten = [](double s) { return 1 / (1 + std::pow(s / 1e-3, 2.5)); };
    std::vector<AxisPoint> points{{start, forgotten(start)}};
    while (points.size() < 6) {
      const double next = experiment::next_strength(points, levels);
      for (const AxisPoint& point : points) CHECK(point.strength != next);
      points.push_back({next, forgotten(next)});
    }
    for (const double level : levels) {
      const auto& nearest = points[experiment::nearest_point(points, level)];
      CHECK(std::abs(experiment::log_odds(nearest.forgotten) - experiment::log_odds(level)) < .7);
    }
  }
  CHECK(experiment::next_strength({{2, .9}}, levels) == 5);
  CHECK(experiment::next_strength({{2, .01}}, {.5}) == Approx(.8));
  // Half of the way in log-odds is half of the way in the logarithm of the strength.
  CHECK(experiment::next_strength({{1, .9}, {4, .1}}, {.5}) == Approx(2));
}

TEST_CASE("NF4 takes every weight to the nearest of sixteen values", "[experiment]") {
  std::vector<float> grid;
  for (const float value : experiment::kNf4Values) grid.push_back(3 * value);
  auto same = grid;
  const auto codes = experiment::nf4_round_trip(same);
  for (std::size_t i = 0; i < grid.size(); ++i) {
    CHECK(codes[i] == i);
    CHECK(same[i] == grid[i]);
  }
  std::vector<float> weights(130);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::sin(static_cast<float>(i)) * (i < 64 ? 1.0F : 100.0F);
  }
  weights[128] = weights[129] = 0;  // a block without a scale
  const auto before = weights;
  experiment::nf4_round_trip(weights);
  for (std::size_t begin = 0; begin < weights.size(); begin += 64) {
    float scale = 0;
    const std::size_t end = std::min(begin + 64, weights.size());
    for (std::size_t i = begin; i < end; ++i) scale = std::max(scale, std::abs(before[i]));
    for (std::size_t i = begin; i < end; ++i) {
      float nearest = 1e9F;
      for (const float value : experiment::kNf4Values) {
        nearest = std::min(nearest, std::abs(value * scale - before[i]));
      }
      CHECK(std::abs(weights[i] - before[i]) == Approx(nearest).margin(1e-6));
    }
  }
}

TEST_CASE("a trial run, whole and resumed", "[experiment][end-to-end]") {
  const Folder folder;
  const fs::path out = folder.path / "out";
  const Result first = run(folder.path, "");
  INFO(first.output);
  REQUIRE(first.status == 0);
  const std::string text = text_of(out / "results.json");
  const Json results = Json::parse(text);
  CHECK(results["quick"] == true);
  REQUIRE(results["seeds"].size() == 1);
  const Json& seed = results["seeds"][0];
  const auto probability = [](const Json& model, const char* set) {
    return model["probability"][set].get<double>();
  };
  CHECK(probability(seed["base"], "forgotten") > .9);
  CHECK(probability(seed["gold"], "forgotten") < .2);
  CHECK(probability(seed["gold"], "unseen") > .9);
  const auto distance = [](const Json& model) {
    return model["metrics"]["forget_quality"]["distance"]["value"].get<double>();
  };
  CHECK(distance(seed["base"]) > .5);
  CHECK(distance(seed["gold"]) < .3);
  CHECK(seed["base"]["metrics"]["sets"]["forgotten"]["extraction_strength"]["value"] > .9);
  CHECK(seed["base"]["attacks"]["quantization"]["codes_changed"] == 0.0);
  CHECK(seed["base"]["attacks"]["membership"]["loss"]["auc"]["value"] > .9);
  REQUIRE(seed["runs"].size() == 12);
  std::size_t points = 0, matrices = 0;
  for (const Json& r : seed["runs"]) {
    points += r.contains("metrics") ? 1 : 0;
    matrices += r.contains("matrix") ? 1 : 0;
    if (r.contains("metrics")) {
      const double swept = probability(r, "forgotten");
      CHECK(r["metrics"]["sets"]["forgotten"]["probability"]["value"] ==
            Approx(swept).margin(1e-6));
    }
    if (r.contains("matrix")) {  // the run once more gave the same weights
      const Json& rows = r["matrix"][0]["tasks"];
      REQUIRE(rows.size() == 3);
      CHECK((rows[2][0].get<double>() + rows[2][1].get<double>()) / 2 ==
            Approx(probability(r, "forgotten")).margin(1e-6));
      CHECK(r["forget_quality_by_task"].size() == 2);
      CHECK(fs::exists(out / r["log"].get<std::string>()));
    }
  }
  CHECK(matrices == 4);
  CHECK(points >= 4);
  CHECK(seed["examples"].size() == 9);

  // What is finished stays; what is missing is done again, with the same numbers.
  fs::remove(out / "seed-1" / "runs" / "task-vector-1.json");
  const Result again = run(folder.path, "");
  INFO(again.output);
  REQUIRE(again.status == 0);
  CHECK(again.output.find("ALKN, conflict at") == std::string::npos);
  CHECK(again.output.find("task vector at") != std::string::npos);
  Json other = Json::parse(text_of(out / "results.json"));
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(other["seeds"][0]["runs"][i]["strength"] == seed["runs"][i]["strength"]);
    CHECK(other["seeds"][0]["runs"][i]["probability"] == seed["runs"][i]["probability"]);
  }
  const Result refused = run(folder.path, "--epochs 3");
  CHECK(refused.status == 1);
  CHECK(refused.output.find("continual: expected the configuration of the runs in this folder, "
                            "epochs 10, got 3") != std::string::npos);
}
