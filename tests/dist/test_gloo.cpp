// Processes over Gloo: they agree; one that dies, hangs or throws ends the call of the others.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"

extern char** environ;  // NOLINT: POSIX has it in no header

namespace {

using namespace std::chrono_literals;

void require(bool fact, const char* what) {  // from any thread
  if (!fact) throw std::runtime_error(what);
}

/// A port of this machine that is free, and that the system gives to nobody who asks for any.
int free_port() {
  static std::atomic<int> next{0};
  for (int tries = 0; tries < 1000; ++tries) {
    const int port = 20000 + (static_cast<int>(::getpid()) * 41 + next++) % 12000;
    const int s = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    auto* generic = static_cast<sockaddr*>(static_cast<void*>(&address));
    const bool free = ::bind(s, generic, sizeof address) == 0;
    ::close(s);
    if (free) return port;
  }
  throw std::runtime_error("no free port");
}

/// Calls work(i) for all i below `count`, three at a time: a process that waits for another that
/// does not come needs no processor.
void side_by_side(int count, const std::function<void(int)>& work) {
  std::atomic<int> next{0};
  std::vector<std::exception_ptr> errors(3);
  std::vector<std::thread> threads;
  for (std::exception_ptr& error : errors) {
    threads.emplace_back([&] {
      try {
        for (int i = 0; (i = next++) < count;) work(i);
      } catch (...) {
        error = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
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

/// A new folder of this run of the tests.
std::filesystem::path new_folder() {
  static std::atomic<int> next{0};
  const auto folder = std::filesystem::temp_directory_path() /
                      fmt::format("alkn-dist-{}-{}", static_cast<int>(::getpid()), next++);
  std::filesystem::remove_all(folder);
  return folder;
}

/// Starts the workers, one of them with a fault, and waits for all at most `limit`.
/// @param saved where they save after every step, and go on from; empty: nowhere
std::vector<Result> run(int size, int faulty, const std::vector<std::string>& fault,
                        const std::string& timeout, const std::filesystem::path& saved = {},
                        std::chrono::seconds limit = 60s) {
  const auto folder = new_folder();
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
    if (!saved.empty()) variables.push_back("ALKN_DIST_FOLDER=" + saved.string());
    if (rank != faulty && !fault.empty())
      words.insert(words.end(), {"none", "before", "none", "0"});
    for (char** one = environ; *one != nullptr; ++one) variables.emplace_back(*one);
    std::vector<char*> arguments, environment;
    for (std::string& word : words) arguments.push_back(word.data());
    for (std::string& variable : variables) environment.push_back(variable.data());
    arguments.push_back(nullptr);
    environment.push_back(nullptr);
    pid_t pid = 0;
    require(::posix_spawn(&pid, ALKN_DIST_WORKER, nullptr, nullptr, arguments.data(),
                          environment.data()) == 0,
            "no worker");
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
  struct Case {
    std::string what, when, kind;
    int faulty = 0;
    std::vector<Result> all = {};
  };
  std::vector<Case> cases;
  for (const char* kind : {"all_reduce", "reduce", "broadcast", "gather"}) {
    for (const char* what : {"kill", "stop", "throw", "sleep"}) {
      for (const char* when : {"before", "during", "after"})
        cases.push_back({what, when, kind, 1 + static_cast<int>(cases.size() % 2)});
    }
  }
  side_by_side(static_cast<int>(cases.size()), [&](int i) {
    Case& one = cases[static_cast<std::size_t>(i)];
    const std::string at = one.kind == "gather" ? "2" : "3";
    one.all = run(3, one.faulty, {one.what, one.when, one.kind, at}, "2000");
  });
  for (const Case& one : cases) {
    INFO(one.what << " " << one.when << " " << one.kind);
    for (int rank = 0; rank < 3; ++rank) {
      const Result& result = one.all[static_cast<std::size_t>(rank)];
      INFO("process " << rank << ", status " << result.status << ": "
                      << fmt::format("{}", fmt::join(result.lines, "; ")));
      if (rank == one.faulty && one.what != "throw") {
        CHECK(result.status != 0);
        continue;
      }
      REQUIRE(result.lines.size() == 4);
      CHECK(result.lines[0] == "error");
      CHECK(result.lines[1].starts_with("alkn::ALKN: expected all 3 processes in "));
      CHECK(result.lines[1].ends_with(
          "; this process's weights are unspecified, the last checkpoint is whole"));
      CHECK(std::stod(result.lines[2]) < 4);
      CHECK(result.lines[3].starts_with(
          "alkn::ALKN: expected a group that works, got one that failed in "));
    }
  }
}

TEST_CASE("after any fault at any place, a run goes on from its checkpoint to the same bits") {
  struct Case {
    std::string what, when;
    int at = 0, faulty = 0;
    std::vector<Result> broken = {}, resumed = {}, again = {};
    std::size_t num_files = 0;  ///< of the checkpoint at the end

    [[nodiscard]] std::string text() const { return fmt::format("{} {} {}", what, when, at); }
  };
  constexpr int kCollectives = 44;  // of a run that saves, from its first step on
  std::vector<Case> cases;
  for (const int at : {2, 7, 12, 16, 19, 23, 28}) cases.push_back({"kill", "during", at, at % 3});
  std::mt19937 random(2026);  // its numbers are the same everywhere
  const auto below = [&](std::size_t n) { return random() % n; };
  const std::array<const char*, 4> whats{"kill", "stop", "throw", "sleep"};
  const std::array<const char*, 3> whens{"before", "during", "after"};
  for (int i = 0; i < 30; ++i) {
    const char* what = whats[below(whats.size())];
    const char* when = whens[below(whens.size())];
    const int at = 1 + static_cast<int>(below(kCollectives));
    cases.push_back({what, when, at, static_cast<int>(below(3))});
  }
  const auto undisturbed = run(3, -1, {}, "20000");
  REQUIRE(undisturbed[0].lines.size() == 2);
  side_by_side(static_cast<int>(cases.size()), [&](int i) {
    Case& one = cases[static_cast<std::size_t>(i)];
    const auto folder = new_folder();
    one.broken =
        run(3, one.faulty, {one.what, one.when, "any", fmt::format("{}", one.at)}, "2000", folder);
    one.resumed = run(3, -1, {}, "20000", folder);
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      static_cast<void>(entry);
      ++one.num_files;
    }
    if (i % 6 == 0) one.again = run(i % 12 == 0 ? 2 : 1, -1, {}, "20000", folder);
    std::filesystem::remove_all(folder);
  });
  int num_failed = 0;
  for (const Case& one : cases) {
    INFO(one.text() << " on process " << one.faulty);
    num_failed += one.broken[static_cast<std::size_t>(one.faulty)].status != 0 ? 1 : 0;
    for (const Result& result : one.resumed) {
      INFO(fmt::format("status {}: {}", result.status, fmt::join(result.lines, "; ")));
      CHECK(result.status == 0);
      CHECK(result.lines == undisturbed[0].lines);
    }
    // of the last save, and its index; one that was cut off in its middle has left its own
    if (one.what == "kill" && one.at < 29) CHECK(one.num_files == 4);
    for (const Result& result : one.again) {  // the checkpoint after the last step, by others
      CHECK(result.status == 0);
      CHECK(result.lines == undisturbed[0].lines);
    }
  }
  CHECK(num_failed >= 30);  // a fault after the last collective is none
}
