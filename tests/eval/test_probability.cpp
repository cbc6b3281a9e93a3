// Probability, truth ratio, model utility, extraction strength, exact memorisation.
#include <cmath>
#include <limits>
#include <vector>

#include "alkn/eval/memorization.hpp"
#include "alkn/eval/model_utility.hpp"
#include "alkn/eval/probability.hpp"
#include "catch.hpp"
#include "checks.hpp"

using checks::array;
using checks::error_of;
using checks::relative_error;
using namespace alkn::eval;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("probabilities are what their definition says", "[probability]") {
  const Eigen::ArrayXd p = probability(array({0, 1, 2.5}));
  CHECK(p[0] == 1);
  CHECK(relative_error(p[1], std::exp(-1.0)) < 1e-15);
  CHECK(relative_error(p[2], std::exp(-2.5)) < 1e-15);

  Eigen::ArrayXXd wrong(2, 3);
  wrong << 1, 2, 3, .5, .25, 4;
  const Eigen::ArrayXd normalized = normalized_probability(array({.5, 1.5}), wrong);
  const double first = std::exp(-.5), second = std::exp(-1.5);
  CHECK(relative_error(normalized[0],
                       first / (first + std::exp(-1.) + std::exp(-2.) + std::exp(-3.))) < 1e-14);
  CHECK(relative_error(normalized[1],
                       second / (second + std::exp(-.5) + std::exp(-.25) + std::exp(-4.))) < 1e-14);
}

TEST_CASE("a normalised probability survives losses whose exponential does not", "[probability]") {
  Eigen::ArrayXXd wrong(1, 1);
  wrong << 1001;
  CHECK(relative_error(normalized_probability(array({1000}), wrong)[0], 1 / (1 + std::exp(-1.))) <
        1e-14);
  wrong << 0;
  CHECK(normalized_probability(array({1000}), wrong)[0] == 0);
}

TEST_CASE("the truth ratio averages the wrong answers' losses", "[probability]") {
  Eigen::ArrayXXd wrong(3, 2);
  wrong << 1, 3, 2, 2, 0, 1;
  const Eigen::ArrayXd t = truth_ratio(array({1, 2, 1.5}), wrong);
  CHECK(relative_error(t[0], std::exp(-1.)) < 1e-15);
  CHECK(t[1] == 1);
  CHECK(relative_error(t[2], std::exp(1.)) < 1e-15);
  const Eigen::ArrayXd forget = forget_truth_ratio(t);
  CHECK(relative_error(forget[0], std::exp(-1.)) < 1e-15);
  CHECK(forget[1] == 1);
  CHECK(relative_error(forget[2], std::exp(-1.)) < 1e-15);
  const Eigen::ArrayXd retain = retain_truth_ratio(t);
  CHECK(relative_error(retain[0], 1 - std::exp(-1.)) < 1e-15);
  CHECK(retain[1] == 0);
  CHECK(retain[2] == 0);
}

TEST_CASE("a truth ratio that overflows still counts", "[probability]") {
  Eigen::ArrayXXd wrong(2, 1);
  wrong << 0, 2000;
  const Eigen::ArrayXd t = truth_ratio(array({2000, 0}), wrong);
  CHECK(t[0] == kInfinity);
  CHECK(t[1] == 0);
  CHECK((forget_truth_ratio(t) == array({0, 0})).all());
  CHECK((retain_truth_ratio(t) == array({0, 1})).all());
}

TEST_CASE("equal losses give equal truth ratios wherever they stand", "[probability]") {
  checks::Integers integers(3);
  for (Eigen::Index size = 1; size < 20; ++size) {
    const double loss = 1 + integers(1000) / 997.0;
    const Eigen::ArrayXd losses = Eigen::ArrayXd::Constant(size, loss);
    const Eigen::ArrayXXd wrong = Eigen::ArrayXXd::Constant(size, 5, 2.1);
    const Eigen::ArrayXd t = truth_ratio(losses, wrong);
    CHECK((t == t[0]).all());
    CHECK(t[0] == truth_ratio(losses.head(1), wrong.topRows(1))[0]);
  }
}

TEST_CASE("probabilities refuse what they cannot take", "[probability]") {
  const Eigen::ArrayXXd wrong = Eigen::ArrayXXd::Ones(2, 3);
  Eigen::ArrayXXd bad = wrong;
  bad(1, 2) = kInfinity;
  CHECK(error_of([] { probability(array({})); }) ==
        "alkn::eval::probability: expected at least one value, got none (losses)");
  CHECK(error_of([] {
          probability(array({1, std::nan("")}));
        }) == "alkn::eval::probability: expected finite values, got nan (losses[1])");
  CHECK(error_of([&] { normalized_probability(array({1}), wrong); }) ==
        "alkn::eval::normalized_probability: expected 1 values, got 2 (wrong_losses)");
  CHECK(error_of([&] {
          normalized_probability(array({1, 2}), bad);
        }) ==
        "alkn::eval::normalized_probability: expected finite values, got inf (wrong_losses[1][2])");
  CHECK(error_of([&] {
          truth_ratio(array({1, 2, 3}), wrong);
        }) == "alkn::eval::truth_ratio: expected 3 values, got 2 (wrong_losses)");
  CHECK(error_of([&] {
          truth_ratio(array({1, 2}), Eigen::ArrayXXd(2, 0));
        }) == "alkn::eval::truth_ratio: expected at least one value, got none (wrong_losses)");
  CHECK(error_of([] {
          forget_truth_ratio(array({1, -1}));
        }) ==
        "alkn::eval::forget_truth_ratio: expected values in [0, inf], got -1 (truth_ratios[1])");
  CHECK(error_of([] { retain_truth_ratio(array({std::nan("")})); }) ==
        "alkn::eval::retain_truth_ratio: expected values in [0, inf], got nan (truth_ratios[0])");
}

TEST_CASE("model utility is a harmonic mean that one zero brings to zero", "[model_utility]") {
  const SetMetrics a{.9, .8, .7}, b{.6, .5, .4}, c{.3, .2, .1};
  double sum = 0;
  for (const double x : {.9, .8, .7, .6, .5, .4, .3, .2, .1}) sum += 1 / x;
  CHECK(relative_error(model_utility(a, b, c), 9 / sum) < 1e-15);
  CHECK(relative_error(model_utility({.5, .5, .5}, {.5, .5, .5}, {.5, .5, .5}), .5) < 1e-15);
  for (int part = 0; part < 9; ++part) {
    double values[9] = {.9, .8, .7, .6, .5, .4, .3, .2, .1};
    values[part] = 0;
    CHECK(model_utility({values[0], values[1], values[2]}, {values[3], values[4], values[5]},
                        {values[6], values[7], values[8]}) == 0);
  }
  CHECK(harmonic_mean(array({1, 2, 4})) == Approx(12.0 / 7).epsilon(1e-15));
  CHECK(error_of([&] {
          model_utility(a, b, {.3, 1.5, .1});
        }) ==
        "alkn::eval::model_utility: expected values in [0, 1], got 1.5 (retain, real_authors, "
        "world_facts[7])");
  CHECK(error_of([] {
          harmonic_mean(array({1, -2}));
        }) ==
        "alkn::eval::harmonic_mean: expected values in [0, 1.79769e+308], got -2 (values[1])");
  CHECK(error_of([] { harmonic_mean(array({})); }) ==
        "alkn::eval::harmonic_mean: expected at least one value, got none (values)");
}

TEST_CASE("extraction strength and exact memorisation, against their definitions",
          "[memorization]") {
  checks::Integers integers(5);
  for (int round = 0; round < 500; ++round) {
    const int size = 1 + integers(7);
    std::vector<int64_t> predicted, answer;
    for (int i = 0; i < size; ++i) {
      answer.push_back(integers(4));
      predicted.push_back(integers(3) == 0 ? integers(4) : answer.back());
    }
    // k runs upwards and stays at T - 1 where nothing matches, as open-unlearning has it.
    int k = 0;
    while (k < size - 1 && !std::equal(answer.begin() + k, answer.end(), predicted.begin() + k))
      ++k;
    int right = 0;
    for (int i = 0; i < size; ++i) {
      right +=
          predicted[static_cast<std::size_t>(i)] == answer[static_cast<std::size_t>(i)] ? 1 : 0;
    }
    CHECK(std::abs(extraction_strength(predicted, answer) - (1 - double(k) / size)) < 1e-15);
    CHECK(std::abs(exact_memorization(predicted, answer) - double(right) / size) < 1e-15);
  }
  const std::vector<int64_t> tokens{1, 2, 3, 4}, none{9, 9, 9, 9}, tail{9, 2, 9, 4};
  CHECK(extraction_strength(tokens, tokens) == 1);
  CHECK(extraction_strength(none, tokens) == .25);
  CHECK(extraction_strength(tail, tokens) == .25);
  CHECK(exact_memorization(tail, tokens) == .5);
  CHECK(exact_memorization(none, tokens) == 0);
  CHECK(error_of([&] { extraction_strength(tokens, {}); }) ==
        "alkn::eval::extraction_strength: expected at least one value, got none (answer)");
  CHECK(error_of([&] { exact_memorization(std::vector<int64_t>{1}, tokens); }) ==
        "alkn::eval::exact_memorization: expected 4 values, got 1 (predicted)");
}
