// What a score pass sets aside for the selection, and what is selected from it.
#pragma once

#include <algorithm>
#include <cstdint>

#include <alkn/kernel/passes.hpp>

namespace alkn::kernel {

/// What counts and candidates say of one order statistic.
enum class Outcome { found, missed };
struct Selected {
  Outcome outcome = Outcome::missed;
  float value = 0;
  bool tied = false;        ///< it is an end of the interval
  std::int64_t inside = 0;  ///< candidates in the interval
};

/// Both order statistics of the threshold.
struct SelectedPair {
  Selected low, high;
  [[nodiscard]] bool found() const {
    return low.outcome == Outcome::found && high.outcome == Outcome::found;
  }
};

/// Scores set aside by several chunks.
struct CandidateList {
  const Candidates* chunks = nullptr;
  std::int64_t num_chunks = 0;

  [[nodiscard]] std::int64_t size() const {
    std::int64_t sum = 0;
    for (std::int64_t c = 0; c < num_chunks; ++c) sum += chunks[c].size;
    return sum;
  }
  [[nodiscard]] bool overflow() const {
    return std::any_of(chunks, chunks + num_chunks, [](const Candidates& c) { return c.overflow; });
  }
};

/// One interval with the counts at its ends.
struct Bracket {
  float a = 0, b = 0;
  std::int64_t ge_a = 0, ge_b = 0, gt_b = 0;
  bool closed = false;
};

}  // namespace alkn::kernel
