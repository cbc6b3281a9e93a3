// tofu_metrics LOG [REFERENCE_LOG] [--json]: the metrics of TOFU from evaluation logs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "cli/numbers.hpp"
#include "report.hpp"
#include "tofu_log.hpp"

namespace {

constexpr double kLn10 = 2.302585092994045684;

std::string cell(const tofu::Estimate& estimate) {
  return fmt::format("{:.6f} [{:.3f}, {:.3f}]", estimate.value, estimate.interval.lower,
                     estimate.interval.upper);
}

/// At most 100 columns, names of files aside.
std::string table(const tofu::Report& report, const std::string& log, const std::string& reference,
                  const alkn::eval::BootstrapOptions& options) {
  std::string text = fmt::format("log        {}\n", log);
  text += fmt::format("reference  {}\n\n", reference.empty() ? "none" : reference);
  text += fmt::format("{:<14}{:>9}   {:<25}{:<25}{}\n", "set", "questions", "probability",
                      "ROUGE-L recall", "truth ratio");
  for (const tofu::SetReport& set : report.sets) {
    text += fmt::format("{:<14}{:>9}   {:<25}{:<25}{}\n", set.name, set.questions,
                        cell(set.probability), cell(set.rouge), cell(set.truth_ratio));
  }
  text += fmt::format("\n{:<17}{}\n", "model utility", cell(report.model_utility));
  if (report.forget_quality) {
    const auto& quality = *report.forget_quality;
    text += fmt::format("{:<17}p = {:.6g}, log10 p = {:.4f}\n", "forget quality", quality.p_value,
                        quality.log_p_value / kLn10);
    text += fmt::format("{:<17}{}\n", "distance D",
                        cell({quality.distance, report.forget_distance_interval}));
  } else {
    text += fmt::format("{:<17}needs a reference log\n", "forget quality");
  }
  return text + fmt::format(
                    "\n[ ]: {:g} % bootstrap intervals, {} resamples, seed {}; drawn again are "
                    "authors of\nretain and forget (20 questions each), questions of the "
                    "others.\n",
                    100 * options.confidence, options.resamples, options.seed);
}

nlohmann::ordered_json interval(const alkn::eval::Interval& value) {
  return {value.lower, value.upper};
}

std::string json(const tofu::Report& report, const alkn::eval::BootstrapOptions& options) {
  nlohmann::ordered_json result;
  result["model_utility"] = report.model_utility.value;
  result["model_utility_interval"] = interval(report.model_utility.interval);
  result["forget_quality"] = nullptr;
  if (report.forget_quality) {
    result["forget_quality"] = report.forget_quality->p_value;
    result["forget_quality_log_p"] = report.forget_quality->log_p_value;
    result["forget_distance"] = report.forget_quality->distance;
    result["forget_distance_interval"] = interval(report.forget_distance_interval);
  }
  for (const tofu::SetReport& set : report.sets) {
    result[set.name] = {{"questions", set.questions},
                        {"probability", set.probability.value},
                        {"probability_interval", interval(set.probability.interval)},
                        {"rouge", set.rouge.value},
                        {"rouge_interval", interval(set.rouge.interval)},
                        {"truth_ratio", set.truth_ratio.value},
                        {"truth_ratio_interval", interval(set.truth_ratio.interval)}};
  }
  result["bootstrap"] = {
      {"confidence", options.confidence}, {"resamples", options.resamples}, {"seed", options.seed}};
  return result.dump(2) + "\n";
}

int run(int argc, char** argv) {
  CLI::App app{"The metrics of TOFU from evaluation logs in its published format.", "tofu_metrics"};
  std::string log_file, reference_file;
  bool as_json = false;
  alkn::eval::BootstrapOptions options;
  app.add_option("LOG", log_file, "log of the model to be judged")->required();
  app.add_option("REFERENCE_LOG", reference_file,
                 "log of a model trained without the forget set, for forget quality");
  app.add_flag("--json", as_json, "print JSON");
  app.add_option("--resamples", options.resamples, "bootstrap resamples")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the bootstrap")
      ->check(cli::whole_number())
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const tofu::Log log = tofu::read_log(log_file);
  std::optional<tofu::Log> reference;
  if (!reference_file.empty()) reference = tofu::read_log(reference_file);
  const tofu::Report report = tofu::make_report(log, reference ? &*reference : nullptr, options);
  const std::string text =
      as_json ? json(report, options) : table(report, log_file, reference_file, options);
  if (std::fputs(text.c_str(), stdout) == EOF || std::fflush(stdout) != 0) {
    throw std::runtime_error("tofu_metrics: expected to write the result, got an error");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
