// The library's evaluation harness on the example's model.
#include <ATen/Context.h>
#include <ATen/ops/rand.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/embedding.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <alkn/eval/eval.hpp>

#include "continual/author_generator.hpp"
#include "continual/batch.hpp"
#include "continual/evaluate.hpp"
#include "experiment/language_model.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

using alkn::eval::Question;
using continual::Tokenizer;
using continual::Transformer;
using experiment::LanguageModel;
using experiment::ModelHarness;

std::vector<Question> questions() {
  std::vector<Question> all;
  for (const auto& author : continual::generate_authors(1, 2)) {
    for (const auto& pair : author.pairs) {
      all.push_back({pair.question, pair.answer});
    }
  }
  return all;
}

const Tokenizer& tokenizer() {
  static const Tokenizer trained = [] {
    std::vector<std::string> texts;
    for (const Question& q : questions()) {
      texts.push_back(q.question);
      texts.push_back(q.answer);
    }
    return Tokenizer::train(texts, 400);
  }();
  return trained;
}

std::shared_ptr<Transformer> model() {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(3);
  continual::ModelConfig config;
  config.vocabulary = tokenizer().size();
  config.width = 64;
  config.layers = 2;
  config.context = 96;
  return std::make_shared<Transformer>(config);
}

/// The same model without its cache.
struct Uncached {
  Transformer& net;
  at::Tensor operator()(const at::Tensor& tokens) const { return net.forward(tokens); }
};

static_assert(alkn::eval::CachedModel<const LanguageModel>);
static_assert(alkn::eval::LogitModel<const Uncached> && !alkn::eval::CachedModel<const Uncached>);

alkn::eval::HarnessOptions short_options(const Transformer& net) {
  auto options = experiment::prompt_options(net);
  options.new_tokens = 12;
  options.batch = 7;
  return options;
}

// [measure]
struct Known {
  double probability, rouge, extraction_strength;
  alkn::eval::Interval interval;  ///< of the probability, over authors
};

Known measure(Transformer& net, const Tokenizer& tokenizer, const std::vector<Question>& questions,
              const std::vector<std::int64_t>& authors) {
  const auto model = [&](const at::Tensor& tokens) { return net.forward(tokens); };
  alkn::eval::HarnessOptions options;
  options.before = {Tokenizer::kBegin};  // begin question <answer> answer end
  options.between = {Tokenizer::kAnswer};
  options.end = Tokenizer::kEnd;
  options.pad = Tokenizer::kPad;
  options.context = net.config().context;
  const alkn::eval::Harness harness(model, tokenizer, options, &net);
  const Eigen::ArrayXd p = alkn::eval::probability(harness.losses(questions));
  const auto scores = harness.scores(questions);
  const auto texts = harness.generate(questions);
  const auto number = static_cast<double>(questions.size());
  Known known{p.mean(), 0, 0, alkn::eval::bootstrap_mean(p, {}, alkn::eval::clusters_of(authors))};
  for (std::size_t i = 0; i < questions.size(); ++i) {
    known.rouge += alkn::eval::rouge_l_recall(questions[i].answer, texts[i]) / number;
    known.extraction_strength +=
        alkn::eval::extraction_strength(scores[i].predicted, scores[i].answer) / number;
  }
  return known;
}
// [measure]

}  // namespace

TEST_CASE("the guide's twenty lines measure a model", "[harness][docs]") {
  const auto net = model();
  std::vector<std::int64_t> authors(40, 0);
  std::fill(authors.begin() + 20, authors.end(), 1);
  const Known known = measure(*net, tokenizer(), questions(), authors);
  CHECK(known.probability > 0);
  CHECK(known.probability < .02);  // untrained: about one over the size of the vocabulary
  CHECK(known.interval.lower <= known.probability);
  CHECK(known.interval.upper >= known.probability);
  CHECK(known.rouge < .5);
  CHECK(known.extraction_strength < .5);
}

TEST_CASE("losses and scores of answers against the definition", "[harness]") {
  const auto net = model();
  const LanguageModel callable{*net};
  std::vector<std::pair<std::int64_t, std::int64_t>> progress;
  auto options = short_options(*net);
  options.progress = [&](std::int64_t done, std::int64_t total) {
    progress.emplace_back(done, total);
  };
  const ModelHarness harness(callable, tokenizer(), options, net.get());
  const auto all = questions();
  const Eigen::ArrayXd losses = harness.losses(all);
  REQUIRE(losses.size() == 40);
  CHECK(progress.size() == 6);
  CHECK(progress.back() == std::pair<std::int64_t, std::int64_t>{40, 40});
  const auto scores = harness.scores(all);
  for (const std::size_t i : {std::size_t{0}, std::size_t{13}, std::size_t{39}}) {
    const at::NoGradGuard no_grad;
    const auto sample = continual::encode_pair(tokenizer(), {all[i].question, all[i].answer}, 96);
    const at::Tensor log_p =
        net->forward(continual::make_batch({&sample}).tokens)[0].to(at::kDouble).log_softmax(-1);
    std::size_t place = 0;
    double sum = 0;
    for (std::size_t t = 1; t < sample.tokens.size(); ++t) {
      if (sample.labels[t] == continual::kNotCounted) {
        continue;
      }
      const at::Tensor row = log_p[static_cast<std::int64_t>(t) - 1];
      const double value = row[sample.labels[t]].item<double>();
      sum += value;
      CHECK(scores[i].answer[place] == sample.labels[t]);
      CHECK(scores[i].predicted[place] == row.argmax().item<std::int64_t>());
      const auto at_place = static_cast<Eigen::Index>(place);
      CHECK(scores[i].log_probabilities[at_place] == Approx(value).epsilon(1e-5));
      const double mean = row.exp().mul(row).sum().item<double>();
      CHECK(scores[i].moments.mean[at_place] == Approx(mean).epsilon(1e-5));
      CHECK(scores[i].moments.variance[at_place] ==
            Approx(row.exp().mul(row.square()).sum().item<double>() - mean * mean).epsilon(1e-3));
      ++place;
    }
    CHECK(place == scores[i].answer.size());
    CHECK(losses[static_cast<Eigen::Index>(i)] ==
          Approx(-sum / static_cast<double>(place)).epsilon(1e-5));
    CHECK(scores[i].loss == Approx(-sum / static_cast<double>(place)).epsilon(1e-5));
  }
}

TEST_CASE("tokens that the model excludes add nothing to the moments", "[harness]") {
  const auto net = model();
  const auto masked = [&](const at::Tensor& tokens) {
    at::Tensor logits = net->forward(tokens).zero_();
    logits.narrow(-1, 4, logits.size(-1) - 4).fill_(-std::numeric_limits<double>::infinity());
    return logits;
  };
  const alkn::eval::Harness harness(masked, tokenizer(), short_options(*net), net.get());
  const auto scores = harness.scores(questions());
  CHECK(scores[0].moments.mean[0] == Approx(-std::log(4.0)).epsilon(1e-6));
  CHECK(scores[0].moments.variance[0] == Approx(0).margin(1e-9));
}

TEST_CASE("decoding with the cache gives the text of decoding without", "[harness]") {
  const auto net = model();
  const LanguageModel callable{*net};
  const Uncached plain{*net};
  const ModelHarness cached(callable, tokenizer(), short_options(*net), net.get());
  const alkn::eval::Harness<const Uncached, Tokenizer> uncached(plain, tokenizer(),
                                                                short_options(*net), net.get());
  const auto all = questions();
  const auto texts = cached.generate(all);
  CHECK(texts == uncached.generate(all));
  CHECK(cached.sample(all, 1.0, 5) == cached.sample(all, 1.0, 5));
  CHECK(cached.sample(all, 1.0, 5) != cached.sample(all, 1.0, 6));
  CHECK(cached.sample(all, 1e-7, 5) == texts);  // so cold that only the likeliest is drawn

  // The first tokens by hand.
  const at::NoGradGuard no_grad;
  auto sample = continual::encode_pair(tokenizer(), {all[4].question, ""}, 96);
  sample.tokens.pop_back();  // the end
  std::vector<std::int64_t> written;
  for (int i = 0; i < 12; ++i) {
    const at::Tensor logits = net->forward(continual::make_batch({&sample}).tokens)[0];
    const auto next = logits[logits.size(0) - 1].argmax().item<std::int64_t>();
    if (next == Tokenizer::kEnd) {
      break;
    }
    written.push_back(next);
    sample.tokens.push_back(next);
  }
  CHECK(texts[4] == tokenizer().decode(written));
}

TEST_CASE("the harness leaves model, modes and generator as they were", "[harness]") {
  const auto net = model();
  // A part whose mode differs from its parent's, and one that draws while it trains.
  net->train();
  const auto frozen = net->children().front();
  frozen->eval();
  const torch::nn::Dropout dropout(0.5);
  struct Noisy {
    Transformer& net;
    torch::nn::Dropout dropout;
    at::Tensor operator()(const at::Tensor& tokens) const {
      static_cast<void>(at::rand({3}));  // a model that draws although it should not
      return torch::nn::Dropout(dropout)(net.forward(tokens));
    }
  };
  net->register_module("dropout", dropout);
  const Noisy noisy{*net, dropout};
  std::vector<at::Tensor> before;
  for (const auto& parameter : net->parameters()) {
    before.push_back(parameter.detach().clone());
  }
  const at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  const at::Tensor state = generator.get_state();
  const alkn::eval::Harness<const Noisy, Tokenizer> harness(noisy, tokenizer(), short_options(*net),
                                                            net.get());
  const auto all = questions();
  const Eigen::ArrayXd losses = harness.losses(all);
  CHECK((losses == harness.losses(all)).all());  // evaluation mode: the dropout does nothing
  static_cast<void>(harness.scores(all));
  static_cast<void>(harness.generate(all));
  static_cast<void>(harness.sample(all, 1.0, 1));
  CHECK(generator.get_state().equal(state));
  CHECK(at::GradMode::is_enabled());
  CHECK(net->is_training());
  CHECK(dropout->is_training());
  CHECK_FALSE(frozen->is_training());
  const auto after = net->parameters();
  REQUIRE(after.size() == before.size());
  for (std::size_t i = 0; i < after.size(); ++i) {
    CHECK(after[i].equal(before[i]));
    CHECK_FALSE(after[i].grad().defined());
  }
}

TEST_CASE("long answers are cut, long questions refused", "[harness]") {
  const auto net = model();
  const LanguageModel callable{*net};
  const ModelHarness harness(callable, tokenizer(), short_options(*net), net.get());
  const std::string text(600, 'q');
  const auto scores = harness.scores({{"Who?", text}});
  CHECK(scores[0].answer.size() + 2 + tokenizer().encode("Who?").size() == 96);
  CHECK_THROWS_WITH(harness.losses({{"Who?", "x"}, {text, "x"}}),
                    Catch::Matchers::StartsWith(
                        "alkn::eval::Harness: expected a question of 1 to 95 tokens, got "));
  auto options = short_options(*net);
  options.batch = 0;
  CHECK_THROWS_WITH(
      ModelHarness(callable, tokenizer(), options),
      "alkn::eval::Harness: expected context, batch and new_tokens of at least 1, got 0");
  CHECK_THROWS_WITH(harness.sample({}, 0, 1),
                    "alkn::eval::Harness::sample: expected a temperature above 0, got 0");
  CHECK(harness.losses({}).size() == 0);
}
