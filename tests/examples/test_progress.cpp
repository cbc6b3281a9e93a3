// The example's progress: plain lines in a file, a bar on a terminal.
#include "continual/progress.hpp"

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"

namespace {

using continual::Progress;
using continual::ProgressOutput;

/// A file that collects what is written to it.
class Collected {
 public:
  Collected() { REQUIRE(file_ != nullptr); }
  Collected(const Collected&) = delete;
  Collected& operator=(const Collected&) = delete;
  ~Collected() { std::fclose(file_); }

  [[nodiscard]] std::FILE* file() const { return file_; }

  [[nodiscard]] std::string text() const {
    std::rewind(file_);
    std::string all;
    for (int c = std::fgetc(file_); c != EOF; c = std::fgetc(file_)) {
      all.push_back(static_cast<char>(c));
    }
    return all;
  }

 private:
  std::FILE* file_ = std::tmpfile();
};

/// The text between two `separator`s, and what is before the first and after the last.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator) {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

bool matches(const std::string& text, const std::string& pattern) {
  return std::regex_match(text, std::regex(pattern));
}

}  // namespace

TEST_CASE("progress in a file is lines with rate and time left", "[progress]") {
  const Collected out;
  {
    Progress progress("forgetting", 4, 1, {.file = out.file(), .terminal = false, .interval = 0});
    progress.step("loss 2.000");
    progress.step("loss 1.000");
    progress.step("loss 0.500");
  }
  const std::string text = out.text();
  INFO(text);
  CHECK(text.find('\r') == std::string::npos);
  const auto lines = split(text, '\n');
  REQUIRE(lines.size() == 4);
  CHECK(matches(lines[0], R"(forgetting: 2/4  \d+\.\d steps/s  \d+ s left  loss 2\.000)"));
  CHECK(matches(lines[1], R"(forgetting: 3/4  \d+\.\d steps/s  \d+ s left  loss 1\.000)"));
  CHECK(matches(lines[2], R"(forgetting: 4/4  \d+\.\d steps/s  0 s left  loss 0\.500)"));
  CHECK(lines[3].empty());
}

TEST_CASE("rate and time left count the steps of this run alone", "[progress]") {
  const Collected out;
  Progress progress("p", 1100, 1000, {.file = out.file(), .terminal = false, .interval = 0});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  progress.step("");
  const std::string text = out.text();
  INFO(text);
  std::smatch found;
  REQUIRE(std::regex_match(text, found,
                           std::regex(R"(p: 1001/1100  (\d+\.\d) steps/s  (\d+) s left  \n)")));
  const double rate = std::stod(found[1]), left = std::stod(found[2]);
  CHECK(rate <= 10);  // one step in at least 100 ms; the thousand before would make it 10000
  CHECK(left >= 10);  // 99 more
  CHECK(std::abs(rate * left - 99) < 20);  // but for roundings
}

TEST_CASE("a slow step is told in seconds, without the first two", "[progress]") {
  const Collected out;
  Progress progress("p", 10, 0, {.file = out.file(), .terminal = false, .interval = 0});
  CHECK(progress.seconds_a_step() == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  progress.step("");
  CHECK(progress.seconds_a_step() >= 1.1);
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  progress.step("");
  CHECK(progress.seconds_a_step() >= 1.05);  // of two steps: the mean of both
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  progress.step("");
  CHECK(progress.seconds_a_step() >= 0.02);
  CHECK(progress.seconds_a_step() < 0.7);  // with the first two it would be .7 at least
  const auto lines = split(out.text(), '\n');
  REQUIRE(lines.size() == 4);
  CHECK(matches(lines[0], R"(p: 1/10  \d+\.\d\d s/step  \d+ s left  )"));
  CHECK(matches(lines[2], R"(p: 3/10  \d+\.\d steps/s  \d+ s left  )"));
}

TEST_CASE("lines come no more often than asked for", "[progress]") {
  const Collected out;
  Progress progress("p", 3, 0, {.file = out.file(), .terminal = false, .interval = 3600});
  progress.step("");
  progress.step("");
  progress.step("");
  CHECK(out.text().empty());
}

TEST_CASE("progress on a terminal is a bar that gives way", "[progress]") {
  const Collected out;
  {
    Progress progress("forgetting", 4, 1, {.file = out.file(), .terminal = true, .interval = 0});
    progress.step("loss 2.000");
    progress.step(std::string(200, 'x'));
    progress.step("loss 0.500");
  }
  const std::string text = out.text();
  INFO(text);
  CHECK(text.find('\n') == std::string::npos);
  const auto shown = split(text, '\r');  // before the first, three bars, the blank, after the last
  REQUIRE(shown.size() == 6);
  CHECK(shown[0].empty());
  CHECK(matches(shown[1],
                R"(forgetting \[#{10} {10}\] 2/4  \d+\.\d steps/s  \d+ s left  loss 2\.000 *)"));
  CHECK(matches(shown[2], R"(forgetting \[#{15} {5}\] 3/4  \d+\.\d steps/s  \d+ s left  x+)"));
  CHECK(matches(shown[3], R"(forgetting \[#{20}\] 4/4  \d+\.\d steps/s  0 s left  loss 0\.500 *)"));
  CHECK(shown[4] == std::string(99, ' '));
  CHECK(shown[5].empty());
  for (int i = 1; i < 4; ++i) {
    CHECK(shown[static_cast<std::size_t>(i)].size() == 99);  // none leaves a rest of the last
  }
}

TEST_CASE("the last step shows on a terminal however soon it comes", "[progress]") {
  const Collected out;
  Progress progress("p", 2, 0, {.file = out.file(), .terminal = true, .interval = 3600});
  progress.step("");
  CHECK(out.text().empty());
  progress.step("");
  CHECK(out.text().find("p [####################] 2/2 ") != std::string::npos);
}
