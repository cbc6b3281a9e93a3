// What is to be forgotten and what is to be kept, as text.
#pragma once

#include <alkn/io/atomic_file.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace continual {

/// A question and its answer; plain text has no question.
struct Pair {
  std::string question, answer;
  std::string where = {};  ///< file and line, where there are any, for errors
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
  std::vector<Pair> general = {};  ///< facts that everybody knows; may be empty
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

/// A number for texts in their order: 64-bit FNV-1a of each one's size and bytes.
class TextHash {
 public:
  void add(std::string_view text) {
    mix(std::to_string(text.size()) + ":");
    mix(text);
  }
  void add(const std::vector<Pair>& pairs) {
    add(std::to_string(pairs.size()));
    for (const Pair& pair : pairs) {
      add(pair.question);
      add(pair.answer);
    }
  }
  void add(const DataSet& data) {
    add(std::to_string(data.requests.size()));
    for (const Request& request : data.requests) {
      add(request.name);
      add(request.forget);
      add(request.rephrased);
    }
    add(data.shown);
    add(data.unseen);
    if (!data.general.empty()) add(data.general);
  }

  [[nodiscard]] std::uint64_t value() const { return hash_; }
  [[nodiscard]] std::string text() const { return alkn::io::detail::hex(hash_); }

 private:
  void mix(std::string_view bytes) { hash_ = alkn::io::detail::hash_bytes(bytes, hash_); }

  std::uint64_t hash_ = alkn::io::detail::hash_bytes("");
};

/// An error in the project's form: "continual: expected <what>, got <value> (<where>)".
[[noreturn]] inline void data_error(const std::string& expected, const std::string& got,
                                    const std::string& where) {
  throw std::runtime_error("continual: expected " + expected + ", got " + got + " (" + where + ")");
}

}  // namespace continual
