// From a model to the numbers that the metrics take: losses, teacher-forced predictions, generated
// text. Any model that is a callable (tokens -> logits), any tokenizer. Not part of eval.hpp: it
// alone needs LibTorch.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <torch/nn/module.h>
#include <alkn/eval/arrays.hpp>
#include <alkn/eval/membership.hpp>
#include <alkn/objective/losses.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace alkn::eval {

using Tokens = std::vector<int64_t>;

/// Logits [B, T, V] of tokens [B, T] int64; rows are padded at their end, and no place may see a
/// later one.
template <class Model>
concept LogitModel = requires(Model& model, const at::Tensor& tokens) {
  { model(tokens) } -> std::convertible_to<at::Tensor>;
};

/// A model that can go on from what it has read: `model(tokens, cache)` reads tokens [B, t] after
/// those that `cache` holds. A fresh `Model::Cache` holds nothing; all rows are of one length.
template <class Model>
concept CachedModel = LogitModel<Model> &&
    requires(Model& model, const at::Tensor& tokens, typename Model::Cache& cache) {
  { model(tokens, cache) } -> std::convertible_to<at::Tensor>;
};

/// Text to tokens and back, without special tokens.
template <class T>
concept TextTokenizer = requires(const T& tokenizer, std::string_view text, const Tokens& tokens) {
  { tokenizer.encode(text) } -> std::convertible_to<Tokens>;
  { tokenizer.decode(tokens) } -> std::convertible_to<std::string>;
};

/// A question and the answer to be measured.
struct Question {
  std::string question, answer;
};

/// How a question is put to the model: before, question, between, answer, end.
struct HarnessOptions {
  Tokens before, between;        ///< special tokens around the question
  int64_t end = 0;               ///< ends an answer; counts as one of its tokens
  int64_t pad = 0;               ///< fills shorter rows
  int64_t context = 256;         ///< tokens that the model takes at most; longer answers are cut
  int64_t batch = 32;            ///< rows at once
  int64_t new_tokens = 64;       ///< of a generated answer at most
  at::Device device = at::kCPU;  ///< of the model
  std::function<void(int64_t done, int64_t total)> progress;  ///< after each batch; may be empty
};

/// What a model says of one answer, place by place, given the right tokens before.
struct AnswerScores {
  double loss = 0;                   ///< mean negative log-likelihood per token
  Tokens answer, predicted;          ///< [T], the end included; what is likeliest at each place
  Eigen::ArrayXd log_probabilities;  ///< [T], of `answer`
  TokenMoments moments;              ///< [T] each
};

/// While it lives the model is in evaluation mode and nothing builds a graph; afterwards every
/// module's mode and the default generators' states are what they were.
class EvaluationScope {
 public:
  /// @param module may be null: a callable without modes
  explicit EvaluationScope(torch::nn::Module* module, at::Device device = at::kCPU) {
    for (const at::Device where : {at::Device(at::kCPU), device}) {
      if (!generators_.empty() && where.is_cpu()) continue;
      at::Generator generator = at::globalContext().defaultGenerator(where);
      generators_.emplace_back(generator, generator.get_state());
    }
    if (module == nullptr) return;
    modes_.emplace_back(module, module->is_training());
    for (const auto& part : module->modules(/*include_self=*/false)) {
      modes_.emplace_back(part.get(), part->is_training());
    }
    module->eval();
  }
  ~EvaluationScope() {
    for (const auto& [part, training] : modes_) {
      if (part->is_training() != training) part->train(training);  // with its children: they follow
    }
    for (auto& [generator, state] : generators_) generator.set_state(state);
  }
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

 private:
  at::NoGradGuard no_grad_;
  std::vector<std::pair<torch::nn::Module*, bool>> modes_;  ///< parents before their children
  std::vector<std::pair<at::Generator, at::Tensor>> generators_;
};

/// Measures a model. Changes nothing of it: parameters, buffers, modes and generators are, bit for
/// bit, what they were.
/// @tparam Model a callable; its generation goes through a cache where it has one (CachedModel)
/// Determinism: that of the model; sampling has a generator of its own.
template <LogitModel Model, TextTokenizer Tokenizer>
class Harness {
 public:
  /// @param model, tokenizer, module outlive the harness; `module` may be null
  /// @throws std::invalid_argument for sizes below 1
  Harness(Model& model, const Tokenizer& tokenizer, HarnessOptions options,
          torch::nn::Module* module = nullptr)
      : model_(model), tokenizer_(tokenizer), options_(std::move(options)), module_(module) {
    for (const int64_t size : {options_.context, options_.batch, options_.new_tokens}) {
      if (size < 1) {
        detail::fail("Harness", "context, batch and new_tokens of at least 1",
                     std::to_string(size));
      }
    }
  }

  /// Mean negative log-likelihood per token of each answer, the end included, [questions].
  [[nodiscard]] Eigen::ArrayXd losses(const std::vector<Question>& questions) const {
    Eigen::ArrayXd result(static_cast<Eigen::Index>(questions.size()));
    for_batches(questions, [&](const std::vector<Row>& rows, const at::Tensor& logits,
                               const at::Tensor& labels) {
      const at::Tensor nll = sequence_nll(logits, labels).div(valid_tokens(labels));
      const at::Tensor values = nll.to(at::kCPU, at::kDouble);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        result[static_cast<Eigen::Index>(rows[i].index)] = values.const_data_ptr<double>()[i];
      }
    });
    return result;
  }

  /// Everything that extraction strength, exact memorisation and membership inference need.
  [[nodiscard]] std::vector<AnswerScores> scores(const std::vector<Question>& questions) const {
    std::vector<AnswerScores> result(questions.size());
    for_batches(
        questions, [&](const std::vector<Row>& rows, const at::Tensor& logits, const at::Tensor&) {
          for (std::size_t i = 0; i < rows.size(); ++i) {
            const Row& row = rows[i];
            const auto size = static_cast<int64_t>(row.tokens.size());
            const at::Tensor places =
                logits[static_cast<int64_t>(i)].narrow(0, row.start - 1, size - row.start);
            check_tokens(row, logits.size(-1));
            result[row.index] = score(places, {row.tokens.begin() + row.start, row.tokens.end()});
          }
        });
    return result;
  }

  /// The greedy answer to each question, without the end.
  [[nodiscard]] std::vector<std::string> generate(const std::vector<Question>& questions) const {
    return decode_all(questions, [](const at::Tensor& logits) {
      const at::Tensor best = logits.argmax(-1).cpu();
      return Tokens(best.const_data_ptr<int64_t>(), best.const_data_ptr<int64_t>() + best.numel());
    });
  }

  /// One sampled answer to each question, without the end.
  /// @param temperature of the softmax, above 0  @param seed decides the draws, with the batches
  [[nodiscard]] std::vector<std::string> sample(const std::vector<Question>& questions,
                                                double temperature, uint64_t seed) const {
    if (!(temperature > 0)) {
      detail::fail("Harness::sample", "a temperature above 0", detail::number_text(temperature));
    }
    std::mt19937_64 generator(seed);
    return decode_all(questions, [&](const at::Tensor& logits) {
      const at::Tensor p =
          logits.to(at::kCPU, at::kDouble).div(temperature).softmax(-1).contiguous();
      Tokens drawn;
      for (int64_t row = 0; row < p.size(0); ++row) {
        const double* first = p.const_data_ptr<double>() + row * p.size(1);
        double left = static_cast<double>(generator() >> 11U) * 0x1p-53;
        int64_t token = 0;
        while (token + 1 < p.size(1) && (left -= first[token]) >= 0) ++token;
        drawn.push_back(token);
      }
      return drawn;
    });
  }

  [[nodiscard]] const HarnessOptions& options() const noexcept { return options_; }

 private:
  struct Row {
    std::size_t index;  ///< of the question
    int64_t start;      ///< place of the answer's first token
    Tokens tokens;
  };

  static constexpr int64_t kNotCounted = -100;

  Row prompt(const Question& question, std::size_t index) const {
    Row row{index, 0, options_.before};
    const Tokens text = tokenizer_.encode(question.question);
    row.tokens.insert(row.tokens.end(), text.begin(), text.end());
    row.tokens.insert(row.tokens.end(), options_.between.begin(), options_.between.end());
    row.start = static_cast<int64_t>(row.tokens.size());
    if (row.start < 1 || row.start >= options_.context) {
      detail::fail("Harness",
                   "a question of 1 to " + std::to_string(options_.context - 1) + " tokens",
                   std::to_string(row.start), "question " + std::to_string(index));
    }
    return row;
  }

  Row with_answer(const Question& question, std::size_t index) const {
    Row row = prompt(question, index);
    const Tokens answer = tokenizer_.encode(question.answer);
    row.tokens.insert(row.tokens.end(), answer.begin(), answer.end());
    row.tokens.push_back(options_.end);
    row.tokens.resize(std::min(row.tokens.size(), static_cast<std::size_t>(options_.context)));
    return row;
  }

  at::Tensor tensor_of(const std::vector<Row>& rows, bool labels) const {
    std::size_t length = 0;
    for (const Row& row : rows) length = std::max(length, row.tokens.size());
    const auto columns = static_cast<int64_t>(length);
    at::Tensor result = at::full({static_cast<int64_t>(rows.size()), columns},
                                 labels ? kNotCounted : options_.pad, at::kLong);
    int64_t* to = result.mutable_data_ptr<int64_t>();
    for (const Row& row : rows) {
      const int64_t skipped = labels ? row.start : 0;
      std::copy(row.tokens.begin() + skipped, row.tokens.end(), to + skipped);
      to += columns;
    }
    return result.to(options_.device);
  }

  /// Batches of similar length; `use(rows, logits, labels)`.
  template <class Use>
  void for_batches(const std::vector<Question>& questions, Use&& use) const {
    const EvaluationScope scope(module_, options_.device);
    std::vector<Row> rows;
    for (std::size_t i = 0; i < questions.size(); ++i) rows.push_back(with_answer(questions[i], i));
    std::stable_sort(rows.begin(), rows.end(),
                     [](const Row& a, const Row& b) { return a.tokens.size() < b.tokens.size(); });
    const auto size = static_cast<std::ptrdiff_t>(rows.size());
    for (std::ptrdiff_t begin = 0; begin < size; begin += options_.batch) {
      const std::ptrdiff_t end = std::min<std::ptrdiff_t>(begin + options_.batch, size);
      const std::vector<Row> part(rows.begin() + begin, rows.begin() + end);
      use(part, at::Tensor(model_(tensor_of(part, false))), tensor_of(part, true));
      if (options_.progress) options_.progress(end, size);
    }
  }

  /// Throws for a token of the answer, or an end, that the model has no logit of.
  static void check_tokens(const Row& row, int64_t vocabulary) {
    for (auto place = static_cast<std::size_t>(row.start); place < row.tokens.size(); ++place) {
      const int64_t token = row.tokens[place];
      if (token >= 0 && token < vocabulary) continue;
      detail::fail("Harness::scores", "a token in [0, " + std::to_string(vocabulary) + ")",
                   std::to_string(token),
                   "question " + std::to_string(row.index) + ", token " +
                       std::to_string(place - static_cast<std::size_t>(row.start)) +
                       " of the answer");
    }
  }

  /// @param logits [T, V]
  static AnswerScores score(const at::Tensor& logits, Tokens answer) {
    const at::Tensor log_p = logits.to(at::kCPU, at::kDouble).log_softmax(-1);
    const at::Tensor p = log_p.exp();
    const at::Tensor possible = log_p.masked_fill(p.eq(0), 0);  // -infinity adds nothing
    const at::Tensor mean = p.mul(possible).sum(-1).contiguous();
    const at::Tensor variance =
        p.mul(possible.sub(mean.unsqueeze(-1)).square()).sum(-1).contiguous();
    const at::Tensor best = log_p.argmax(-1);
    const auto array = [](const at::Tensor& values) {
      return Eigen::ArrayXd(
          Eigen::Map<const Eigen::ArrayXd>(values.const_data_ptr<double>(), values.numel()));
    };
    AnswerScores result;
    result.log_probabilities.resize(static_cast<Eigen::Index>(answer.size()));
    for (std::size_t t = 0; t < answer.size(); ++t) {
      const auto place = static_cast<int64_t>(t);
      result.log_probabilities[place] =
          std::min(0.0, log_p.const_data_ptr<double>()[place * log_p.size(1) + answer[t]]);
    }
    result.loss = -result.log_probabilities.mean();
    result.predicted.assign(best.const_data_ptr<int64_t>(),
                            best.const_data_ptr<int64_t>() + best.numel());
    result.answer = std::move(answer);
    result.moments = {array(mean), array(variance)};
    return result;
  }

  /// Decodes all questions; those of one length go together, so that no row needs padding.
  /// `choose` gives the next token of each row from logits [B, V].
  template <class Choose>
  std::vector<std::string> decode_all(const std::vector<Question>& questions,
                                      Choose&& choose) const {
    const EvaluationScope scope(module_, options_.device);
    std::map<std::size_t, std::vector<Row>> by_length;
    for (std::size_t i = 0; i < questions.size(); ++i) {
      Row row = prompt(questions[i], i);
      by_length[row.tokens.size()].push_back(std::move(row));
    }
    std::vector<std::string> texts(questions.size());
    int64_t done = 0;
    for (const auto& [length, rows] : by_length) {
      const auto size = static_cast<std::ptrdiff_t>(rows.size());
      for (std::ptrdiff_t begin = 0; begin < size; begin += options_.batch) {
        const std::ptrdiff_t end = std::min<std::ptrdiff_t>(begin + options_.batch, size);
        decode_batch({rows.begin() + begin, rows.begin() + end}, choose, texts);
        done += end - begin;
        if (options_.progress) options_.progress(done, static_cast<int64_t>(questions.size()));
      }
    }
    return texts;
  }

  template <class Choose>
  void decode_batch(std::vector<Row> rows, Choose& choose, std::vector<std::string>& texts) const {
    const auto length = static_cast<int64_t>(rows.front().tokens.size());
    const int64_t steps = std::min(options_.new_tokens, options_.context - length);
    std::vector<Tokens> written(rows.size());
    std::vector<bool> ended(rows.size());
    NextLogits next(model_, tensor_of(rows, false));
    for (int64_t step = 0; step < steps; ++step) {
      const Tokens chosen = choose(next.logits());
      bool all_ended = true;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        ended[i] = ended[i] || chosen[i] == options_.end;
        if (!ended[i]) written[i].push_back(chosen[i]);
        all_ended = all_ended && ended[i];
      }
      if (all_ended) break;
      if (step + 1 < steps) next.feed(chosen, options_.device);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      texts[rows[i].index] = tokenizer_.decode(written[i]);
    }
  }

  /// The logits after what was read, through the model's cache where it has one.
  class NextLogits {
   public:
    NextLogits(Model& model, at::Tensor tokens) : model_(model), tokens_(std::move(tokens)) {
      read(tokens_);
    }
    /// [B, V]
    [[nodiscard]] const at::Tensor& logits() const { return logits_; }
    void feed(const Tokens& chosen, at::Device device) {
      at::Tensor column = at::full({static_cast<int64_t>(chosen.size()), 1}, 0, at::kLong);
      std::copy(chosen.begin(), chosen.end(), column.mutable_data_ptr<int64_t>());
      column = column.to(device);
      if constexpr (CachedModel<Model>) {
        read(column);
      } else {
        tokens_ = at::cat({tokens_, column}, 1);
        read(tokens_);
      }
    }

   private:
    struct None {};
    template <class M>
    struct CacheOf {
      using Type = None;
    };
    template <CachedModel M>
    struct CacheOf<M> {
      using Type = typename M::Cache;
    };

    void read(const at::Tensor& tokens) {
      at::Tensor all;
      if constexpr (CachedModel<Model>) {
        all = model_(tokens, cache_);
      } else {
        all = model_(tokens);
      }
      logits_ = all.select(1, all.size(1) - 1);
    }

    Model& model_;
    at::Tensor tokens_, logits_;
    typename CacheOf<Model>::Type cache_{};
  };

  Model& model_;
  const Tokenizer& tokenizer_;
  HarnessOptions options_;
  torch::nn::Module* module_;
};

}  // namespace alkn::eval
