// What a task's own numbers say against it. Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <alkn/task/core.hpp>
#include <alkn/text.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace alkn::detail {

/// Fewer steps than this leave a schedule no room.
inline constexpr std::int64_t kFewSteps = 10;
/// A forget loss, in nats a token, below which fine-tuning has nothing left to learn.
inline constexpr double kSmallLoss = 0.01;

ALKN_COMPILED_INLINE std::vector<std::string> UnlearnerCore::warnings(bool ending) const {
  const TaskCourse& course = task_->course;
  std::vector<std::string> all;
  const std::int64_t steps = ending ? task_->done : task_->announced;
  if (steps < kFewSteps) {
    all.push_back(text_of({steps, steps == 1 ? " step" : " steps", ", fewer than ", kFewSteps,
                           ": they move little, and a schedule has no room in them"}));
  }
  if (ending && course.num_rates == task_->done) {
    if (course.peak_rate == 0) {
      all.emplace_back("no step had a learning rate above 0: nothing was trained");
    } else if (2 * course.peak_step > task_->done) {
      all.push_back(text_of({"the learning rate rose until step ", course.peak_step + 1, " of ",
                             task_->done, ": a warm-up took more than half of the steps"}));
    }
  }
  if (course.first_loss.defined()) {
    const double loss = course.first_loss.item<double>();
    if (std::abs(loss) < kSmallLoss) {
      all.push_back(
          text_of({"the forget loss starts at ",
                   {loss, 2},
                   ", near 0: the samples are known by heart, or not at all, and loss and norm say "
                   "nothing of what is forgotten; evaluate"}));
    }
  }
  return all;
}

}  // namespace alkn::detail
