// The trainer on several processes, as a user starts them: by itself, by torchrun, by mpirun.
#include <signal.h>
#include <sys/wait.h>

#include <alkn/io/model_folder.hpp>
#include <alkn/io/safetensors.hpp>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "small_checkpoint.hpp"
#include "trainer.hpp"

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using trainer::folder, trainer::Json, trainer::lines_of, trainer::Result, trainer::run,
    trainer::text_of;

/// Two requests of one author each on the smallest world, a second or two in all.
std::string small(const std::string& out, const std::string& more) {
  return "--tasks 2 --authors-per-task 1 --retain-authors 2 --train-epochs 2 --threads 1 "
         "--method task-vector --epochs 20 --batch 4 --cache '" +
         (folder() / "cache").string() + "' --out '" + (folder() / out).string() + "' " + more;
}

constexpr std::int64_t kSteps = 20 * 3;  // 10 of 20 samples on each process, in batches of 4
constexpr std::ptrdiff_t kInSecond =
    kSteps + 1 + 15;  // lines of metrics.jsonl in the second request

std::vector<pid_t> children_of(pid_t parent) {
  std::ifstream stream("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) +
                       "/children");
  return {std::istream_iterator<pid_t>(stream), {}};
}

/// The lines of a run's first request, which has ended.
std::vector<Json> first_request(const std::string& out) {
  std::vector<Json> lines = lines_of(folder() / out / "metrics.jsonl");
  REQUIRE(std::ssize(lines) > kSteps);
  lines.resize(kSteps + 1);
  return lines;
}

/// Of the last run that was disturbed: with its times, which no other run has.
std::vector<Json> before_disturbance;

/// Starts processes, waits until `out`'s metrics have so many lines, and calls act(parent).
/// Returns the exit code, -1 where it had to be killed after a minute.
template <class Act>
int disturb(const std::string& command, const std::string& out, std::ptrdiff_t lines,
            const Act& act) {
  const pid_t parent = trainer::spawn(command);
  const fs::path metrics = folder() / out / "metrics.jsonl";
  int status = 0;
  bool acted = false;
  for (const auto end = std::chrono::steady_clock::now() + 60s;;) {
    if (::waitpid(parent, &status, WNOHANG) == parent) break;
    if (!acted && std::ssize(lines_of(metrics)) >= lines) {
      acted = true;
      before_disturbance = first_request(out);
      act(parent);
    }
    if (std::chrono::steady_clock::now() > end) {
      ::kill(parent, SIGKILL);
      ::waitpid(parent, nullptr, 0);
      return -1;
    }
    std::this_thread::sleep_for(2ms);
  }
  CHECK(acted);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -2;
}

const std::string kProgram = "'" ALKN_CONTINUAL "' ";

/// A signal to one of the two processes that the launcher has started.
auto to_one(int signal, std::size_t which = 1) {
  return [signal, which](pid_t parent) {
    const std::vector<pid_t> children = children_of(parent);
    REQUIRE(children.size() == 2);
    ::kill(children[which], signal);
  };
}

/// The model of a run that nothing disturbed.
const std::string& undisturbed() {
  static const std::string model = [] {
    const Result result = run(small("undisturbed", "--processes 2"));
    INFO(result.output);
    REQUIRE(result.status == 0);
    return text_of(folder() / "undisturbed" / "model.safetensors");
  }();
  return model;
}

void check_complete(const std::string& out) {
  const auto lines = lines_of(folder() / out / "metrics.jsonl");
  CHECK(std::ssize(lines) == 2 * (kSteps + 1));
  CHECK((text_of(folder() / out / "model.safetensors") == undisturbed()));
  CHECK_FALSE(fs::exists(folder() / out / "checkpoint"));
}

std::int64_t count(const std::string& text, const std::string& part) {
  std::int64_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

/// All weights of a folder's checkpoint, in the order of its names.
std::vector<float> weights_of(const fs::path& path) {
  const alkn::io::ModelFolder model(path);
  std::vector<float> all;
  for (const std::string& name : model.names()) {
    const auto place = model.find(name);
    const std::size_t before = all.size();
    all.resize(before + static_cast<std::size_t>(place->array->num_bytes()) / sizeof(float));
    place->shard->contents.read(*place->array, reinterpret_cast<char*>(all.data() + before));
  }
  return all;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("two processes: one table, one log, the same files", "[processes]") {
  undisturbed();
  const std::string output = text_of(folder() / "log.txt");
  INFO(output);
  CHECK(count(output, "data: ") == 1);
  CHECK(count(output, "task vector: lr") == 1);
  CHECK(output.find("process") == std::string::npos);
  check_complete("undisturbed");
  for (const Json& line : lines_of(folder() / "undisturbed" / "metrics.jsonl"))
    CHECK(line.is_object());
  const Json config = Json::parse(text_of(folder() / "undisturbed" / "config.json"));
  CHECK(config["processes"] == 2);

  const Result alone = run(small("undisturbed", "--resume"));
  CHECK(alone.status == 1);
  CHECK(alone.output.find("continual: expected --resume with the settings of the interrupted run, "
                          "processes 2, got null (") != std::string::npos);
  const Result other = run(small("undisturbed", "--processes 3"),
                           "RANK=0 WORLD_SIZE=2 "
                           "MASTER_ADDR=127.0.0.1 ");
  CHECK(other.status == 1);
  CHECK(other.output ==
        "continual: expected as many processes as were started, 2, got 3 (--processes)\n");
}

TEST_CASE("an error of all processes is said once", "[processes]") {
  const Result result =
      run(small("none", "--data '" + (folder() / "missing").string() + "' --processes 2"));
  CHECK(result.status == 1);
  INFO(result.output);
  CHECK(count(result.output, "continual: expected ") == 1);
}

TEST_CASE("killed in the middle, the other one goes, and the run goes on", "[processes]") {
  undisturbed();
  const auto begin = std::chrono::steady_clock::now();
  const int code =
      disturb(kProgram + small("killed", "--processes 2"), "killed", kInSecond, to_one(SIGKILL));
  CHECK(code == 128 + SIGKILL);
  CHECK(std::chrono::steady_clock::now() - begin < 40s);
  CHECK(text_of(trainer::child_log()).find("continual: process 1 was ended by signal 9\n") !=
        std::string::npos);
  CHECK_FALSE(fs::exists(folder() / "killed" / "model.safetensors"));
  const Result resumed = run(small("killed", "--processes 2 --resume"));
  INFO(resumed.output);
  REQUIRE(resumed.status == 0);
  check_complete("killed");
  CHECK(first_request("killed") == before_disturbance);  // it was not done again
}

TEST_CASE("a signal to one process, or to the one that started them, stops all", "[processes]") {
  undisturbed();
  const auto to_parent = [](pid_t parent) { ::kill(parent, SIGINT); };
  const bool one = GENERATE(true, false);
  const std::string out = one ? "one" : "parent", arguments = small(out, "--processes 2");
  const int code = one ? disturb(kProgram + arguments, out, kInSecond, to_one(SIGTERM))
                       : disturb(kProgram + arguments, out, kInSecond, to_parent);
  const std::string output = text_of(trainer::child_log());
  INFO(output);
  CHECK(code == 130);
  CHECK(count(output, "interrupted; the same command with --resume goes on from ") == 1);
  CHECK(fs::exists(folder() / out / "checkpoint" / "index.json"));
  const Result resumed = run(arguments + " --resume");
  REQUIRE(resumed.status == 0);
  check_complete(out);
  CHECK(first_request(out) == before_disturbance);
}

TEST_CASE("torchrun starts them, and again where one dies", "[processes]") {
  if (std::string(ALKN_TORCHRUN).empty()) {
    WARN("skipped: torchrun is not installed");
    return;
  }
  undisturbed();
  bool killed = false;
  const std::string command = "env -u OMP_NUM_THREADS '" ALKN_TORCHRUN
                              "' --no-python --standalone --nproc-per-node 2 --max-restarts 1 " +
                              kProgram + small("torchrun", "");
  const int code = disturb(command, "torchrun", kInSecond, [&](pid_t parent) {
    to_one(SIGKILL, 0)(parent);
    killed = true;
  });
  INFO(text_of(trainer::child_log()));
  CHECK(killed);
  CHECK(code == 0);
  check_complete("torchrun");
  CHECK(first_request("torchrun") == before_disturbance);  // without --resume among its arguments
}

TEST_CASE("mpirun starts them", "[processes]") {
  if (std::string(ALKN_MPIRUN).empty()) {
    WARN("skipped: mpirun is not installed");
    return;
  }
  undisturbed();
  const fs::path log = folder() / "mpirun.txt";
  // isolated: Open MPI asks for ssh otherwise, for other machines
  const std::string command = "'" ALKN_MPIRUN
                              "' --mca plm isolated --allow-run-as-root --oversubscribe -n 2 " +
                              kProgram + small("mpirun", "") + " > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  INFO(text_of(log));
  CHECK(status == 0);
  CHECK(count(text_of(log), "data: ") == 1);
  check_complete("mpirun");
}

TEST_CASE("two processes do what one does with the doubled batch", "[processes]") {
  const std::string common =
      R"( --format 'Question: {question}\nAnswer: {answer}' --tasks 1 --authors-per-task 1 )"
      "--retain-authors 2 --threads 1 --method alkn ";
  const fs::path checkpoint = write_small_checkpoint(folder() / "checkpoint");
  const auto out = [](const std::string& name) { return (folder() / name).string(); };
  const Result taught = run("--model '" + checkpoint.string() + "'" + common +
                            "--teach 30 --teach-lr 5e-3 --epochs 1 --out '" + out("teach") + "'");
  INFO(taught.output);
  REQUIRE(taught.status == 0);
  const fs::path start = folder() / "teach" / "taught";
  const auto unlearn = [&](const std::string& name, const std::string& more) {
    const Result result = run("--model '" + start.string() + "'" + common + more +
                              " --lr 1e-3 --lambda 2 --out '" + out(name) + "'");
    INFO(result.output);
    REQUIRE(result.status == 0);
    return Json::parse(text_of(folder() / name / "summary.json"));
  };
  const auto check_tables = [](const Json& one, const Json& two) {
    CHECK(one["after"]["forgotten"].get<double>() < 0.7 * one["before"]["forgotten"].get<double>());
    for (const char* entry : {"forgotten", "rephrased", "shown", "unseen", "general"}) {
      INFO(entry);
      CHECK(std::abs(one["after"][entry].get<double>() - two["after"][entry].get<double>()) < 0.02);
    }
  };
  // The same samples in each of 20 steps: only the order differs in which gradients are added.
  check_tables(unlearn("whole1", "--epochs 20 --batch 20"),
               unlearn("whole2", "--epochs 20 --batch 10 --processes 2"));
  const auto before = weights_of(start), one = weights_of(folder() / "whole1" / "model"),
             two = weights_of(folder() / "whole2" / "model");
  INFO("distance of the weights over the way that they came: " << distance(one, two) /
                                                                      distance(one, before));
  CHECK(distance(one, two) < 1e-5 * distance(one, before));
  // Other samples together, as many in a step.
  check_tables(unlearn("part1", "--epochs 10 --batch 8"),
               unlearn("part2", "--epochs 10 --batch 4 --processes 2"));
}
