// The experiment on a checkpoint, run as a program: every method finishes, and what is killed goes
// on to the same results.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "examples/small_checkpoint.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path& scratch() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("smollm2-e2e-" + std::to_string(::getpid()));
    Folder() {
      fs::create_directories(path);
      write_small_checkpoint(path / "model");
    }
    ~Folder() { fs::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
  } kept;
  return kept.path;
}

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// Of a test that wants nothing else: too few passes for a target that is out of reach.
constexpr const char* kShort = "--most-epochs 3 --targets 0.001 ";

std::string command(const std::string& name, const std::string& more = kShort) {
  const std::string folder = (scratch() / name).string();
  return "exec '" ALKN_EXPERIMENT_SMOLLM2 "' --model '" + (scratch() / "model").string() +
         "' --out '" + folder + "/out' --results '" + folder +
         "/results' --tasks 2 --authors-per-task 1 --shown 1 --unseen 1 --pairs 4"
         " --teach-passes 3 --teach-lr 0.01 --asked 4 --told 4 --generated 2 --new-tokens 8"
         " --epochs 2 --batch 2 --threads 1 " +
         more + " > '" + folder + ".txt' 2>&1";
}

struct Result {
  int status = 0;
  std::string output;
};

Result run(const std::string& name, const std::string& more = kShort) {
  const int status = std::system(command(name, more).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(scratch() / (name + ".txt"))};
}

/// Starts the program and kills it once the file is there. Returns whether it ran until then.
bool kill_at(const std::string& name, const fs::path& file) {
  const std::string line = command(name);
  const ::pid_t child = ::fork();
  if (child == 0) {
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (fs::exists(file)) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return WIFSIGNALED(status);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

/// One result, without what another run measures otherwise.
Json result(const std::string& name, const std::string& model) {
  Json one = Json::parse(text_of(scratch() / name / "results" / (model + "-seed1-pairs4.json")));
  for (const char* key : {"peak_mib", "load"}) one.erase(key);
  if (one.contains("teaching")) one["teaching"].erase("seconds");
  for (const char* list : {"requests", "finals"}) {
    for (Json& entry : one[list]) {
      for (const char* key : {"seconds", "measuring_seconds"}) entry.erase(key);
    }
  }
  return one;
}

const std::vector<std::string> kNegating{"conflict-to0.001", "paper-to0.001", "task-vector-to0.001",
                                         "reference-to0.001"};
const std::vector<std::string> kOthers{"npo+retain-to0.001", "gradient-ascent+retain-to0.001"};

/// All results.
std::map<std::string, Json> results(const std::string& name) {
  std::map<std::string, Json> all;
  for (const auto& names : {kNegating, kOthers, {"taught", "gold", "original"}}) {
    for (const std::string& model : names) all[model] = result(name, model);
  }
  return all;
}

}  // namespace

TEST_CASE("every method leaves its results, and a killed run the same ones", "[smollm2]") {
  const Result whole = run("whole");
  INFO(whole.output);
  REQUIRE(whole.status == 0);
  const auto expected = results("whole");
  for (const auto& [model, one] : expected) {
    INFO(model << one.dump(1));
    REQUIRE(one["finals"].size() == 1);
    const Json& last = one["finals"][0];
    CHECK(last["requests"] == 2);
    for (const char* key : {"forgotten", "shown", "unseen", "truth_ratio"}) {
      CHECK(last[key].is_number());
    }
    CHECK(last["rouge"]["forgotten"].is_number());
    CHECK(last["relearned"]["probability"].size() == 2);
    CHECK(last["forget_quality"]["p"].is_number());
  }
  const Json taught = expected.at("taught")["finals"][0];
  CHECK(taught["shown"] > expected.at("original")["finals"][0]["shown"]);
  CHECK(expected.at("task-vector-to0.001")["finals"][0]["forgotten"] < taught["forgotten"]);
  CHECK(expected.at("gold")["finals"][0]["forget_quality"]["distance"] == 0);
  for (const std::string& name : kNegating) {
    const Json& requests = expected.at(name)["requests"];
    REQUIRE(requests.size() == 2);
    CHECK(requests[1]["lambda"].is_number());
    CHECK(requests[1]["steps"] == 4);  // two passes of two batches
    CHECK(expected.at(name)["sweep"].size() == 3);
  }
  for (const std::string& name : kOthers) {
    const Json& requests = expected.at(name)["requests"];
    REQUIRE(requests.size() == 2);
    CHECK(requests[1]["steps"] == 6);  // all that it may take
    CHECK(requests[1]["target_met"] == false);
  }

  // For one request first; then all, killed within one method and within another.
  const fs::path out = scratch() / "killed" / "out",
                 answered = out / "conflict-to0.001-seed1-pairs4";
  CHECK(run("killed", kShort + std::string("--requests 1 --arms conflict")).status == 0);
  for (const char* model : {"conflict-to0.001", "taught", "gold", "original"}) {
    CHECK(result("killed", model)["finals"].size() == 1);
    CHECK(result("killed", model)["finals"][0]["requests"] == 1);
  }
  const auto when = fs::last_write_time(answered / "request0.json");
  CHECK(kill_at("killed", out / "npo+retain-to0.001-seed1-pairs4" / "request0.json"));
  CHECK_FALSE(
      fs::exists(answered / "request1.json"));  // a request is answered by all, then another
  CHECK(kill_at("killed", out / "paper-to0.001-seed1-pairs4" / "request1.json"));
  for (const auto& names : {kNegating, kOthers}) {
    for (const std::string& name : names) CHECK_FALSE(result("killed", name)["requests"].empty());
  }
  const Result rest = run("killed");
  INFO(rest.output);
  CHECK(rest.status == 0);
  CHECK(rest.output.find("pass 1,") == std::string::npos);  // what was taught is kept
  CHECK(fs::last_write_time(answered / "request0.json") == when);
  auto killed = results("killed");
  for (auto& [model, one] : killed) {
    Json& finals = one["finals"];
    if (finals.size() == 2) finals.erase(0);  // after one request
  }
  CHECK(killed == expected);
}

TEST_CASE("a method without a strength trains until the target is met", "[smollm2]") {
  // The first is below what was taught, the second above it.
  const Result met =
      run("met", "--requests 1 --arms npo+retain --most-epochs 40 --targets 0.0095 0.02");
  INFO(met.output);
  REQUIRE(met.status == 0);
  const Json trained = result("met", "npo+retain-to0.0095")["requests"][0];
  INFO(trained.dump(1));
  CHECK(trained["target_met"] == true);
  CHECK(trained["request"] <= 0.0095);
  CHECK(trained["steps"] > 1);
  CHECK(trained["steps"] < 80);
  CHECK(result("met", "npo+retain-to0.02")["requests"][0]["steps"] == 1);
}

TEST_CASE("results of other settings are not mixed", "[smollm2]") {
  REQUIRE(run("mixed", kShort + std::string("--arms task-vector")).status == 0);
  const Result other = run("mixed", kShort + std::string("--arms task-vector --teach-until 0.5"));
  CHECK(other.status == 1);
  CHECK(other.output.find("pass 1,") == std::string::npos);
  CHECK(other.output.find("continual: expected results of the same settings, teach_until 0.8, or "
                          "another --results, got 0.5 (") != std::string::npos);
}
