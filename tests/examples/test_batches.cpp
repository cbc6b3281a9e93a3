// Which samples go together, and batches in parts: padding, and the gradient of the whole.
#include <ATen/Context.h>
#include <alkn/alkn.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "continual/author_generator.hpp"
#include "continual/batch.hpp"
#include "continual/micro_batch.hpp"
#include "continual/model.hpp"
#include "continual/tokenizer.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

using continual::Batch;
using continual::Lengths;
using continual::MeanOver;
using continual::Part;
using continual::Sample;
using continual::Samples;

/// SmolLM2's tokens in the pairs of TOFU's forget10.json, "Question: ...\nAnswer: ..." and the end.
constexpr std::array<std::int64_t, 400> kTofuLengths{
    54,  37, 36, 48, 65, 76,  65, 53, 51, 52, 62, 69, 56,  68, 56, 67,  69, 43, 72,  66, 53, 32, 49,
    67,  48, 68, 95, 54, 63,  45, 60, 72, 59, 60, 65, 102, 56, 63, 54,  65, 74, 53,  34, 48, 35, 45,
    64,  64, 48, 77, 82, 60,  80, 62, 83, 76, 82, 65, 70,  56, 41, 37,  36, 51, 45,  91, 44, 75, 76,
    56,  67, 51, 59, 63, 62,  55, 52, 61, 62, 71, 66, 51,  72, 57, 62,  76, 76, 110, 85, 81, 83, 96,
    137, 96, 78, 99, 90, 108, 96, 94, 60, 60, 83, 68, 53,  63, 81, 83,  70, 75, 62,  74, 51, 80, 65,
    56,  55, 88, 59, 57, 69,  30, 31, 49, 43, 57, 54, 33,  35, 92, 62,  53, 55, 62,  71, 57, 72, 74,
    77,  68, 58, 37, 47, 48,  42, 63, 53, 77, 52, 69, 58,  53, 48, 48,  49, 51, 56,  43, 53, 48, 66,
    38,  50, 38, 46, 65, 49,  87, 56, 59, 47, 77, 49, 47,  56, 54, 61,  55, 78, 79,  48, 24, 27, 54,
    46,  60, 52, 51, 61, 44,  54, 47, 54, 61, 53, 54, 59,  65, 58, 106, 45, 30, 38,  63, 41, 30, 33,
    81,  55, 58, 42, 65, 54,  37, 60, 49, 54, 50, 61, 67,  45, 56, 54,  49, 58, 54,  46, 53, 55, 51,
    56,  48, 52, 43, 45, 50,  45, 51, 48, 46, 60, 31, 44,  54, 40, 55,  68, 46, 49,  55, 38, 48, 51,
    36,  46, 43, 53, 42, 48,  49, 66, 31, 36, 57, 67, 60,  37, 76, 49,  65, 72, 51,  44, 69, 71, 56,
    47,  52, 56, 73, 83, 52,  56, 68, 71, 57, 65, 59, 64,  80, 73, 64,  56, 66, 57,  62, 73, 64, 60,
    66,  67, 32, 60, 52, 83,  70, 61, 73, 70, 64, 64, 68,  88, 76, 73,  74, 75, 58,  66, 64, 68, 47,
    49,  61, 49, 68, 55, 69,  59, 59, 73, 65, 52, 62, 69,  66, 57, 50,  73, 74, 64,  33, 39, 33, 57,
    100, 56, 79, 69, 49, 54,  44, 73, 76, 77, 65, 60, 39,  57, 85, 73,  37, 44, 53,  51, 58, 55, 74,
    100, 69, 58, 68, 83, 90,  71, 87, 77, 72, 88, 77, 63,  59, 59, 46,  51, 47, 56,  71, 57, 71, 72,
    60,  62, 62, 62, 68, 68,  53, 63, 67,
};

/// Samples of these lengths; the last third of the tokens counts.
Samples samples_of(const std::vector<std::int64_t>& lengths) {
  Samples all;
  for (const std::int64_t length : lengths) {
    Sample sample;
    sample.id = std::ssize(all);
    for (std::int64_t t = 0; t < length; ++t) {
      sample.tokens.push_back(4 + (sample.id + t) % 13);
      sample.labels.push_back(3 * t < 2 * length ? continual::kNotCounted : sample.tokens.back());
    }
    all.push_back(sample);
  }
  return all;
}

Samples tofu(std::size_t pairs) {
  return samples_of(
      {kTofuLengths.begin(), kTofuLengths.begin() + static_cast<std::ptrdiff_t>(pairs)});
}

/// Share of the tokens that are padding in one pass.
double padding(const Samples& samples, std::int64_t batch, Lengths lengths) {
  double tokens = 0, padded = 0;
  for (const Sample& sample : samples) tokens += static_cast<double>(sample.tokens.size());
  for (const Batch& b : continual::shuffled_batches(samples, batch, {1, 2}, lengths)) {
    padded += static_cast<double>(b.tokens.numel());
  }
  return 1 - tokens / padded;
}

std::shared_ptr<continual::Transformer> model() {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(3);
  continual::ModelConfig config;
  config.vocabulary = 20;
  config.layers = 1;
  config.width = 32;
  return std::make_shared<continual::Transformer>(config);
}

std::vector<at::Tensor> gradients(const continual::Transformer& net) {
  std::vector<at::Tensor> all;
  for (const auto& parameter : net.parameters()) all.push_back(parameter.grad().clone());
  return all;
}

}  // namespace

TEST_CASE("samples of similar length go together, in a pass of every sample once", "[batch]") {
  const Samples all = tofu(400);
  std::set<std::int64_t> seen;
  std::vector<std::int64_t> first_ids;
  for (const Batch& batch : continual::shuffled_batches(all, 16, {1, 2}, Lengths::alike)) {
    for (std::int64_t row = 0; row < batch.ids.size(0); ++row) {
      const auto id = batch.ids[row].item<std::int64_t>();
      CHECK(seen.insert(id).second);
      first_ids.push_back(id);
    }
  }
  CHECK(seen.size() == all.size());
  std::vector<std::int64_t> other_ids;
  for (const Batch& batch : continual::shuffled_batches(all, 16, {1, 3}, Lengths::alike)) {
    for (std::int64_t row = 0; row < batch.ids.size(0); ++row) {
      other_ids.push_back(batch.ids[row].item<std::int64_t>());
    }
  }
  CHECK(first_ids != other_ids);
  // The batches are mixed: their lengths do not grow from first to last.
  const auto batches = continual::shuffled_batches(all, 16, {1, 2}, Lengths::alike);
  bool grows = true;
  for (std::size_t i = 1; i < batches.size(); ++i) {
    grows = grows && batches[i - 1].tokens.size(1) <= batches[i].tokens.size(1);
  }
  CHECK_FALSE(grows);
}

TEST_CASE("less than a tenth is padding, of TOFU and of made-up authors", "[batch]") {
  CHECK(padding(tofu(400), 16, Lengths::alike) < 0.10);  // what teaches
  CHECK(padding(tofu(400), 32, Lengths::alike) < 0.10);
  CHECK(padding(tofu(80), 8, Lengths::alike) < 0.10);  // a request
  CHECK(padding(tofu(80), 8, Lengths::mixed) > 0.20);
  std::vector<std::int64_t> lengths;  // a token has about four letters
  for (const auto& author : continual::generate_authors(1, 14)) {
    for (const auto& pair : author.pairs) {
      lengths.push_back(8 +
                        static_cast<std::int64_t>(pair.question.size() + pair.answer.size()) / 4);
    }
  }
  CHECK(padding(samples_of(lengths), 16, Lengths::alike) < 0.10);
  lengths.resize(40);
  CHECK(padding(samples_of(lengths), 8, Lengths::alike) < 0.10);
}

TEST_CASE("the parts of a batch hold its samples, each without needless padding", "[batch]") {
  const Samples all = samples_of({9, 30, 12, 6, 21});
  const Batch batch = continual::make_batch({&all[0], &all[1], &all[2], &all[3], &all[4]});
  const std::vector<Part> whole = continual::parts_of(batch, 0, MeanOver::tokens);
  REQUIRE(whole.size() == 1);
  CHECK(whole[0].batch.tokens.is_same(batch.tokens));
  CHECK(whole[0].share == 1);
  CHECK(continual::parts_of(batch, 5, MeanOver::tokens).size() == 1);

  const std::vector<Part> parts = continual::parts_of(batch, 2, MeanOver::tokens);
  REQUIRE(parts.size() == 3);
  const std::vector<std::int64_t> columns{30, 12, 21}, counted{3 + 10, 4 + 2, 7};
  for (std::size_t i = 0; i < 3; ++i) {
    const Batch& part = parts[i].batch;
    CHECK(part.tokens.size(1) == columns[i]);
    const auto begin = static_cast<std::int64_t>(2 * i), rows = part.ids.size(0);
    CHECK(part.ids.equal(batch.ids.narrow(0, begin, rows)));
    CHECK(part.tokens.equal(batch.tokens.narrow(0, begin, rows).narrow(1, 0, columns[i])));
    CHECK(part.labels.equal(batch.labels.narrow(0, begin, rows).narrow(1, 0, columns[i])));
    CHECK(parts[i].share == Approx(static_cast<double>(counted[i]) / 26));
  }
  const std::vector<Part> sequences = continual::parts_of(batch, 2, MeanOver::sequences);
  CHECK(sequences[0].share == Approx(0.4));
  CHECK(sequences[2].share == Approx(0.2));
}

TEST_CASE("parts of a batch add up to its gradient, whatever the mean is over", "[batch]") {
  const Samples all = samples_of({9, 30, 12, 6, 21});
  const Batch batch = continual::make_batch({&all[0], &all[1], &all[2], &all[3], &all[4]});
  const auto net = model();
  for (const MeanOver mean : {MeanOver::tokens, MeanOver::sequences}) {
    const auto loss = [&](const Batch& part) {
      const at::Tensor logits = net->logits(part);
      if (mean == MeanOver::tokens) return alkn::mean_nll(logits, part.labels);
      return alkn::sequence_nll(logits, part.labels).mean();
    };
    net->zero_grad();
    const double value = continual::backward_in_parts(batch, 0, mean, loss);
    const std::vector<at::Tensor> expected = gradients(*net);
    for (const std::int64_t size : {1, 2, 3}) {
      net->zero_grad();
      CHECK(continual::backward_in_parts(batch, size, mean, loss) == Approx(value).epsilon(1e-6));
      const std::vector<at::Tensor> got = gradients(*net);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const double largest = expected[i].abs().max().item<double>();
        CHECK(got[i].sub(expected[i]).abs().max().item<double>() <= 1e-5 * largest);
      }
    }
  }
}
