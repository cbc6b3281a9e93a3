#include "experiment/measure.hpp"

#include <alkn/eval/compressed_size.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <utility>

namespace experiment {
namespace {

using alkn::eval::Attack;
using alkn::eval::Clusters;
using alkn::eval::Interval;
using alkn::eval::Positions;
using continual::number;
using continual::Transformer;
using Eigen::ArrayXd;

constexpr std::array kAttacks{std::pair{Attack::loss, "loss"}, std::pair{Attack::zlib, "zlib"},
                              std::pair{Attack::min_k, "min_k"},
                              std::pair{Attack::min_k_plus_plus, "min_k_plus_plus"}};

Json measured(double value, const Interval& interval) {
  return {
      {"value", number(value)}, {"low", number(interval.lower)}, {"high", number(interval.upper)}};
}

/// A harness over one model, for the time of one measurement.
struct Asked {
  Asked(Transformer& net, const continual::Tokenizer& tokenizer)
      : model{net}, harness(model, tokenizer, prompt_options(net), &net) {}
  LanguageModel model;
  ModelHarness harness;
};

/// The wrong answers' losses, [questions, wrong answers].
Eigen::ArrayXXd wrong_losses(const ModelHarness& harness, const QuestionSet& set) {
  const std::size_t columns = set.wrong.front().size();
  Questions all;
  for (std::size_t i = 0; i < set.asked.size(); ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      all.push_back({set.asked[i].question, set.wrong[i].at(j)});
    }
  }
  const ArrayXd flat = harness.losses(all);
  Eigen::ArrayXXd table(static_cast<Eigen::Index>(set.asked.size()),
                        static_cast<Eigen::Index>(columns));
  for (Eigen::Index i = 0; i < table.rows(); ++i) {
    for (Eigen::Index j = 0; j < table.cols(); ++j) {
      table(i, j) = flat[i * table.cols() + j];
    }
  }
  return table;
}

/// ROUGE-L recall of each answer; a reference without a word of letters and digits scores 0.
ArrayXd rouge(const Questions& questions, const std::vector<std::string>& texts) {
  ArrayXd values(static_cast<Eigen::Index>(questions.size()));
  for (std::size_t i = 0; i < questions.size(); ++i) {
    values[static_cast<Eigen::Index>(i)] =
        alkn::eval::rouge_tokens(questions[i].answer).empty()
            ? 0.0
            : alkn::eval::rouge_l_recall(questions[i].answer, texts[i]);
  }
  return values;
}

/// Probability, ROUGE and truth ratio, question by question.
struct Triple {
  ArrayXd probability, rouge, truth_ratio;

  [[nodiscard]] alkn::eval::SetMetrics means(const Positions& drawn) const {
    return {probability(drawn).mean(), rouge(drawn).mean(), truth_ratio(drawn).mean()};
  }
  [[nodiscard]] alkn::eval::SetMetrics means() const {
    return {probability.mean(), rouge.mean(), truth_ratio.mean()};
  }
};

/// @param choices whether the answer is one of given choices, as for real authors and world facts
Triple triple(const ModelHarness& harness, const QuestionSet& set, bool choices) {
  const ArrayXd losses = harness.losses(set.asked);
  const Eigen::ArrayXXd wrong = wrong_losses(harness, set);
  const ArrayXd ratios = alkn::eval::truth_ratio(harness.losses(set.paraphrased), wrong);
  return {
      choices ? alkn::eval::normalized_probability(losses, wrong) : alkn::eval::probability(losses),
      rouge(set.asked, harness.generate(set.asked)), alkn::eval::retain_truth_ratio(ratios)};
}

Clusters clusters(const QuestionSet& set) { return alkn::eval::clusters_of(set.authors); }

/// What an attack goes by, one score a sequence.
ArrayXd scores(Attack attack, const std::vector<alkn::eval::AnswerScores>& sequences,
               const Questions& questions) {
  ArrayXd values(static_cast<Eigen::Index>(sequences.size()));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const alkn::eval::AnswerScores& s = sequences[i];
    const auto at = static_cast<Eigen::Index>(i);
    switch (attack) {
      case Attack::loss:
        values[at] = s.loss;
        break;
      case Attack::zlib:
        values[at] =
            alkn::eval::zlib_score(s.loss, alkn::eval::compressed_size(questions[i].answer));
        break;
      case Attack::min_k:
        values[at] = alkn::eval::min_k_score(s.log_probabilities);
        break;
      case Attack::min_k_plus_plus:
        values[at] = alkn::eval::min_k_plus_plus_score(s.log_probabilities, s.moments);
        break;
    }
  }
  return values;
}

/// The first `tasks` requests' part of a list of values over all forgotten questions.
Eigen::Index forgotten_size(const World& world, std::int64_t tasks) {
  std::size_t size = 0;
  for (std::int64_t t = 0; t < tasks; ++t) {
    size += world.tasks[static_cast<std::size_t>(t)].asked.size();
  }
  return static_cast<Eigen::Index>(size);
}

}  // namespace

Measure::Measure(const World& world, const continual::Tokenizer& tokenizer,
                 MeasureSettings settings)
    : world_(world),
      tokenizer_(tokenizer),
      settings_(settings),
      forgotten_(joined(world.tasks)),
      retain_(joined({world.shown, world.unseen})) {}

alkn::eval::BootstrapOptions Measure::bootstrap() const {
  return {.resamples = settings_.resamples, .confidence = 0.95, .seed = settings_.seed};
}

Json Measure::mean(const ArrayXd& values, const QuestionSet& set) const {
  return measured(values.mean(), alkn::eval::bootstrap_mean(values, bootstrap(), clusters(set)));
}

double Measure::probability(Transformer& net, const Questions& questions) const {
  if (questions.empty()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return alkn::eval::probability(Asked(net, tokenizer_).harness.losses(questions)).mean();
}

Json Measure::probabilities(Transformer& net) const {
  return {{"forgotten", number(probability(net, forgotten_.asked))},
          {"shown", number(probability(net, world_.shown.asked))},
          {"unseen", number(probability(net, world_.unseen.asked))},
          {"selection", number(probability(net, world_.selection.asked))},
          {"rephrased", number(probability(net, forgotten_.rephrased))}};
}

ArrayXd Measure::truth_ratios(Transformer& net, const QuestionSet& set) const {
  const Asked asked(net, tokenizer_);
  return alkn::eval::truth_ratio(asked.harness.losses(set.paraphrased),
                                 wrong_losses(asked.harness, set));
}

Json Measure::forget_quality(const ArrayXd& ratios, const ArrayXd& gold, std::int64_t tasks) const {
  const Eigen::Index size = forgotten_size(world_, tasks);
  const ArrayXd a = ratios.head(size), b = gold.head(size);
  const auto quality = alkn::eval::forget_quality(a, b);
  const std::vector<std::int64_t> authors(forgotten_.authors.begin(),
                                          forgotten_.authors.begin() + size);
  const Interval interval = alkn::eval::bootstrap_interval(
      [&](const Positions& drawn) { return alkn::eval::ks_distance(a(drawn), b(drawn)); },
      bootstrap(), alkn::eval::clusters_of(authors));
  return {{"log_p", number(quality.log_p_value)},
          {"distance", measured(quality.distance, interval)}};
}

Json Measure::metrics(Transformer& net, const GoldValues& gold, bool full_utility) const {
  const Asked asked(net, tokenizer_);
  const ModelHarness& harness = asked.harness;
  Json sets, result;

  {  // what was to be forgotten
    const ArrayXd ratios = truth_ratios(net, forgotten_);
    const auto sequences = harness.scores(forgotten_.asked);
    const auto size = static_cast<Eigen::Index>(sequences.size());
    ArrayXd probability(size), extraction(size), exact(size);
    for (Eigen::Index i = 0; i < size; ++i) {
      const auto& s = sequences[static_cast<std::size_t>(i)];
      probability[i] = std::exp(-s.loss);
      extraction[i] = alkn::eval::extraction_strength(s.predicted, s.answer);
      exact[i] = alkn::eval::exact_memorization(s.predicted, s.answer);
    }
    sets["forgotten"] = {
        {"probability", mean(probability, forgotten_)},
        {"rouge", mean(rouge(forgotten_.asked, harness.generate(forgotten_.asked)), forgotten_)},
        {"truth_ratio", mean(alkn::eval::forget_truth_ratio(ratios), forgotten_)},
        {"extraction_strength", mean(extraction, forgotten_)},
        {"exact_memorization", mean(exact, forgotten_)}};
    if (!gold.empty()) {
      result["forget_quality"] =
          forget_quality(ratios, gold.truth_ratios, static_cast<std::int64_t>(world_.tasks.size()));
    }
  }
  {  // the worst of k sampled answers, of evenly spread questions
    const auto total = static_cast<std::int64_t>(forgotten_.asked.size());
    const std::int64_t count = std::min(settings_.leakage_questions, total);
    QuestionSet some;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i * total / count);
      some.asked.push_back(forgotten_.asked[at]);
      some.authors.push_back(forgotten_.authors[at]);
    }
    ArrayXd worst = ArrayXd::Zero(count);
    for (std::int64_t k = 0; k < settings_.samples; ++k) {
      const auto seed = settings_.seed + static_cast<std::uint64_t>(k);
      worst = worst.max(rouge(some.asked, harness.sample(some.asked, 1.0, seed)));
    }
    sets["forgotten"]["leakage"] = mean(worst, some);
  }
  const Triple shown = triple(harness, world_.shown, false);
  const Triple unseen = triple(harness, world_.unseen, false);
  for (const auto& [name, values, set] : {std::tuple{"shown", &shown, &world_.shown},
                                          std::tuple{"unseen", &unseen, &world_.unseen}}) {
    sets[name] = {{"probability", mean(values->probability, *set)},
                  {"rouge", mean(values->rouge, *set)},
                  {"truth_ratio", mean(values->truth_ratio, *set)}};
  }
  const auto probability_of = [&](const char* name, const Questions& questions,
                                  const QuestionSet& set) {
    if (!questions.empty()) {
      sets[name] = {{"probability", mean(alkn::eval::probability(harness.losses(questions)), set)}};
    }
  };
  probability_of("rephrased", forgotten_.rephrased, forgotten_);
  probability_of("rephrased_shown", world_.shown.rephrased, world_.shown);
  probability_of("rephrased_unseen", world_.unseen.rephrased, world_.unseen);
  probability_of("mixed_forgotten", world_.mixed_forgotten.asked, world_.mixed_forgotten);
  probability_of("mixed_kept", world_.mixed_kept.asked, world_.mixed_kept);

  // Utility: of what is kept and shown or never shown, and, where the data has them and the model
  // knows anything of them, of real authors and world facts.
  const auto stack = [](const ArrayXd& a, const ArrayXd& b) {
    ArrayXd both(a.size() + b.size());
    both << a, b;
    return both;
  };
  const Triple retain{stack(shown.probability, unseen.probability),
                      stack(shown.rouge, unseen.rouge),
                      stack(shown.truth_ratio, unseen.truth_ratio)};
  sets["retain"] = {{"probability", mean(retain.probability, retain_)},
                    {"rouge", mean(retain.rouge, retain_)},
                    {"truth_ratio", mean(retain.truth_ratio, retain_)}};
  if (world_.real_authors && world_.world_facts) {
    const Triple authors = triple(harness, *world_.real_authors, true);
    const Triple facts = triple(harness, *world_.world_facts, true);
    for (const auto& [name, values, set] :
         {std::tuple{"real_authors", &authors, &*world_.real_authors},
          std::tuple{"world_facts", &facts, &*world_.world_facts}}) {
      sets[name] = {{"probability", mean(values->probability, *set)},
                    {"rouge", mean(values->rouge, *set)},
                    {"truth_ratio", mean(values->truth_ratio, *set)}};
    }
    if (full_utility) {
      const Interval interval = alkn::eval::bootstrap_interval(
          [&](const Positions& r, const Positions& a, const Positions& f) {
            return alkn::eval::model_utility(retain.means(r), authors.means(a), facts.means(f));
          },
          bootstrap(), clusters(retain_), clusters(*world_.real_authors),
          clusters(*world_.world_facts));
      result["utility"] = measured(
          alkn::eval::model_utility(retain.means(), authors.means(), facts.means()), interval);
      result["utility_parts"] = 9;
    }
  }
  if (!result.contains("utility")) {
    const auto three = [](const alkn::eval::SetMetrics& m) {
      return alkn::eval::harmonic_mean(Eigen::Array3d(m.probability, m.rouge, m.truth_ratio));
    };
    result["utility"] = measured(
        three(retain.means()),
        alkn::eval::bootstrap_interval([&](const Positions& r) { return three(retain.means(r)); },
                                       bootstrap(), clusters(retain_)));
    result["utility_parts"] = 3;
  }
  result["sets"] = std::move(sets);
  return result;
}

bool Measure::at_floor(Transformer& net) const {
  if (!world_.real_authors || !world_.world_facts) {
    return true;
  }
  constexpr double kFloor = 0.05;
  const Asked asked(net, tokenizer_);
  for (const QuestionSet* set : {&*world_.real_authors, &*world_.world_facts}) {
    const auto means = triple(asked.harness, *set, true).means();
    if (std::min({means.probability, means.rouge, means.truth_ratio}) < kFloor) {
      return true;
    }
  }
  return false;
}

GoldValues Measure::gold_values(Transformer& net) const {
  GoldValues values{truth_ratios(net, forgotten_), {}};
  const Json auc = membership(net, {});
  for (const auto& [name, attack] : auc.items()) {
    values.membership[name] = attack["auc"]["value"].get<double>();
  }
  return values;
}

Json Measure::membership(Transformer& net, const GoldValues& gold) const {
  const Asked asked(net, tokenizer_);
  const Questions &forgotten = forgotten_.asked, &held_out = world_.held_out.asked;
  const auto forgotten_scores = asked.harness.scores(forgotten);
  const auto held_out_scores = asked.harness.scores(held_out);
  Json result;
  for (const auto& [attack, name] : kAttacks) {
    const Attack kind = attack;  // a structured binding, which a lambda may not hold
    const ArrayXd a = scores(kind, forgotten_scores, forgotten);
    const ArrayXd b = scores(kind, held_out_scores, held_out);
    const double value = alkn::eval::membership_auc(kind, a, b);
    const Interval interval = alkn::eval::bootstrap_interval(
        [&](const Positions& in_a, const Positions& in_b) {
          return alkn::eval::membership_auc(kind, a(in_a), b(in_b));
        },
        bootstrap(), clusters(forgotten_), clusters(world_.held_out));
    result[name] = {{"auc", measured(value, interval)}};
    if (!gold.empty() && gold.membership.at(name) < 1) {
      result[name]["privleak"] =
          number(alkn::eval::privacy_leakage(value, gold.membership.at(name)));
    }
  }
  return result;
}

std::vector<std::string> Measure::answers(Transformer& net, const Questions& questions) const {
  return Asked(net, tokenizer_).harness.generate(questions);
}

}  // namespace experiment
