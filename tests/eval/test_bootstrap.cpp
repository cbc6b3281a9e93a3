// Bootstrap intervals and the per-task matrix.
#include <cmath>
#include <limits>
#include <vector>

#include "alkn/eval/eval.hpp"
#include "catch.hpp"
#include "checks.hpp"

using checks::array;
using checks::error_of;
using namespace alkn::eval;

TEST_CASE("the seed decides an interval, on every platform", "[bootstrap]") {
  // The same procedure written in Python, from the definition of the generator on.
  const Eigen::ArrayXd values = array({.1, .9, .4, .3, .8, .25, .6});
  const Interval single = bootstrap_mean(values, {500, .9, 7}, single_clusters(7));
  CHECK(std::abs(single.lower - 0.3071428571428571) < 1e-14);
  CHECK(std::abs(single.upper - 0.6357142857142858) < 1e-14);
  const Interval clustered =
      bootstrap_mean(values, {500, .9, 11}, Clusters{{0, 1, 2}, {3}, {4, 6}, {5}});
  CHECK(std::abs(clustered.lower - 0.36666666666666664) < 1e-14);
  CHECK(std::abs(clustered.upper - 0.5666666666666667) < 1e-14);
  const Interval again = bootstrap_mean(values, {500, .9, 7}, single_clusters(7));
  CHECK(again.lower == single.lower);
  CHECK(again.upper == single.upper);
  const Interval other = bootstrap_mean(values, {500, .9, 8}, single_clusters(7));
  CHECK((other.lower != single.lower || other.upper != single.upper));
}

TEST_CASE("the interval of a large sample is the normal one", "[bootstrap]") {
  const Eigen::ArrayXd values = Eigen::ArrayXd::LinSpaced(400, 0, 1);
  const double deviation = std::sqrt((values - .5).square().mean() / 400);
  const Interval interval = bootstrap_mean(values, {20000, .95, 1}, single_clusters(400));
  CHECK(std::abs((interval.lower - .5) / deviation + 1.96) < .06);
  CHECK(std::abs((interval.upper - .5) / deviation - 1.96) < .06);
}

TEST_CASE("authors are drawn, not questions", "[bootstrap]") {
  // Ten authors whose twenty questions all have one value: two hundred questions, ten of them new.
  Eigen::ArrayXd values(200);
  std::vector<int64_t> authors;
  for (int i = 0; i < 200; ++i) {
    values[i] = (i / 20) / 9.0;
    authors.push_back(i / 20);
  }
  const Clusters by_author = clusters_of(authors);
  REQUIRE(by_author.size() == 10);
  CHECK(by_author[3].front() == 60);
  CHECK(by_author[3].size() == 20);
  const Interval narrow = bootstrap_mean(values, {}, single_clusters(200));
  const Interval wide = bootstrap_mean(values, {}, by_author);
  const double ratio = (wide.upper - wide.lower) / (narrow.upper - narrow.lower);
  CHECK(std::abs(ratio - std::sqrt(20)) < .3);
  // One author: nothing varies.
  const Interval none = bootstrap_mean(values, {}, clusters_of(std::vector<int64_t>(200, 5)));
  CHECK(none.lower == Approx(values.mean()).epsilon(1e-14));
  CHECK(none.upper == none.lower);
}

TEST_CASE("two sets are drawn independently, two models on one set together", "[bootstrap]") {
  const Eigen::ArrayXd values = Eigen::ArrayXd::LinSpaced(50, 0, 1);
  const Clusters questions = single_clusters(50);
  const Interval together = bootstrap_interval(
      [&](const Positions& drawn) { return (values(drawn) - values(drawn)).mean(); }, {},
      questions);
  CHECK(together.lower == 0);
  CHECK(together.upper == 0);
  const Interval apart = bootstrap_interval(
      [&](const Positions& a, const Positions& b) { return values(a).mean() - values(b).mean(); },
      {}, questions, questions);
  const double deviation = std::sqrt(2 * (values - .5).square().mean() / 50);
  CHECK(std::abs((apart.upper - apart.lower) / deviation - 2 * 1.96) < .2);
  const Interval distance = bootstrap_interval(
      [&](const Positions& a, const Positions& b) { return auc(values(a), values(b)); }, {},
      questions, questions);
  CHECK(distance.lower < .5);
  CHECK(distance.upper > .5);
}

TEST_CASE("quantiles lie between neighbours", "[bootstrap]") {
  const std::vector<double> sorted{1, 2, 4, 8};
  CHECK(detail::sorted_quantile(sorted, 0) == 1);
  CHECK(detail::sorted_quantile(sorted, 1) == 8);
  CHECK(detail::sorted_quantile(sorted, .5) == 3);
  CHECK(detail::sorted_quantile(sorted, .75) == 5);
  CHECK(detail::sorted_quantile({5}, .3) == 5);
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(detail::sorted_quantile({-infinity, -infinity, 1, infinity, infinity}, .2) == -infinity);
  CHECK(detail::sorted_quantile({-infinity, -infinity, 1, infinity, infinity}, .3) == -infinity);
  CHECK(detail::sorted_quantile({-infinity, -infinity, 1, infinity, infinity}, .5) == 1);
  CHECK(detail::sorted_quantile({-infinity, -infinity, 1, infinity, infinity}, .6) == infinity);
  CHECK(detail::sorted_quantile({-infinity, -infinity, 1, infinity, infinity}, .8) == infinity);
}

TEST_CASE("numbers are drawn uniformly", "[bootstrap]") {
  std::mt19937_64 generator(3);
  std::vector<int> counts(7, 0);
  for (int i = 0; i < 70000; ++i) ++counts[detail::draw_below(generator, 7)];
  for (const int count : counts) CHECK(std::abs(count - 10000) < 400);
  for (int i = 0; i < 10; ++i) CHECK(detail::draw_below(generator, 1) == 0);
}

TEST_CASE("the bootstrap refuses what it cannot draw", "[bootstrap]") {
  const Eigen::ArrayXd values = array({1, 2});
  const auto mean = [&](const BootstrapOptions& options, const Clusters& clusters) {
    return error_of([&] { bootstrap_mean(values, options, clusters); });
  };
  CHECK(mean({0, .9, 1}, single_clusters(2)) ==
        "alkn::eval::bootstrap_interval: expected resamples of at least 1, got 0");
  CHECK(mean({10, 1, 1}, single_clusters(2)) ==
        "alkn::eval::bootstrap_interval: expected confidence in (0, 1), got 1");
  CHECK(mean({}, {}) ==
        "alkn::eval::bootstrap_interval: expected at least one value, got none (clusters)");
  CHECK(mean({}, {{0}, {}}) ==
        "alkn::eval::bootstrap_interval: expected at least one value, got none (clusters[1])");
  CHECK(mean({}, {{0}, {2}}) ==
        "alkn::eval::bootstrap_mean: expected positions below 2, got 2 (clusters[1])");
  CHECK(error_of([&] {
          bootstrap_mean(array({1, NAN}), {}, single_clusters(2));
        }) == "alkn::eval::bootstrap_mean: expected finite values, got nan (values[1])");
  CHECK(error_of([&] {
          bootstrap_interval([](const Positions&) { return std::nan(""); }, {}, single_clusters(2));
        }) == "alkn::eval::bootstrap_interval: expected a number from the statistic, got nan");
}

TEST_CASE("the per-task matrix shows what returns, what adds up and what is hit early",
          "[task_matrix]") {
  TaskMatrix matrix;
  matrix.requests.resize(4, 3);
  matrix.requests << .9, .8, .7,  // the original
      .2, .75, .7,                // after the first request
      .5, .1, .6,                 // after the second
      .4, .3, .05;                // after the third
  matrix.kept_shown = array({.9, .9, .85, .8});
  matrix.kept_unseen = array({.9, .8, .6, .65});
  const Eigen::ArrayXd returned = returned_knowledge(matrix);
  CHECK((returned - array({.3, .2, 0})).abs().maxCoeff() < 1e-15);
  const Eigen::ArrayXd early = early_damage(matrix);
  CHECK((early - array({0, .05, .1})).abs().maxCoeff() < 1e-15);
  const Eigen::ArrayXd decline = accumulated_decline(matrix.kept_unseen);
  CHECK((decline - array({0, .1, .3, .25})).abs().maxCoeff() < 1e-15);
}

TEST_CASE("the per-task matrix refuses sizes that do not fit", "[task_matrix]") {
  TaskMatrix matrix;
  CHECK(error_of([&] { matrix.validate(); }) ==
        "alkn::eval::TaskMatrix: expected at least one value, got none (requests)");
  matrix.requests = Eigen::ArrayXXd::Ones(3, 3);
  CHECK(error_of([&] { early_damage(matrix); }) ==
        "alkn::eval::TaskMatrix: expected one row more than columns, got 3 rows, 3 columns "
        "(requests)");
  matrix.requests = Eigen::ArrayXXd::Ones(4, 3);
  CHECK(error_of([&] { matrix.validate(); }).empty());
  matrix.kept_unseen = array({1, 1, 1});
  CHECK(error_of([&] { returned_knowledge(matrix); }) ==
        "alkn::eval::TaskMatrix: expected 4 values, got 3 (kept_unseen)");
  matrix.kept_unseen = array({1, 1, NAN, 1});
  CHECK(error_of([&] { matrix.validate(); }) ==
        "alkn::eval::TaskMatrix: expected finite values, got nan (kept_unseen[2])");
  matrix.requests(2, 1) = NAN;
  CHECK(error_of([&] { matrix.validate(); }) ==
        "alkn::eval::TaskMatrix: expected finite values, got nan (requests[2][1])");
  CHECK(error_of([] { accumulated_decline(array({})); }) ==
        "alkn::eval::accumulated_decline: expected at least one value, got none (kept)");
}
