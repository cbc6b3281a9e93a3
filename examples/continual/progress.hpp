// A progress bar with rate and time left on a terminal, a plain line now and then elsewhere.
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

namespace continual {

/// Seconds since it was made.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class Progress {
 public:
  /// @param done steps taken before, by a run that was interrupted
  Progress(std::string title, std::int64_t total, std::int64_t done = 0)
      : title_(std::move(title)), total_(total), first_(done), done_(done) {}

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  ~Progress() {
    if (terminal_) {
      fmt::print("\r{:{}}\r", "", kColumns);  // the bar gives way to what is printed next
      std::fflush(stdout);
    }
  }

  /// One more step; `note` says how it goes.
  void step(std::string_view note) {
    ++done_;
    const double now = watch_.seconds();
    const double interval = terminal_ ? kBarSeconds : kLineSeconds;
    if (now - shown_ < interval && !(terminal_ && done_ == total_)) {
      return;
    }
    shown_ = now;
    const double rate = static_cast<double>(done_ - first_) / now;
    const double left = static_cast<double>(total_ - done_) / rate;
    const std::string numbers =
        fmt::format("{}/{}  {:.1f} steps/s  {:.0f} s left  {}", done_, total_, rate, left, note);
    if (terminal_) {
      const auto filled = static_cast<std::size_t>(done_ * kBar / std::max(total_, done_));
      const std::string bar = fmt::format("{:<{}}", std::string(filled, '#'), kBar);
      const std::string line = fmt::format("{} [{}] {}", title_, bar, numbers);
      fmt::print("\r{:{}.{}}", line, kColumns, kColumns);
    } else {
      fmt::print("{}: {}\n", title_, numbers);
    }
    std::fflush(stdout);
  }

 private:
  static constexpr int kColumns = 99, kBar = 20;
  static constexpr double kBarSeconds = 0.1, kLineSeconds = 15;

  std::string title_;
  std::int64_t total_, first_, done_;
  bool terminal_ = ::isatty(STDOUT_FILENO) != 0;
  Stopwatch watch_;
  double shown_ = 0;
};

}  // namespace continual
