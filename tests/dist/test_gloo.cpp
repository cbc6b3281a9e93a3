// Processes over Gloo: they agree; one that dies, hangs or throws ends the call of the others.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

extern char** environ;  // NOLINT: POSIX has it in no header

namespace {

using namespace std::chrono_literals;

/// A port of this machine that was free a moment ago.
int free_port() {
  const int s = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = static_cast<sockaddr*>(static_cast<void*>(&address));
  REQUIRE(::bind(s, generic, length) == 0);
  REQUIRE(::getsockname(s, generic, &length) == 0);
  ::close(s);
  return ntohs(address.sin_port);
}

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

struct Result {
  int status = -1;                 // as waitpid gives it; -1: it had to be killed
  std::vector<std::string> lines;  // what the worker wrote
};

/// Starts the workers, one of them with a fault, and waits for all at most `limit`.
std::vector<Result> run(int size, int faulty, const std::vector<std::string>& fault,
                        const std::string& timeout, std::chrono::seconds limit = 60s) {
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("alkn-dist-{}", ::getpid());
  std::filesystem::create_directories(folder);
  const int port = free_port();
  std::vector<pid_t> pids;
  std::vector<std::filesystem::path> files;
  for (int rank = 0; rank < size; ++rank) {
    files.push_back(folder / fmt::format("{}", rank));
    std::vector<std::string> words{ALKN_DIST_WORKER, files.back().string(), timeout};
    if (rank == faulty) words.insert(words.end(), fault.begin(), fault.end());
    // the others count their collectives too, so that all of them are made by the same code
    std::vector<std::string> variables{
        fmt::format("RANK={}", rank),
        fmt::format("WORLD_SIZE={}", size),
        fmt::format("LOCAL_RANK={}", rank),
        fmt::format("MASTER_PORT={}", port),
        std::string("MASTER_ADDR=127.0.0.1"),
        std::string("OMP_NUM_THREADS=1"),
        std::string("TORCH_CPP_LOG_LEVEL=ERROR")};  // c10d's own words, with its stack
    if (rank != faulty && !fault.empty())
      words.insert(words.end(), {"none", "before", "none", "0"});
    for (char** one = environ; *one != nullptr; ++one) variables.emplace_back(*one);
    std::vector<char*> arguments, environment;
    for (std::string& word : words) arguments.push_back(word.data());
    for (std::string& variable : variables) environment.push_back(variable.data());
    arguments.push_back(nullptr);
    environment.push_back(nullptr);
    pid_t pid = 0;
    REQUIRE(::posix_spawn(&pid, ALKN_DIST_WORKER, nullptr, nullptr, arguments.data(),
                          environment.data()) == 0);
    pids.push_back(pid);
  }
  std::vector<Result> results(pids.size());
  const auto end = std::chrono::steady_clock::now() + limit;
  for (std::size_t left = pids.size(); left > 0;) {
    left = 0;
    bool others = false;
    for (std::size_t i = 0; i < pids.size(); ++i) {
      if (pids[i] == 0) continue;
      int status = 0;
      if (::waitpid(pids[i], &status, WNOHANG) == pids[i]) {
        results[i].status = status;
        pids[i] = 0;
      } else {
        ++left;
        others = others || static_cast<int>(i) != faulty;
      }
    }
    // a process that hangs on purpose goes when the others have
    if (left > 0 && (!others || std::chrono::steady_clock::now() > end)) {
      for (pid_t& pid : pids) {
        if (pid == 0) continue;
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
        pid = 0;
      }
      left = 0;
    }
    std::this_thread::sleep_for(5ms);
  }
  for (std::size_t i = 0; i < files.size(); ++i) results[i].lines = lines_of(files[i]);
  std::filesystem::remove_all(folder);
  return results;
}

}  // namespace

TEST_CASE("without a launcher there is no group, and the program runs alone") {
  CHECK(std::system("env -u RANK -u WORLD_SIZE " ALKN_DIST_WORKER) == 0);
}

TEST_CASE("processes over Gloo end with the same weights") {
  for (const int size : {1, 2, 4}) {
    const auto all = run(size, -1, {}, "20000");
    for (const Result& one : all) {
      INFO(fmt::format("{} processes", size));
      REQUIRE(one.lines.size() == 2);
      CHECK(one.status == 0);
      CHECK(one.lines[0] == "weights");
      CHECK(one.lines == all[0].lines);
    }
  }
}

TEST_CASE("a process that dies, hangs or throws ends the call of the others within the timeout") {
  const std::string kind = GENERATE("all_reduce", "reduce", "broadcast", "gather");
  const std::string what = GENERATE("kill", "stop", "throw");
  const std::string when = GENERATE("before", "during", "after");
  const std::string at = kind == "gather" ? "2" : "3";
  INFO(what << " " << when << " " << kind << " " << at);
  const int faulty = 1 + static_cast<int>((kind.size() + what.size() + when.size()) % 2);
  const auto all = run(3, faulty, {what, when, kind, at}, "2000");
  for (int rank = 0; rank < 3; ++rank) {
    const Result& one = all[static_cast<std::size_t>(rank)];
    INFO("process " << rank << ", status " << one.status << ": "
                    << (one.lines.size() > 1 ? one.lines[1] : "nothing"));
    if (rank == faulty && what != "throw") {
      CHECK(one.status != 0);
      continue;
    }
    REQUIRE(one.lines.size() == 4);
    CHECK(one.lines[0] == "error");
    CHECK(one.lines[1].starts_with("alkn::ALKN: expected all 3 processes in "));
    CHECK(
        one.lines[1].ends_with("; this process's weights are unspecified, the last checkpoint is "
                               "whole"));
    CHECK(std::stod(one.lines[2]) < 4);
    CHECK(one.lines[3].starts_with(
        "alkn::ALKN: expected a group that works, got one that failed in "));
  }
}

TEST_CASE("killed anywhere, a run goes on from its checkpoint to the same bits") {
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("alkn-dist-saved-{}", ::getpid());
  std::filesystem::remove_all(folder);
  const auto undisturbed = run(3, -1, {}, "20000");
  REQUIRE(undisturbed[0].lines.size() == 2);
  REQUIRE(::setenv("ALKN_DIST_FOLDER", folder.c_str(), 1) == 0);
  int num_killed = 0;
  for (const int at : {2, 7, 12, 16, 19, 23, 28}) {
    INFO("killed at collective " << at);
    std::filesystem::remove_all(folder);
    const auto killed = run(3, at % 3, {"kill", "during", "any", fmt::format("{}", at)}, "2000");
    num_killed += killed[static_cast<std::size_t>(at % 3)].status != 0 ? 1 : 0;
    const auto resumed = run(3, -1, {}, "20000");
    for (const Result& one : resumed) {
      CHECK(one.status == 0);
      CHECK(one.lines == undisturbed[0].lines);
    }
    int files = 0;  // of the last save, and its index; one killed in its middle leaves its own
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      static_cast<void>(entry);
      ++files;
    }
    CHECK(files == 4);
  }
  CHECK(num_killed == 7);
  REQUIRE(::unsetenv("ALKN_DIST_FOLDER") == 0);
  std::filesystem::remove_all(folder);
}
