// The trainer as a program, for its tests.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

namespace trainer {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline const fs::path& folder() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("continual-e2e-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
  } kept;
  return kept.path;
}

inline std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Result {
  int status = 0;
  std::string output;  ///< of both streams

  [[nodiscard]] bool says(const std::string& text) const {
    return output.find(text) != std::string::npos;
  }
};

inline Result run(const std::string& arguments, const std::string& before = "") {
  const fs::path log = folder() / "log.txt";
  const std::string command =
      before + "'" ALKN_CONTINUAL "' " + arguments + " > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(log)};
}

inline std::vector<Json> lines_of(const fs::path& path) {
  std::ifstream stream(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(Json::parse(line, nullptr, false));
  }
  return lines;
}

/// Where the output of a program goes that was started and not waited for.
inline fs::path child_log() { return folder() / "child.txt"; }

/// Starts a command of the shell, without waiting for it. Returns its process number.
inline pid_t spawn(const std::string& command) {
  std::ofstream(child_log()) << "";  // nothing of the one before
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string line = "exec " + command + " > '" + child_log().string() + "' 2>&1";
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  return child;
}

inline pid_t start(const std::string& arguments) {
  return spawn("'" ALKN_CONTINUAL "' " + arguments);
}

/// A signal to a run once `reached`. Returns the exit status, -1 where the signal ended it.
inline int stop(const std::string& arguments, int signal, const std::function<bool()>& reached) {
  const pid_t child = start(arguments);
  int status = 0;
  while (!reached() && ::waitpid(child, &status, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  REQUIRE(::kill(child, signal) == 0);
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Ctrl-C once `metrics` has so many lines. Returns the exit status.
inline int interrupt(const std::string& arguments, const fs::path& metrics, std::size_t lines) {
  return stop(arguments, SIGINT, [&] { return lines_of(metrics).size() >= lines; });
}

/// The smallest world: made up in moments, and no model learns anything in it.
inline std::string smallest(const std::string& out, const std::string& more) {
  return "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 2 --threads 1 --cache "
         "'" +
         (folder() / "smallest").string() + "' --out '" + (folder() / out).string() + "' " + more;
}

}  // namespace trainer
