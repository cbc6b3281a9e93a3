// Every metric that a TOFU log allows, with bootstrap intervals.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "alkn/eval/eval.hpp"
#include "tofu_log.hpp"

namespace tofu {

/// A statistic of the questions, and its bootstrap interval.
struct Estimate {
  double value;
  alkn::eval::Interval interval;
};

/// The three values of every question, whose means are the metrics of the set.
struct SetValues {
  Eigen::ArrayXd probability;
  Eigen::ArrayXd rouge;
  Eigen::ArrayXd truth_ratio;
  alkn::eval::Clusters clusters;  ///< which questions are drawn together

  /// The means over some of the questions.
  alkn::eval::SetMetrics means(const alkn::eval::Positions& drawn) const {
    return {probability(drawn).mean(), rouge(drawn).mean(), truth_ratio(drawn).mean()};
  }
  alkn::eval::SetMetrics means() const {
    return {probability.mean(), rouge.mean(), truth_ratio.mean()};
  }
};

struct SetReport {
  std::string name;
  int64_t questions;
  Estimate probability, rouge, truth_ratio;
};

struct Report {
  std::vector<SetReport> sets;  ///< retain, real_authors, world_facts, forget
  Estimate model_utility;
  std::optional<alkn::eval::ForgetQuality> forget_quality;  ///< only against a reference
  alkn::eval::Interval forget_distance_interval{};
};

namespace detail {

/// TOFU has twenty questions an author, one author after the other; a question without a number
/// stands for itself.
inline alkn::eval::Clusters author_clusters(const std::vector<std::string>& ids) {
  std::vector<int64_t> authors;
  for (const std::string& id : ids) {
    int64_t number = 0;
    const char* end = id.data() + id.size();
    const auto [stop, error] = std::from_chars(id.data(), end, number);
    const bool is_number = error == std::errc() && stop == end && number >= 0;
    authors.push_back(is_number ? number / 20 : -1 - static_cast<int64_t>(authors.size()));
  }
  return alkn::eval::clusters_of(authors);
}

/// Fictitious authors: the answer's probability as it is.
inline SetValues author_values(const QuestionSet& set, bool is_forget_set) {
  const Eigen::ArrayXd ratios = alkn::eval::truth_ratio(set.paraphrased_losses, set.wrong_losses);
  return {alkn::eval::probability(set.answer_losses), set.rouge,
          is_forget_set ? alkn::eval::forget_truth_ratio(ratios)
                        : alkn::eval::retain_truth_ratio(ratios),
          author_clusters(set.ids)};
}

/// Real authors and world facts: the answer's probability among the choices.
inline SetValues choice_values(const QuestionSet& set) {
  const Eigen::ArrayXd ratios = alkn::eval::truth_ratio(set.paraphrased_losses, set.wrong_losses);
  return {alkn::eval::normalized_probability(set.answer_losses, set.wrong_losses), set.rouge,
          alkn::eval::retain_truth_ratio(ratios),
          alkn::eval::single_clusters(static_cast<Eigen::Index>(set.ids.size()))};
}

inline SetReport report_of(const std::string& name, const SetValues& values,
                           const alkn::eval::BootstrapOptions& options) {
  const auto estimate = [&](const Eigen::ArrayXd& metric) -> Estimate {
    return {metric.mean(), alkn::eval::bootstrap_mean(metric, options, values.clusters)};
  };
  return {name, values.rouge.size(), estimate(values.probability), estimate(values.rouge),
          estimate(values.truth_ratio)};
}

inline void add_forget_quality(Report& report, const QuestionSet& forget,
                               const QuestionSet& reference,
                               const alkn::eval::BootstrapOptions& options) {
  using alkn::eval::Positions;
  const Eigen::ArrayXd a = alkn::eval::truth_ratio(forget.paraphrased_losses, forget.wrong_losses);
  const Eigen::ArrayXd b =
      alkn::eval::truth_ratio(reference.paraphrased_losses, reference.wrong_losses);
  report.forget_quality = alkn::eval::forget_quality(a, b);
  if (forget.ids == reference.ids) {  // two models on the same questions are drawn together
    report.forget_distance_interval = alkn::eval::bootstrap_interval(
        [&](const Positions& drawn) { return alkn::eval::ks_distance(a(drawn), b(drawn)); },
        options, author_clusters(forget.ids));
  } else {
    report.forget_distance_interval = alkn::eval::bootstrap_interval(
        [&](const Positions& in_a, const Positions& in_b) {
          return alkn::eval::ks_distance(a(in_a), b(in_b));
        },
        options, author_clusters(forget.ids), author_clusters(reference.ids));
  }
}

}  // namespace detail

/// @param reference the log of a model that was trained without the forget set, or null
inline Report make_report(const Log& log, const Log* reference,
                          const alkn::eval::BootstrapOptions& options) {
  using alkn::eval::Positions;
  const SetValues retain = detail::author_values(log.retain, false);
  const SetValues authors = detail::choice_values(log.real_authors);
  const SetValues facts = detail::choice_values(log.world_facts);
  const SetValues forget = detail::author_values(log.forget, true);
  Report report;
  report.sets = {detail::report_of("retain", retain, options),
                 detail::report_of("real_authors", authors, options),
                 detail::report_of("world_facts", facts, options),
                 detail::report_of("forget", forget, options)};
  report.model_utility.value =
      alkn::eval::model_utility(retain.means(), authors.means(), facts.means());
  report.model_utility.interval = alkn::eval::bootstrap_interval(
      [&](const Positions& in_retain, const Positions& in_authors, const Positions& in_facts) {
        return alkn::eval::model_utility(retain.means(in_retain), authors.means(in_authors),
                                         facts.means(in_facts));
      },
      options, retain.clusters, authors.clusters, facts.clusters);
  if (reference != nullptr) {
    detail::add_forget_quality(report, log.forget, reference->forget, options);
  }
  return report;
}

}  // namespace tofu
