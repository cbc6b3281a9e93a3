// What a model still knows, on fixed questions, and what teaching brings back.
#pragma once

#include <alkn/eval/eval.hpp>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/linear_schedule.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "continual/evaluate.hpp"
#include "continual/json.hpp"
#include "experiment/smollm2/checkpoint_model.hpp"
#include "experiment/smollm2/settings.hpp"
#include "experiment/smollm2/subject.hpp"

namespace smollm2 {

using continual::number;

/// Mean negative log-likelihood a token of each sample's answer.
inline Eigen::ArrayXd losses(continual::Model& model, const continual::Samples& samples) {
  const at::NoGradGuard no_grad;
  Eigen::ArrayXd result(std::ssize(samples));
  for (const auto& batch : continual::batches_by_length(samples, model.evaluation_batch())) {
    const at::Tensor nll = alkn::sequence_nll(model.logits(batch), batch.labels)
                               .div(alkn::valid_tokens(batch.labels))
                               .to(at::kDouble);
    for (std::int64_t row = 0; row < nll.size(0); ++row) {
      result[batch.ids.const_data_ptr<std::int64_t>()[row]] = nll.const_data_ptr<double>()[row];
    }
  }
  return result;
}

/// Puts the weights back when it goes.
class KeptWeights {
 public:
  explicit KeptWeights(const continual::Model& model) {
    for (const auto& [name, parameter] : continual::trainable(model)) {
      const bool tied = std::any_of(parameters_.begin(), parameters_.end(),
                                    [&](const auto& other) { return other.is_same(parameter); });
      if (tied) continue;
      parameters_.push_back(parameter);
      weights_.push_back(parameter.detach().clone());
    }
  }
  ~KeptWeights() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      parameters_[i].copy_(weights_[i]);
      parameters_[i].mutable_grad().reset();
    }
  }
  KeptWeights(const KeptWeights&) = delete;
  KeptWeights& operator=(const KeptWeights&) = delete;

  /// Each once.
  [[nodiscard]] const std::vector<at::Tensor>& parameters() const { return parameters_; }

 private:
  std::vector<at::Tensor> parameters_, weights_;
};

class Measure {
 public:
  Measure(CheckpointModel& model, const tokenizers::FolderTokenizer& tokenizer, const World& world,
          const Settings& settings, std::uint64_t seed)
      : model_(model),
        tokenizer_(tokenizer),
        world_(world),
        settings_(settings),
        seed_(seed),
        forgotten_(experiment::joined(std::vector<QuestionSet>(
            world.tasks.begin(), world.tasks.begin() + settings.answered()))) {}

  /// Mean answer probability of what a request asks to forget, on few pairs: what judges it.
  [[nodiscard]] double judge(std::size_t request) const {
    return probability(spread(world_.tasks[request].asked, settings_.judged));
  }

  /// Answer probabilities of what is kept, beside those of the first `done` requests.
  [[nodiscard]] Json knowledge(std::size_t done) const {
    Json result = Json::object();
    if (done > 0) {
      result["request"] = number(known(world_.tasks[done - 1], settings_.asked));
    }
    if (done > 1) {
      const std::vector<QuestionSet> earlier(
          world_.tasks.begin(), world_.tasks.begin() + static_cast<std::ptrdiff_t>(done) - 1);
      result["earlier"] = number(known(experiment::joined(earlier), settings_.asked));
    }
    result["shown"] = number(known(world_.shown, settings_.asked));
    result["unseen"] = number(known(world_.unseen, settings_.asked));
    return result;
  }

  /// Knowledge from pre-training, of `count` questions each: the share of the right answer among
  /// all that are given, and how often it is the likeliest. Without end tokens: these answers are
  /// short, which nothing that the model was taught is.
  [[nodiscard]] Json pretraining(std::int64_t count) const {
    Json result = Json::object();
    const auto add = [&](const char* name, const std::optional<QuestionSet>& set) {
      if (!set) return;
      const QuestionSet some = spread(*set, count);
      const Eigen::ArrayXd right = nll(some.asked, End::left_out);
      const Eigen::ArrayXXd wrong = wrong_losses(some, End::left_out);
      const double best = (right < wrong.rowwise().minCoeff()).template cast<double>().mean();
      result[name] = {
          {"probability", number(alkn::eval::normalized_probability(right, wrong).mean())},
          {"accuracy", best},
          {"answer", number((-right).exp().mean())}};
    };
    add("real_authors", world_.real_authors);
    add("world_facts", world_.world_facts);
    return result;
  }

  /// Everything, once all requests that are to be answered are.
  [[nodiscard]] Json all() const {
    Json result = knowledge(0);
    result["forgotten"] = number(known(forgotten_, 2 * settings_.asked));
    result.update(pretraining(2 * settings_.asked));
    for (const auto& [name, set] :
         {std::pair{"forgotten", &forgotten_}, std::pair{"shown", &world_.shown},
          std::pair{"unseen", &world_.unseen}}) {
      result["rouge"][name] = number(rouge(spread(*set, settings_.generated).asked));
    }
    const QuestionSet told = spread(forgotten_, settings_.told);
    const Eigen::ArrayXd ratios =
        alkn::eval::truth_ratio(nll(told.paraphrased), wrong_losses(told));
    result["truth_ratio"] = number(alkn::eval::forget_truth_ratio(ratios).mean());
    result["truth_ratios"] = std::vector<double>(ratios.begin(), ratios.end());
    result["relearned"] = relearn();
    return result;
  }

  /// Forget quality of truth ratios against those of the gold model.
  static Json forget_quality(const std::vector<double>& ratios, const std::vector<double>& gold) {
    const auto array = [](const std::vector<double>& values) {
      return Eigen::ArrayXd(Eigen::Map<const Eigen::ArrayXd>(
          values.data(), static_cast<Eigen::Index>(values.size())));
    };
    const auto quality = alkn::eval::forget_quality(array(ratios), array(gold));
    return {{"distance", quality.distance}, {"p", quality.p_value}};
  }

 private:
  enum class End { counts, left_out };

  [[nodiscard]] Eigen::ArrayXd nll(const Questions& questions, End end = End::counts) const {
    continual::Samples samples = encode(tokenizer_, questions, model_.context());
    if (end == End::left_out) {
      for (continual::Sample& sample : samples) {
        if (!sample.cut) sample.labels.back() = continual::kNotCounted;
      }
    }
    return losses(model_, samples);
  }
  [[nodiscard]] double probability(const Questions& questions) const {
    return (-nll(questions)).exp().mean();
  }
  [[nodiscard]] double known(const QuestionSet& set, std::int64_t count) const {
    return probability(spread(set, count).asked);
  }

  /// [questions, wrong answers]
  [[nodiscard]] Eigen::ArrayXXd wrong_losses(const QuestionSet& set, End end = End::counts) const {
    const auto columns = static_cast<Eigen::Index>(set.wrong.front().size());
    Questions all;
    for (std::size_t i = 0; i < set.asked.size(); ++i) {
      for (const std::string& answer : set.wrong[i]) all.push_back({set.asked[i].question, answer});
    }
    const Eigen::ArrayXd flat = nll(all, end);
    return Eigen::Map<const Eigen::Array<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(
        flat.data(), flat.size() / columns, columns);
  }

  /// ROUGE-L recall of greedy answers.
  [[nodiscard]] double rouge(const Questions& questions) const {
    alkn::eval::HarnessOptions options;
    options.end = tokenizer_.end_id();
    options.context = model_.context();
    options.new_tokens = settings_.new_tokens;
    const Prompter prompter{tokenizer_};
    const alkn::eval::Harness<const CheckpointModel, Prompter> harness(model_, prompter, options,
                                                                       &model_);
    const auto answers = harness.generate(questions);
    double sum = 0;
    for (std::size_t i = 0; i < questions.size(); ++i) {
      sum += alkn::eval::rouge_l_recall(questions[i].answer, answers[i]);
    }
    return sum / static_cast<double>(questions.size());
  }

  /// Teaches every second forgotten pair again, for few steps, the way that all was taught; asks
  /// for the others, before and after. The weights are put back.
  [[nodiscard]] Json relearn() const {
    Questions taught, other;
    for (std::size_t i = 0; i < forgotten_.asked.size(); ++i) {
      (i % 2 == 0 ? taught : other).push_back(forgotten_.asked[i]);
    }
    other = spread(other, settings_.asked);
    const auto samples = encode(tokenizer_, taught, model_.context());
    const KeptWeights kept(model_);
    const at::AutoGradMode with_grad(true);
    Json probabilities = Json::array({number(probability(other))});
    alkn::AdamW optimizer(kept.parameters(), alkn::AdamWOptions(settings_.relearn_lr));
    alkn::LinearSchedule schedule(optimizer, settings_.relearn_warmup, settings_.relearn_steps);
    std::vector<continual::Batch> batches;
    for (std::int64_t step = 0; step < settings_.relearn_steps; ++step) {
      const std::int64_t per_pass = continual::num_batches(samples, settings_.relearn_batch);
      if (step % per_pass == 0) {
        constexpr std::uint64_t kPurpose = 0x4E1EA4;
        batches = continual::shuffled_batches(
            samples, settings_.relearn_batch,
            continual::Random{seed_, kPurpose, static_cast<std::uint64_t>(step / per_pass)});
      }
      const continual::Batch& batch = batches[static_cast<std::size_t>(step % per_pass)];
      optimizer.zero_grad();
      alkn::mean_nll(model_.logits(batch), batch.labels).backward();
      optimizer.step();
      schedule.step();
    }
    probabilities.push_back(number(probability(other)));
    return {{"steps", settings_.relearn_steps}, {"probability", std::move(probabilities)}};
  }

  CheckpointModel& model_;
  const tokenizers::FolderTokenizer& tokenizer_;
  const World& world_;
  const Settings& settings_;
  std::uint64_t seed_;
  QuestionSet forgotten_;
};

}  // namespace smollm2
