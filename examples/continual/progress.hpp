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

/// Where progress is shown, and how.
struct ProgressOutput {
  std::FILE* file = stdout;
  bool terminal = ::isatty(STDOUT_FILENO) != 0;
  double interval = terminal ? 0.1 : 15;  ///< seconds from one report to the next
};

class Progress {
 public:
  /// @param done steps taken before, by a run that was interrupted
  Progress(std::string title, std::int64_t total, std::int64_t done = 0, ProgressOutput output = {})
      : title_(std::move(title)), total_(total), first_(done), done_(done), output_(output) {}

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  ~Progress() {
    if (output_.terminal) {
      // The bar gives way to what is printed next.
      fmt::print(output_.file, "\r{:{}}\r", "", kColumns);
      std::fflush(output_.file);
    }
  }

  /// Mean over the steps of this run after the second: the first ones allocate. Of fewer steps, the
  /// mean of all; 0 before the first.
  [[nodiscard]] double seconds_a_step() const {
    const std::int64_t taken = done_ - first_;
    if (taken == 0) return 0;
    return taken <= kFirstSteps ? last_ / static_cast<double>(taken)
                                : (last_ - settled_) / static_cast<double>(taken - kFirstSteps);
  }

  /// One more step; `note` says how it goes.
  void step(std::string_view note) {
    ++done_;
    const double now = watch_.seconds();
    last_ = now;
    if (done_ - first_ == kFirstSteps) settled_ = now;
    if (now - shown_ < output_.interval && !(output_.terminal && done_ == total_)) {
      return;
    }
    shown_ = now;
    const double seconds = seconds_a_step();
    const double left = static_cast<double>(total_ - done_) * seconds;
    const std::string rate = seconds > 1 ? fmt::format("{:.2f} s/step", seconds)
                                         : fmt::format("{:.1f} steps/s", 1 / seconds);
    const std::string numbers =
        fmt::format("{}/{}  {}  {:.0f} s left  {}", done_, total_, rate, left, note);
    if (output_.terminal) {
      const auto filled = static_cast<std::size_t>(done_ * kBar / std::max(total_, done_));
      const std::string bar = fmt::format("{:<{}}", std::string(filled, '#'), kBar);
      const std::string line = fmt::format("{} [{}] {}", title_, bar, numbers);
      fmt::print(output_.file, "\r{:{}.{}}", line, kColumns, kColumns);
    } else {
      fmt::print(output_.file, "{}: {}\n", title_, numbers);
    }
    std::fflush(output_.file);
  }

 private:
  static constexpr int kColumns = 99, kBar = 20;
  static constexpr std::int64_t kFirstSteps = 2;

  std::string title_;
  std::int64_t total_, first_, done_;
  ProgressOutput output_;
  Stopwatch watch_;
  double shown_ = 0;    ///< when a report was last shown
  double last_ = 0;     ///< when the last step was done
  double settled_ = 0;  ///< when the second one was
};

}  // namespace continual
