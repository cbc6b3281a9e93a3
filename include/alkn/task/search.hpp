// The searches of end(judge, bound) and end(target) for the strength of the negation.
// Included by task/core.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <alkn/option.hpp>
#include <alkn/task/core.hpp>
#include <alkn/text.hpp>

#include <cmath>
#include <functional>
#include <optional>
#include <utility>

namespace alkn::detail {

/// What a judge says of the candidate that is shown: the mean of all processes, by rank.
ALKN_COMPILED_INLINE double UnlearnerCore::ask(const std::function<double()>& judge) {
  double value = 0;
  const auto here = [&] {
    value = judge();
    TORCH_CHECK(!task_->swapped, "alkn::", settings_.owner,
                ": expected the scope of start_weights() to end in the judge of end(), got it open "
                "after the judge");
    check_parameters(false);
  };
  if (!shards_.active()) {
    here();
    return value;
  }
  double sum = 0;
  try {
    CallState state{.call = Call::judge, .same_argument = false};
    const auto said = meet(state, [&] {
      here();
      state.argument = value;
    });
    for (const double one : said) sum += one;
  } catch (...) {
    if (agreement_.works()) agreement_.agreed();  // thrown on every process
    throw;
  }
  return sum / shards_.size();
}

/// What `search` finds by showing candidates to a judge. The fine-tuned weights are back whatever
/// comes of it; if a judge throws, the task goes on.
template <class Search>
auto UnlearnerCore::among_candidates(Search&& search) {
  settle();
  hold_tuned();
  const auto put_back = [&] {
    task_->judging = false;
    task_->broken = true;
    swap_back();  // a scope that the judge has left open
    show_tuned();
    task_->broken = false;
  };
  task_->judging = true;
  try {
    const auto found = search();
    put_back();
    return found;
  } catch (...) {
    if (task_->judging) put_back();
    if (task_->dropped) abandon(/*must_restore=*/false);
    throw;
  }
}

/// The largest lambda in [0, lambda_t] at which `judge` stays within `bound`, by bisection: both
/// ends of the negation are held, so that each candidate is one pass over the weights.
ALKN_COMPILED_INLINE TaskReport UnlearnerCore::end_task(const std::function<double()>& judge,
                                                        double bound, int iterations) {
  const double full = task_lambda();
  const auto checks = [&] {
    settle();
    check_end();
    check_parameters(false);
    check_range(settings_.owner, "lambda", full, Range::non_negative_float(), "end");
    TORCH_CHECK_VALUE(judge && !std::isnan(bound) && iterations >= 1, "alkn::", settings_.owner,
                      ": expected a judge, a bound and at least one iteration, got ",
                      judge ? "a" : "no", " judge, bound ", text_of({bound}), " and ", iterations,
                      " iterations (end)");
  };
  const auto within = [&](double lambda) {
    show(lambda);
    return ask(judge) <= bound;  // a NaN is not within
  };
  const auto search = [&] {
    if (within(full)) return full;
    double low = 0, high = full;
    for (int i = 0; i < iterations; ++i) {
      const double middle = (low + high) / 2;
      (within(middle) ? low : high) = middle;
    }
    return low;
  };
  const double found = together(
      Call::end, bound, checks, [&] { return among_candidates(search); },
      [&] {
        return text_of({"end() by ", iterations, " iterations"});
      });
  return end_task(found, found < full);
}

/// One candidate of end(target), and what was asked of it.
struct JudgedLambda {
  double lambda = 0;
  double forget = 0;
  bool met = false;  ///< `forget` is at its bound
  std::optional<double> keep = {};
};

/// The search of end(target): where `forget` has fallen or `keep` has not held, lambda is too
/// large; else it is too small. It doubles lambda from its finest step and bisects the last one,
/// instead of halving the way from max_lambda: a model that a large lambda has broken may be judged
/// as if it had not forgotten.
class TargetSearch {
 public:
  using Judge = std::function<double()>;
  TargetSearch(const EndTarget& target, std::function<void(double)> show,
               std::function<double(const Judge&)> ask)
      : target_(target), show_(std::move(show)), ask_(std::move(ask)) {}

  /// @returns the candidate to end with, `met` only if `keep` holds as well
  JudgedLambda run() {
    std::optional<JudgedLambda> low;  // the largest one that is too small
    JudgedLambda high;
    int halvings = target_.iterations;  // of max_lambda
    for (;; --halvings) {
      high = judge(std::ldexp(target_.max_lambda, -halvings));
      if (too_large(high)) break;
      if (halvings == 0) return high;
      low = high;
    }
    for (++halvings; halvings < target_.iterations; ++halvings) {
      JudgedLambda middle = judge((low->lambda + high.lambda) / 2);
      if (too_large(middle))
        high = middle;
      else
        low = middle;
    }
    if (!low) low = judge(0);  // nothing but the weights of the start is left below
    JudgedLambda& best = low->met || !high.met || !holds(high) ? *low : high;
    const bool kept = holds(best);
    best.met = best.met && kept;
    return best;
  }

 private:
  JudgedLambda judge(double lambda) {
    show_(lambda);
    shown_ = lambda;
    JudgedLambda result{.lambda = lambda, .forget = ask_(target_.forget)};
    result.met = result.forget <= target_.forget_bound;
    return result;
  }

  bool too_large(JudgedLambda& candidate) { return candidate.met || !holds(candidate); }

  bool holds(JudgedLambda& candidate) {
    if (!target_.keep) return true;
    if (!candidate.keep) {
      if (shown_ != candidate.lambda) show_(shown_ = candidate.lambda);
      candidate.keep = ask_(target_.keep);
    }
    return *candidate.keep <= target_.keep_bound;
  }

  const EndTarget& target_;
  std::function<void(double)> show_;
  std::function<double(const Judge&)> ask_;
  double shown_ = -1;
};

/// The smallest lambda that meets the target.
ALKN_COMPILED_INLINE TaskReport UnlearnerCore::end_task(const EndTarget& target) {
  const auto checks = [&] {
    settle();
    check_end();
    check_parameters(false);
    TORCH_CHECK_VALUE(target.forget, "alkn::", settings_.owner,
                      ": expected a judge of the forget set, got none (end)");
    TORCH_CHECK_VALUE(
        !std::isnan(target.forget_bound) && !std::isnan(target.keep_bound),
        "alkn::", settings_.owner, ": expected bounds that are numbers, got ",
        text_of({"forget_bound ", target.forget_bound, " and keep_bound ", target.keep_bound}),
        " (end)");
    check_range(settings_.owner, "max_lambda", target.max_lambda, Range::positive_float(), "end");
    TORCH_CHECK_VALUE(target.iterations >= 1, "alkn::", settings_.owner,
                      ": expected iterations in [1, inf), got ", target.iterations, " (end)");
  };
  const auto search = [&] {
    return TargetSearch(
               target, [this](double lambda) { show(lambda); },
               [this](const std::function<double()>& judge) { return ask(judge); })
        .run();
  };
  const auto asked = [&] {
    return text_of({"end() by ", target.iterations, " iterations in [0, ", target.max_lambda, "], ",
                    target.keep ? text_of({"keep_bound ", target.keep_bound})
                                : std::string("no judge of what is kept")});
  };
  const JudgedLambda found = together(
      Call::end, target.forget_bound, checks, [&] { return among_candidates(search); }, asked);
  TaskReport result = end_task(found.lambda, found.lambda < task_lambda());
  result.forget_judged = found.forget;
  result.keep_judged = found.keep;
  result.target_met = found.met;
  return result;
}

}  // namespace alkn::detail
