// Fixed-width tables of at most 100 columns.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "continual/evaluate.hpp"
#include "continual/run.hpp"

namespace continual {

namespace detail {

inline std::string probability(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.3f}", value);
}

inline void print_line(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

inline std::string rule() { return std::string(96, '-'); }

/// A line of the requests' table. The column of general facts takes its place from the name's.
inline std::string request_line(const std::string& name, bool general, const std::string& request,
                                const std::string& earlier, const std::string& rephrased,
                                const std::string& shown, const std::string& unseen,
                                const std::string& facts, const std::string& trained,
                                const std::string& time) {
  const int width = general ? 23 : 28, cell = general ? 9 : 10;
  return fmt::format("{:<{}.{}}{:>{}}{:>10}{:>11}{:>{}}{:>{}}{}{:>9}{:>8}", name, width, width,
                     request, cell, earlier, rephrased, shown, cell, unseen, cell,
                     general ? fmt::format("{:>9}", facts) : "", trained, time);
}

}  // namespace detail

/// The lines above the requests: what the columns are, and the model before any of them.
inline void print_request_header(const Probabilities& before) {
  const bool general = std::isfinite(before.general);
  const auto row = [&](const char* name, const auto&... cells) {
    detail::print_line(detail::request_line(name, general, cells...));
  };
  row("answer probability", "this", "earlier", "rephrased", "kept,", "kept,", "general", "weights",
      "");
  row("after request", "request", "requests", "questions", "shown", "unseen", "facts", "trained",
      "time");
  detail::print_line(detail::rule());
  row("(before; all requests)", detail::probability(before.forgotten), "-",
      detail::probability(before.rephrased), detail::probability(before.shown),
      detail::probability(before.unseen), detail::probability(before.general), "", "");
}

inline void print_request(std::int64_t task, const std::string& name, const TaskRow& row) {
  const Probabilities& p = row.probabilities;
  detail::print_line(
      detail::request_line(fmt::format("{} {}", task + 1, name), std::isfinite(p.general),
                           detail::probability(p.forgotten), detail::probability(p.earlier),
                           detail::probability(p.rephrased), detail::probability(p.shown),
                           detail::probability(p.unseen), detail::probability(p.general),
                           fmt::format("{:.1f}%", 100 * row.fraction_trained),
                           fmt::format("{:.1f}s", row.seconds)) +
      (row.lambda_reduced ? " *" : ""));
  if (!row.target_met) return;
  if (row.negates) {
    detail::print_line(fmt::format("  lambda {:.3g}: {}", row.lambda,
                                   *row.target_met ? "the smallest that forgets enough"
                                                   : "none within the bounds forgets enough"));
  } else {
    detail::print_line(
        fmt::format("  {} steps: {}", row.steps,
                    *row.target_met ? "enough is forgotten" : "they do not forget enough"));
  }
}

/// What each strength that was looked at would have left of a request and of what is kept.
inline void print_sweep(const TaskRow& row) {
  if (row.sweep.empty()) return;
  const auto line = [](const auto&... cells) {
    detail::print_line(fmt::format("  {:>10}{:>14}{:>14}{:>14}{:>14}", cells...));
  };
  line("lambda", "this request", "kept, shown", "kept, unseen", "general facts");
  for (const StrengthRow& strength : row.sweep) {
    const Probabilities& p = strength.probabilities;
    line(fmt::format("{:g}", strength.lambda), detail::probability(p.forgotten),
         detail::probability(p.shown), detail::probability(p.unseen),
         detail::probability(p.general));
  }
}

/// One line of the last table: a method after all requests.
struct MethodRow {
  std::string title;
  Probabilities probabilities;  ///< over all requests
  double fraction_trained = 1;  ///< mean over the requests
  double seconds = 0;
  double seconds_a_step = 0;  ///< mean over the requests
};

/// Each method after all requests; in brackets the share of the value before. General facts, where
/// they were measured, take the place of the share of weights that was trained.
inline void print_comparison(const Probabilities& before, const std::vector<MethodRow>& rows) {
  const auto share = [](double after, double start) {
    return std::isnan(after) ? std::string("-")
                             : fmt::format("{:.3f} ({:>3.0f}%)", after, 100 * after / start);
  };
  const bool general = std::isfinite(before.general);
  const int column = general ? 13 : 14, last = general ? 14 : 9;
  const auto line = [&](const std::string& name, const std::string& forgotten,
                        const std::string& rephrased, const std::string& shown,
                        const std::string& unseen, const std::string& other,
                        const std::string& time) {
    detail::print_line(fmt::format("{:<25.25}{:>{}}{:>{}}{:>{}}{:>{}}{:>{}}{:>8}", name, forgotten,
                                   column, rephrased, column, shown, column, unseen, column, other,
                                   last, time));
  };
  line("after all requests", "forgotten", "rephrased", "kept, shown", "kept, unseen",
       general ? "general facts" : "trained", "time");
  detail::print_line(detail::rule() + "--");
  line("(before)", share(before.forgotten, before.forgotten),
       share(before.rephrased, before.rephrased), share(before.shown, before.shown),
       share(before.unseen, before.unseen), general ? share(before.general, before.general) : "",
       "");
  for (const MethodRow& row : rows) {
    const Probabilities& p = row.probabilities;
    line(row.title, share(p.forgotten, before.forgotten), share(p.rephrased, before.rephrased),
         share(p.shown, before.shown), share(p.unseen, before.unseen),
         general ? share(p.general, before.general)
                 : fmt::format("{:.1f}%", 100 * row.fraction_trained),
         fmt::format("{:.1f}s", row.seconds));
  }
}

}  // namespace continual
