// Every metric of one model, in the form of results.json (scripts/report/schema.json).
#pragma once

#include <alkn/eval/eval.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "continual/json.hpp"
#include "experiment/language_model.hpp"
#include "experiment/world.hpp"

namespace experiment {

using continual::Json;

struct MeasureSettings {
  std::int64_t resamples = 1000;  ///< of the bootstrap
  std::int64_t samples = 4;       ///< k of the sampled leakage
  std::int64_t leakage_questions = 60;
  std::uint64_t seed = 1;
};

/// What the gold model, which never saw the forget set, says; the unlearned model is held against
/// it.
struct GoldValues {
  Eigen::ArrayXd truth_ratios;               ///< of the forget set
  std::map<std::string, double> membership;  ///< AUC by attack
  [[nodiscard]] bool empty() const { return truth_ratios.size() == 0; }
};

class Measure {
 public:
  Measure(const World& world, const continual::Tokenizer& tokenizer, MeasureSettings settings);

  /// Probabilities alone: what a sweep needs.
  [[nodiscard]] Json probabilities(continual::Transformer& net) const;

  /// Mean probability of the answers of one set.
  [[nodiscard]] double probability(continual::Transformer& net, const Questions& questions) const;

  /// Truth ratios of one set.
  [[nodiscard]] Eigen::ArrayXd truth_ratios(continual::Transformer& net,
                                            const QuestionSet& set) const;

  /// The schema's `metrics`, forget quality against `gold` where it is given.
  /// @param full_utility whether utility has nine parts where the data has them, or three
  [[nodiscard]] Json metrics(continual::Transformer& net, const GoldValues& gold,
                             bool full_utility) const;

  /// The schema's `membership`; PrivLeak against `gold` where it is given.
  [[nodiscard]] Json membership(continual::Transformer& net, const GoldValues& gold) const;

  [[nodiscard]] GoldValues gold_values(continual::Transformer& net) const;

  /// Forget quality between truth ratios of the forget sets of the first `tasks` requests.
  [[nodiscard]] Json forget_quality(const Eigen::ArrayXd& ratios, const Eigen::ArrayXd& gold,
                                    std::int64_t tasks) const;

  /// The greedy answers.
  [[nodiscard]] std::vector<std::string> answers(continual::Transformer& net,
                                                 const Questions& questions) const;

  /// Whether some part of the nine-part utility is at its floor: the retain triple then stands for
  /// it.
  [[nodiscard]] bool at_floor(continual::Transformer& net) const;

  [[nodiscard]] const QuestionSet& forgotten() const { return forgotten_; }
  [[nodiscard]] const World& world() const { return world_; }

 private:
  [[nodiscard]] alkn::eval::BootstrapOptions bootstrap() const;
  [[nodiscard]] Json mean(const Eigen::ArrayXd& values, const QuestionSet& set) const;

  const World& world_;
  const continual::Tokenizer& tokenizer_;
  MeasureSettings settings_;
  QuestionSet forgotten_, retain_;
};

}  // namespace experiment
