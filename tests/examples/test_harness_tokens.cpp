// The library's evaluation harness on tokens that the model has no logit of.
#include <ATen/ops/zeros.h>
#include <alkn/eval/harness.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

using alkn::eval::HarnessOptions, alkn::eval::Tokens;

constexpr std::int64_t kVocabulary = 200;

/// Knows nothing: all logits are 0.
struct Flat {
  at::Tensor operator()(const at::Tensor& tokens) const {
    return at::zeros({tokens.size(0), tokens.size(1), kVocabulary});
  }
};

/// One token a character, that of 'x' as given.
struct Characters {
  std::int64_t x;
  [[nodiscard]] Tokens encode(std::string_view text) const {
    Tokens tokens;
    for (const char c : text) tokens.push_back(c == 'x' ? x : c);
    return tokens;
  }
  [[nodiscard]] std::string decode(const Tokens& tokens) const {
    return std::string(tokens.begin(), tokens.end());
  }
};

}  // namespace

TEST_CASE("an answer's token, or an end, outside the vocabulary is refused", "[harness]") {
  Flat model;
  const auto scores = [&](std::int64_t x, std::int64_t end) {
    const Characters tokenizer{x};
    HarnessOptions options;
    options.end = end;
    const alkn::eval::Harness<Flat, Characters> harness(model, tokenizer, options);
    return harness.scores({{"q", "ab"}, {"q", "abx"}});
  };
  CHECK(scores(199, 0)[1].log_probabilities[2] == Approx(-std::log(200.0)));
  for (const std::int64_t bad :
       {std::int64_t{200}, std::int64_t{205}, std::int64_t{-1}, std::int64_t{100000000}}) {
    INFO(bad);
    CHECK_THROWS_WITH(scores(bad, 0),
                      "alkn::eval::Harness::scores: expected a token in [0, 200), "
                      "got " +
                          std::to_string(bad) + " (question 1, token 2 of the answer)");
    CHECK_THROWS_WITH(scores(0, bad),
                      "alkn::eval::Harness::scores: expected a token in [0, 200), "
                      "got " +
                          std::to_string(bad) + " (question 0, token 2 of the answer)");
  }
}
