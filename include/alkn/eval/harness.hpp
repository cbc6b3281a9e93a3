// From a model to the numbers that the metrics take: losses, teacher-forced predictions, generated
// text. Any model that is a callable (tokens -> logits), any tokenizer. Not part of eval.hpp: it
// alone needs LibTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <torch/nn/module.h>
#include <alkn/eval/arrays.hpp>
#include <alkn/eval/decoding.hpp>
#include <alkn/eval/evaluation_scope.hpp>
#include <alkn/eval/membership.hpp>
#include <alkn/objective/losses.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace alkn::eval {

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
    return decode_all(questions, likeliest);
  }

  /// One sampled answer to each question, without the end.
  /// @param temperature of the softmax, above 0  @param seed decides the draws, with the batches
  [[nodiscard]] std::vector<std::string> sample(const std::vector<Question>& questions,
                                                double temperature, uint64_t seed) const {
    if (!(temperature > 0)) {
      detail::fail("Harness::sample", "a temperature above 0", detail::number_text(temperature));
    }
    return decode_all(questions, Sampler(temperature, seed));
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
  std::vector<std::string> decode_all(const std::vector<Question>& questions, Choose choose) const {
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
        const std::vector<Row> part(rows.begin() + begin, rows.begin() + end);
        const auto length_left = options_.context - static_cast<int64_t>(length);
        const auto written = decode(model_, tensor_of(part, false), options_.end,
                                    std::min(options_.new_tokens, length_left), choose);
        for (std::size_t i = 0; i < part.size(); ++i)
          texts[part[i].index] = tokenizer_.decode(written[i]);
        done += end - begin;
        if (options_.progress) options_.progress(done, static_cast<int64_t>(questions.size()));
      }
    }
    return texts;
  }

  Model& model_;
  const Tokenizer& tokenizer_;
  HarnessOptions options_;
  torch::nn::Module* module_;
};

}  // namespace alkn::eval
