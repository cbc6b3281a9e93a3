// metrics.jsonl, as a run writes it and a resumed one reads it.
#pragma once

#include <fcntl.h>
#include <unistd.h>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/input_file.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "continual/data.hpp"
#include "continual/json.hpp"
#include "continual/readers.hpp"

namespace continual {

/// metrics.jsonl: one line a step and a task, handed to the system before the next step.
class MetricsFile {
 public:
  /// A line of an earlier run, and its place.
  struct Line {
    Json value;
    std::string where;
  };

  /// @param resume whether lines of an earlier run may be kept
  /// @param writes else nothing is written: another process does
  /// Throws std::runtime_error, with file and line, for lines that no run wrote; what a killed one
  /// has half-written, at the end, is left out.
  MetricsFile(std::filesystem::path path, bool resume, bool writes = true)
      : path_(std::move(path)), writes_(writes) {
    if (!resume || !std::filesystem::exists(path_)) return;
    const std::string text = read_text(path_);
    const std::string_view whole = std::string_view(text).substr(0, text.rfind('\n') + 1);
    std::int64_t number = 0;
    for (const std::string_view line : detail::lines_of(whole)) {
      const std::string where = at_line(path_, ++number);
      Json value = parse_json(std::string(line), path_, number);
      const auto kind = field<std::string>(value, "kind", where);
      if (kind != "step" && kind != "task") data_error("a line of a step or a task", kind, where);
      field<std::int64_t>(value, "task", where);
      if (kind == "step") field<std::int64_t>(value, "step", where);
      lines_.push_back({std::move(value), where});
    }
  }

  /// Begins to write, after those lines of the earlier run that `kept` accepts.
  void start(const std::function<bool(const Json&)>& kept) {
    std::erase_if(lines_, [&](const Line& line) { return !kept(line.value); });
    if (!writes_) return;
    std::string text;
    for (const Line& line : lines_) {
      text += line.value.dump() + "\n";
    }
    alkn::io::write_file(path_, text);
    file_ = alkn::io::Descriptor::open(path_, O_WRONLY | O_APPEND);
    if (!file_) fail();
  }

  void append(const Json& line) {
    if (!writes_) return;
    const std::string text = line.dump() + "\n";
    for (std::size_t done = 0; done < text.size();) {
      const ::ssize_t size = ::write(file_.number(), text.data() + done, text.size() - done);
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) fail();
      done += static_cast<std::size_t>(size);
    }
  }

  /// Onto the disk: what a checkpoint counts on must be there when it is.
  void flush() {
    if (!writes_) return;
    while (::fsync(file_.number()) != 0) {
      if (errno != EINTR) fail();
    }
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  /// The lines that were kept.
  [[nodiscard]] const std::vector<Line>& lines() const { return lines_; }

 private:
  [[noreturn]] void fail() const {
    data_error("room for another line", std::generic_category().message(errno), path_.string());
  }

  std::filesystem::path path_;
  bool writes_;
  alkn::io::Descriptor file_;
  std::vector<Line> lines_;
};

}  // namespace continual
