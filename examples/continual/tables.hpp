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

}  // namespace detail

/// The lines above the requests: what the columns are, and the model before any of them.
inline void print_request_header(const Probabilities& before) {
  const auto row = [](const auto&... cells) {
    detail::print_line(fmt::format("{:<28.28}{:>10}{:>10}{:>11}{:>10}{:>10}{:>9}{:>8}", cells...));
  };
  row("answer probability", "this", "earlier", "rephrased", "kept,", "kept,", "weights", "");
  row("after request", "request", "requests", "questions", "shown", "unseen", "trained", "time");
  detail::print_line(detail::rule());
  row("(before; all requests)", detail::probability(before.forgotten), "-",
      detail::probability(before.rephrased), detail::probability(before.shown),
      detail::probability(before.unseen), "", "");
}

inline void print_request(std::int64_t task, const std::string& name, const TaskRow& row) {
  const Probabilities& p = row.probabilities;
  detail::print_line(fmt::format("{:<28.28}{:>10}{:>10}{:>11}{:>10}{:>10}{:>8.1f}%{:>7.1f}s{}",
                                 fmt::format("{} {}", task + 1, name),
                                 detail::probability(p.forgotten), detail::probability(p.earlier),
                                 detail::probability(p.rephrased), detail::probability(p.shown),
                                 detail::probability(p.unseen), 100 * row.fraction_trained,
                                 row.seconds, row.lambda_reduced ? " *" : ""));
}

/// One line of the last table: a method after all requests.
struct MethodRow {
  std::string title;
  Probabilities probabilities;  ///< over all requests
  double fraction_trained = 1;  ///< mean over the requests
  double seconds = 0;
};

/// Each method after all requests; in brackets the share of the value before.
inline void print_comparison(const Probabilities& before, const std::vector<MethodRow>& rows) {
  const auto share = [](double after, double start) {
    return std::isnan(after) ? std::string("-")
                             : fmt::format("{:.3f} ({:>3.0f}%)", after, 100 * after / start);
  };
  const auto line = [](const auto&... cells) {
    detail::print_line(fmt::format("{:<25.25}{:>14}{:>14}{:>14}{:>14}{:>9}{:>8}", cells...));
  };
  line("after all requests", "forgotten", "rephrased", "kept, shown", "kept, unseen", "trained",
       "time");
  detail::print_line(detail::rule() + "--");
  line("(before)", share(before.forgotten, before.forgotten),
       share(before.rephrased, before.rephrased), share(before.shown, before.shown),
       share(before.unseen, before.unseen), "", "");
  for (const MethodRow& row : rows) {
    const Probabilities& p = row.probabilities;
    line(row.title, share(p.forgotten, before.forgotten), share(p.rephrased, before.rephrased),
         share(p.shown, before.shown), share(p.unseen, before.unseen),
         fmt::format("{:.1f}%", 100 * row.fraction_trained), fmt::format("{:.1f}s", row.seconds));
  }
}

}  // namespace continual
