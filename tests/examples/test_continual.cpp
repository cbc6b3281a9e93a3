// The trainer as a user runs it: what it reaches, what it refuses, what an interruption costs.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const fs::path& folder() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("continual-e2e-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
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

struct Result {
  int status = 0;
  std::string output;  ///< of both streams
};

Result run(const std::string& arguments, const std::string& before = "") {
  const fs::path log = folder() / "log.txt";
  const std::string command =
      before + "'" ALKN_CONTINUAL "' " + arguments + " > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(log)};
}

std::vector<Json> lines_of(const fs::path& path) {
  std::ifstream stream(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
  }
  return lines;
}

/// Ctrl-C once `metrics` has so many lines. Returns the exit status.
int interrupt(const std::string& arguments, const fs::path& metrics, std::size_t lines) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string command = "exec '" ALKN_CONTINUAL "' " + arguments + " > '" +
                                (folder() / "log.txt").string() + "' 2>&1";
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  while (lines_of(metrics).size() < lines && ::waitpid(child, &status, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  REQUIRE(::kill(child, SIGINT) == 0);
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

constexpr std::int64_t kTasks = 3;
constexpr std::int64_t kBatchesPerTask = 3;  // two authors of 20 questions, in batches of 16

/// A small world: three requests of two authors each, 30 authors kept.
std::string small(const std::string& out, const std::string& more) {
  return "--tasks 3 --authors-per-task 2 --retain-authors 30 --train-epochs 30 --train-lr 3e-3 "
         "--threads 2 "
         "--cache '" +
         (folder() / "cache").string() + "' --out '" + (folder() / out).string() + "' " + more;
}

Json json_of(const fs::path& path) { return Json::parse(text_of(path)); }

double share_left(const Json& summary, const char* key) {
  return summary["after"][key].get<double>() / summary["before"][key].get<double>();
}

}  // namespace

TEST_CASE("ALKN halves what is to be forgotten and keeps what it was shown", "[end-to-end]") {
  // Fewer facts than in the demo, so less strength: in the middle between too little and too much.
  const Result alkn = run(small("alkn", "--method alkn --lambda 2.65"));
  INFO(alkn.output);
  REQUIRE(alkn.status == 0);
  const Json summary = json_of(folder() / "alkn" / "summary.json");
  CHECK(summary["before"]["forgotten"].get<double>() > 0.9);
  CHECK(share_left(summary, "forgotten") <= 0.5);
  CHECK(share_left(summary, "shown") >= 0.95);

  std::istringstream lines(alkn.output);
  for (std::string line; std::getline(lines, line);) {
    CHECK(line.size() <= 100);
  }
  for (const char* file :
       {"config.json", "metrics.jsonl", "model.safetensors", "tokenizer.model"}) {
    CHECK(fs::exists(folder() / "alkn" / file));
  }
  std::int64_t steps = 0, tasks = 0;
  for (const Json& line : lines_of(folder() / "alkn" / "metrics.jsonl")) {
    steps += line["kind"] == "step" ? 1 : 0;
    tasks += line["kind"] == "task" ? 1 : 0;
  }
  CHECK(tasks == kTasks);
  CHECK(steps == kTasks * kBatchesPerTask *
                     json_of(folder() / "alkn" / "config.json")["epochs"].get<std::int64_t>());
}

TEST_CASE("gradient ascent without a retain term does not keep it", "[end-to-end]") {
  const Result ascent = run(small("ascent", "--method gradient-ascent"));
  INFO(ascent.output);
  REQUIRE(ascent.status == 0);
  CHECK(ascent.output.find("trained before") != std::string::npos);  // by the first test
  const Json summary = json_of(folder() / "ascent" / "summary.json");
  CHECK_FALSE((share_left(summary, "forgotten") <= 0.5 && share_left(summary, "shown") >= 0.95));
}

TEST_CASE("the same seed gives the same bits, also across an interruption", "[end-to-end]") {
  const std::string method = "--method alkn";
  REQUIRE(run(small("whole", method)).status == 0);

  const auto steps =
      json_of(folder() / "whole" / "config.json")["epochs"].get<std::size_t>() * kBatchesPerTask;
  const fs::path metrics = folder() / "cut" / "metrics.jsonl";
  // Ctrl-C once some steps of the second request are on the disk.
  const int status = interrupt(small("cut", method), metrics, steps + 3);
  INFO(text_of(folder() / "log.txt"));
  CHECK(status == 130);
  CHECK(fs::exists(folder() / "cut" / "checkpoint.safetensors"));
  CHECK_FALSE(fs::exists(folder() / "cut" / "model.safetensors"));

  const Result other = run(small("cut", method + " --resume --epochs 9"));
  CHECK(other.status == 1);
  CHECK(other.output.find("continual: expected --resume with the settings of the interrupted run, "
                          "epochs ") != std::string::npos);
  const Result resumed = run(small("cut", method + " --resume"));
  INFO(resumed.output);
  REQUIRE(resumed.status == 0);
  CHECK((text_of(folder() / "cut" / "model.safetensors") ==
         text_of(folder() / "whole" / "model.safetensors")));
  CHECK_FALSE(fs::exists(folder() / "cut" / "checkpoint.safetensors"));
  const auto whole = lines_of(folder() / "whole" / "metrics.jsonl");
  const auto cut = lines_of(metrics);
  REQUIRE(whole.size() == cut.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(whole[i].value("loss", Json()) == cut[i].value("loss", Json()));
    CHECK(whole[i].value("forgotten", Json()) == cut[i].value("forgotten", Json()));
  }
}

TEST_CASE("an interrupted training of the model goes on as well", "[end-to-end]") {
  const auto tiny = [](const std::string& out, const std::string& more) {
    return "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 30 --threads 1 "
           "--method gradient-ascent --out '" +
           (folder() / out).string() + "' " + more;
  };
  REQUIRE(run(tiny("tiny-whole", "")).status == 0);
  const Result cut = run(tiny("tiny-cut", ""), "timeout -s INT 1.5 ");
  const Result resumed = run(tiny("tiny-cut", "--resume"));
  INFO(cut.output << resumed.output);
  CHECK((cut.status == 130 || cut.status == 124));
  REQUIRE(resumed.status == 0);
  CHECK((text_of(folder() / "tiny-cut" / "model.safetensors") ==
         text_of(folder() / "tiny-whole" / "model.safetensors")));
}

TEST_CASE("an interrupted comparison keeps the methods that had finished", "[end-to-end]") {
  const std::string arguments =
      "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 5 --epochs 40 --threads 1 "
      "--out '" +
      (folder() / "all").string() + "' --checkpoint '" + (folder() / "all.checkpoint").string() +
      "'";
  const int status = interrupt(arguments, folder() / "all" / "npo" / "metrics.jsonl", 3);
  INFO(text_of(folder() / "log.txt"));
  CHECK(status == 130);
  CHECK(fs::exists(folder() / "all.checkpoint"));
  const std::string finished = text_of(folder() / "all" / "alkn" / "summary.json");
  CHECK_FALSE(fs::exists(folder() / "all" / "npo" / "summary.json"));
  const Result resumed = run(arguments + " --resume");
  INFO(resumed.output);
  REQUIRE(resumed.status == 0);
  CHECK(text_of(folder() / "all" / "alkn" / "summary.json") == finished);  // the time as well
  CHECK(json_of(folder() / "all" / "summary.json").size() == 6);
}

TEST_CASE("bad input is refused in one line", "[cli]") {
  const auto error_of = [](const std::string& arguments, const std::string& before = "") {
    const Result result = run(arguments, before);
    CHECK(result.status == 1);
    return result.output;
  };
  const std::string out = "--out '" + (folder() / "bad").string() + "' ";
  CHECK(error_of(out + "--data /none/here") ==
        "continual: expected an existing file or folder, got none (/none/here)\n");
  const fs::path empty = folder() / "empty";
  fs::create_directories(empty);
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected forget10.json and retain90.json (TOFU) or forget_1 and retain (MUSE "
        "News), got neither (" +
            empty.string() + ")\n");
  std::ofstream(empty / "forget10.json") << "{\"question\": \"q\", \"answer\": \"a\"}\n{\"quest";
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected a JSON object, got \"{\"quest\" (" +
            (empty / "forget10.json").string() + ", line 2)\n");
  std::ofstream(empty / "forget10.json") << "{\"question\": \"q\", \"answer\": \"a\"}\n";
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected at least 20 authors of 20 lines, got 0 (" +
            (empty / "forget10.json").string() + ")\n");
  CHECK(error_of("--out '" + (empty / "forget10.json" / "out").string() + "'") ==
        "continual: expected a folder that can be made, got Not a directory (" +
            (empty / "forget10.json" / "out").string() + ")\n");
  const Result method = run("--method magic");
  CHECK(method.status != 0);
  CHECK(method.output.find("--method: magic not in {all,alkn,") != std::string::npos);
  CHECK(run("--epochs 0").output.find("--epochs: Value 0 not in range") != std::string::npos);
}

TEST_CASE("a full disk is an error, and leaves no half-written file", "[cli]") {
  // A limit on the size of files, whose signal is ignored, stands for the full disk.
  const Result result =
      run(small("full", "--method gradient-ascent"), "trap '' XFSZ; ulimit -f 200; ");
  INFO(result.output);
  CHECK(result.status == 1);
  CHECK(result.output.find("alkn::io::AtomicFile: expected to write") != std::string::npos);
  CHECK(result.output.find("File too large") != std::string::npos);
  for (const auto& entry : fs::directory_iterator(folder() / "full")) {
    CHECK(entry.path().string().find(".tmp-") == std::string::npos);
    CHECK(entry.path().extension() != ".safetensors");
  }
}
