// What is to be forgotten and what is to be kept, as text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace continual {

/// A question and its answer; plain text has no question.
struct Pair {
  std::string question, answer;
};

/// One deletion request: what must go, and the same facts asked for in other words.
struct Request {
  std::string name;
  std::vector<Pair> forget;
  std::vector<Pair> rephrased;  ///< may be empty
};

/// The requests in their order, and what is kept: `shown` to the methods, or never (`unseen`). The
/// two have no author in common, so that `unseen` tells what a method does to what it is not shown.
struct DataSet {
  std::string name;
  std::vector<Request> requests;
  std::vector<Pair> shown, unseen;
};

inline constexpr std::int64_t kTasks = 5;

/// How much of the data is taken.
struct DataSettings {
  std::vector<std::filesystem::path> paths;   ///< none: authors are made up
  std::vector<std::filesystem::path> retain;  ///< texts that are kept, beside books
  std::optional<std::int64_t> tasks;          ///< none: kTasks, or as many as there are files
  std::int64_t authors_per_task = 4;
  std::int64_t retain_authors = 40;  ///< half of them shown
  std::uint64_t seed = 1;
};

/// An error in the project's form: "continual: expected <what>, got <value> (<where>)".
[[noreturn]] inline void data_error(const std::string& expected, const std::string& got,
                                    const std::string& where) {
  throw std::runtime_error("continual: expected " + expected + ", got " + got + " (" + where + ")");
}

}  // namespace continual
