// Membership inference: scores, AUC, PrivLeak.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "alkn/eval/compressed_size.hpp"
#include "alkn/eval/membership.hpp"
#include "catch.hpp"
#include "checks.hpp"

using checks::array;
using checks::error_of;
using namespace alkn::eval;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double auc_by_pairs(const Eigen::ArrayXd& positive, const Eigen::ArrayXd& negative) {
  double sum = 0;
  for (const double p : positive) {
    for (const double n : negative) sum += p > n ? 1 : p == n ? .5 : 0;
  }
  return sum / double(positive.size()) / double(negative.size());
}

}  // namespace

TEST_CASE("loss and zlib scores", "[membership]") {
  CHECK(loss_score(array({-1, -2, -6})) == 3);
  CHECK(zlib_score(3, 12) == .25);
  // As Python's len(zlib.compress(text)).
  CHECK(compressed_size("") == 8);
  CHECK(compressed_size("a") == 9);
  CHECK(compressed_size("The author's full name is Hsiao Yun-Hwa.") == 48);
  std::string repeated, accents;
  for (int i = 0; i < 500; ++i) repeated += "ab";
  for (int i = 0; i < 20; ++i) accents += "Jos\xC3\xA9 ";
  CHECK(compressed_size(repeated) == 18);
  CHECK(compressed_size(accents) == 17);
}

TEST_CASE("Min-K% takes the lowest two fifths", "[membership]") {
  CHECK(min_k_score(array({-3})) == -3);
  CHECK(min_k_score(array({-1, -4})) == -4);
  CHECK(min_k_score(array({-1, -5, -2, -7})) == -7);
  CHECK(min_k_score(array({-1, -5, -2, -7, -3})) == -6);
  CHECK(min_k_score(array({-1, -5, -2, -7, -3}), 1) == Approx(-18.0 / 5).epsilon(1e-15));
  for (Eigen::Index size = 1; size < 60; ++size) {
    // The values 1 .. T: the mean of the lowest K is T - (K - 1) / 2 below zero.
    const Eigen::ArrayXd values = -Eigen::ArrayXd::LinSpaced(size, 1, double(size));
    const auto number = std::max<Eigen::Index>(1, 2 * size / 5);
    CHECK(min_k_score(values) == Approx(-(double(size) - double(number - 1) / 2)).epsilon(1e-14));
  }
}

TEST_CASE("Min-K%++ normalises by the model's own distribution", "[membership]") {
  Eigen::ArrayXXd log_probabilities(3, 3);
  log_probabilities.row(0) << std::log(.5), std::log(.25), std::log(.25);
  log_probabilities.row(1) << 0, -kInfinity, -kInfinity;  // certain: variance 0
  log_probabilities.row(2) << std::log(.1), std::log(.2), std::log(.7);
  const TokenMoments moments = token_moments(log_probabilities);
  const double mean = .5 * std::log(.5) + .5 * std::log(.25);
  CHECK(moments.mean[0] == Approx(mean).epsilon(1e-14));
  CHECK(moments.variance[0] ==
        Approx(.5 * std::pow(std::log(.5) - mean, 2) + .5 * std::pow(std::log(.25) - mean, 2))
            .epsilon(1e-14));
  CHECK(moments.mean[1] == 0);
  CHECK(moments.variance[1] == 0);
  double square = 0;
  for (const double p : {.1, .2, .7}) square += p * std::log(p) * std::log(p);
  CHECK(moments.variance[2] == Approx(square - moments.mean[2] * moments.mean[2]).epsilon(1e-13));

  const double first = (std::log(.25) - mean) / std::sqrt(moments.variance[0]);
  const double third = (std::log(.1) - moments.mean[2]) / std::sqrt(moments.variance[2]);
  const Eigen::ArrayXd tokens = array({std::log(.25), 0, std::log(.1)});
  CHECK(min_k_plus_plus_score(tokens, moments) == Approx(std::min(first, third)).epsilon(1e-14));
  CHECK(min_k_plus_plus_score(tokens, moments, 1) == Approx((first + third) / 3).epsilon(1e-14));
  // A variance below 1e-6 counts as 1e-6.
  CHECK(min_k_plus_plus_score(array({-.002}), {array({-.001}), array({0})}) ==
        Approx(-1).epsilon(1e-12));
}

TEST_CASE("AUC, against all pairs", "[membership]") {
  checks::Integers integers(23);
  for (int round = 0; round < 300; ++round) {
    Eigen::ArrayXd positive(1 + integers(15)), negative(1 + integers(15));
    for (double& x : positive) x = integers(8);
    for (double& x : negative) x = integers(6);
    const double value = auc(positive, negative);
    CHECK(std::abs(value - auc_by_pairs(positive, negative)) < 1e-15);
    CHECK(std::abs(auc(-positive, -negative) - (1 - value)) < 1e-15);
    CHECK(std::abs(auc(negative, positive) - (1 - value)) < 1e-15);
    // The order of the sequences says nothing.
    CHECK(auc(positive.reverse(), negative.reverse()) == value);
  }
  CHECK(auc(array({1, kInfinity}), array({-kInfinity, 0})) == 1);
}

TEST_CASE("every attack is turned towards the members", "[membership]") {
  const Eigen::ArrayXd low = array({.1, .2, .4}), high = array({.3, .5, .9});
  CHECK(membership_auc(Attack::loss, low, high) == Approx(8.0 / 9));
  CHECK(membership_auc(Attack::zlib, low, high) == Approx(8.0 / 9));
  CHECK(membership_auc(Attack::min_k, high, low) == Approx(8.0 / 9));
  CHECK(membership_auc(Attack::min_k_plus_plus, high, low) == Approx(8.0 / 9));
  CHECK(membership_auc(Attack::min_k, low, high) == Approx(1.0 / 9));
}

TEST_CASE("PrivLeak compares with the gold model", "[membership]") {
  CHECK(privacy_leakage(.5, .5) == 0);
  CHECK(privacy_leakage(1, .5) == -100);
  CHECK(privacy_leakage(0, .5) == 100);
  CHECK(privacy_leakage(.7, .6) == Approx(100 * (.3 - .4) / .4).epsilon(1e-14));
  CHECK(error_of([] { privacy_leakage(.5, 1); }) ==
        "alkn::eval::privacy_leakage: expected a gold_auc below 1, got 1");
  CHECK(error_of([] { privacy_leakage(1.5, .5); }) ==
        "alkn::eval::privacy_leakage: expected values in [0, 1], got 1.5 (auc[0])");
}

TEST_CASE("membership inference refuses what it cannot take", "[membership]") {
  CHECK(error_of([] { loss_score(array({})); }) ==
        "alkn::eval::loss_score: expected at least one value, got none (log_probabilities)");
  CHECK(error_of([] {
          loss_score(array({-1, .5}));
        }) ==
        "alkn::eval::loss_score: expected values in [-1.79769e+308, 0], got 0.5 "
        "(log_probabilities[1])");
  CHECK(error_of([] { zlib_score(1, 0); }) ==
        "alkn::eval::zlib_score: expected a positive number of bytes, got 0 (compressed_bytes)");
  CHECK(error_of([] { zlib_score(std::nan(""), 1); }) ==
        "alkn::eval::zlib_score: expected a finite loss of at least 0, got nan (loss)");
  CHECK(error_of([] { min_k_score(array({-1}), 0); }) ==
        "alkn::eval::min_k_score: expected a share in (0, 1], got 0 (share)");
  CHECK(error_of([] {
          min_k_score(array({-1, std::nan("")}));
        }) ==
        "alkn::eval::min_k_score: expected values in [-1.79769e+308, 0], got nan "
        "(log_probabilities[1])");
  CHECK(error_of([] {
          min_k_plus_plus_score(array({-1, -1}), {array({-1}), array({1})});
        }) == "alkn::eval::min_k_plus_plus_score: expected 2 values, got 1 (moments.mean)");
  CHECK(error_of([] {
          min_k_plus_plus_score(array({-1}), {array({-1}), array({-1})});
        }) ==
        "alkn::eval::min_k_plus_plus_score: expected values in [0, 1.79769e+308], got -1 "
        "(moments.variance[0])");
  CHECK(error_of([] { token_moments(Eigen::ArrayXXd(0, 3)); }) ==
        "alkn::eval::token_moments: expected at least one value, got none (log_probabilities)");
  CHECK(error_of([] { token_moments(Eigen::ArrayXXd::Constant(1, 2, .5)); }) ==
        "alkn::eval::token_moments: expected log-probabilities of at most 0, got 0.5 "
        "(log_probabilities[0][0])");
  CHECK(error_of([] { auc(array({std::nan("")}), array({1})); }) ==
        "alkn::eval::auc: expected values in [-inf, inf], got nan (positive[0])");
  CHECK(error_of([] { membership_auc(Attack::loss, array({1}), array({})); }) ==
        "alkn::eval::auc: expected at least one value, got none (positive)");
}
