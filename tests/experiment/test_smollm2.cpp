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

std::string command(const std::string& name, const std::string& more = "") {
  const std::string folder = (scratch() / name).string();
  return "exec '" ALKN_EXPERIMENT_SMOLLM2 "' --model '" + (scratch() / "model").string() +
         "' --out '" + folder + "/out' --results '" + folder +
         "/results' --tasks 2 --authors-per-task 1 --shown 1 --unseen 1 --pairs 4"
         " --teach-passes 3 --teach-lr 0.01 --asked 4 --told 4 --generated 2 --new-tokens 8"
         " --epochs 2 --batch 2 --targets 0.001 --threads 1 " +
         more + " > '" + folder + ".txt' 2>&1";
}

struct Result {
  int status = 0;
  std::string output;
};

Result run(const std::string& name, const std::string& more = "") {
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

/// All results by file, without what another run measures otherwise.
std::map<std::string, Json> results(const std::string& name) {
  std::map<std::string, Json> all;
  for (const auto& item : fs::directory_iterator(scratch() / name / "results")) {
    Json one = Json::parse(text_of(item.path()));
    for (const char* key : {"seconds", "measuring_seconds", "peak_mib", "load"}) one.erase(key);
    if (one.contains("teaching")) one["teaching"].erase("seconds");
    for (Json& request : one["requests"]) request.erase("seconds");
    all[item.path().filename().string()] = std::move(one);
  }
  return all;
}

}  // namespace

TEST_CASE("every method leaves its results, and a killed run the same ones", "[smollm2]") {
  const Result whole = run("whole");
  INFO(whole.output);
  REQUIRE(whole.status == 0);
  const auto expected = results("whole");
  CHECK(expected.size() == 9);  // six methods, and the model taught, never taught, and gold
  for (const auto& [file, one] : expected) {
    INFO(file << one.dump(1));
    const Json& last = one["final"];
    for (const char* key : {"forgotten", "shown", "unseen", "truth_ratio"}) {
      CHECK(last[key].is_number());
    }
    CHECK(last["rouge"]["forgotten"].is_number());
    CHECK(last["relearned"]["probability"].size() == 2);
    CHECK(last["forget_quality"]["p"].is_number());
    if (!one.contains("teaching") && one["name"] != "original") {
      REQUIRE(one["requests"].size() == 2);
      CHECK(one["requests"][1]["request"].is_number());
      CHECK(one.contains("sweep") == one["requests"][0].contains("lambda"));
    }
  }
  const Json taught = expected.at("taught-seed1-pairs4.json");
  const Json original = expected.at("original-seed1-pairs4.json");
  CHECK(taught["final"]["shown"] > original["final"]["shown"]);
  const Json vector = expected.at("task-vector-to0.001-seed1-pairs4.json");
  CHECK(vector["final"]["forgotten"] < taught["final"]["forgotten"]);
  CHECK(expected.at("gold-seed1-pairs4.json")["final"]["forget_quality"]["distance"] == 0);

  // Taught again, killed within the first method, and within a later one.
  const fs::path out = scratch() / "killed" / "out";
  CHECK(run("killed", "--requests 1 --arms conflict").status == 0);
  const fs::path first = scratch() / "killed/results/conflict-to0.001-seed1-pairs4.json";
  CHECK(Json::parse(text_of(first))["requests"].size() == 1);
  CHECK_FALSE(Json::parse(text_of(first)).contains("final"));
  const fs::path answered = out / "conflict-to0.001-seed1-pairs4" / "request0.json";
  const auto when = fs::last_write_time(answered);
  CHECK(kill_at("killed", out / "npo+retain-to0.001-seed1-pairs4" / "request0.json"));
  CHECK(kill_at("killed", out / "task-vector-to0.001-seed1-pairs4" / "sweep.json"));
  const Result rest = run("killed");
  INFO(rest.output);
  CHECK(rest.status == 0);
  CHECK(rest.output.find("pass 1,") == std::string::npos);  // what was taught is kept
  CHECK(fs::last_write_time(answered) == when);
  CHECK(results("killed") == expected);
}

TEST_CASE("results of other settings are not mixed", "[smollm2]") {
  REQUIRE(run("mixed", "--arms task-vector").status == 0);
  const Result other = run("mixed", "--arms task-vector --teach-until 0.5");
  CHECK(other.status == 1);
  CHECK(other.output.find("pass 1,") == std::string::npos);
  CHECK(other.output.find("continual: expected results of the same settings, teach_until 0.8, or "
                          "another --results, got 0.5 (") != std::string::npos);
}
