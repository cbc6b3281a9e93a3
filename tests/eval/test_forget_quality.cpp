// The exact two-sample Kolmogorov-Smirnov test.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "alkn/eval/forget_quality.hpp"
#include "catch.hpp"
#include "checks.hpp"

using checks::array;
using checks::error_of;
using checks::relative_error;
using namespace alkn::eval;

namespace {

/// Two samples of n values with D = k / n.
ForgetQuality shifted(int n, int k) {
  const Eigen::ArrayXd a = Eigen::ArrayXd::LinSpaced(n, 0, n - 1);
  return forget_quality(a, a + (k - .5));
}

/// Largest difference of the distribution functions, value by value.
double distance_by_definition(const Eigen::ArrayXd& a, const Eigen::ArrayXd& b) {
  double largest = 0;
  for (const Eigen::ArrayXd* sample : {&a, &b}) {
    for (const double x : *sample) {
      const double difference =
          double((a <= x).count()) / double(a.size()) - double((b <= x).count()) / double(b.size());
      largest = std::max(largest, std::abs(difference));
    }
  }
  return largest;
}

struct Case {
  int64_t n, m, h;
  double p, log_p;
};

}  // namespace

TEST_CASE("p of equal sizes has twelve digits", "[forget_quality]") {
  // The definition in rational arithmetic, to 17 digits.
  const Case cases[] = {{400, 400, 149, 4.3461996001290044e-25, -56.095325516752386},
                        {400, 400, 400, 1.0635896769518567e-239, -550.25618755099899},
                        {400, 400, 25, .41578882350089298, -.87757778342671682},
                        {200, 200, 51, 4.0248065114394903e-6, -12.42303371994128},
                        {40, 40, 8, .40458740568525297, -.90488748254994489},
                        {300, 300, 104, 2.1942743021891258e-16, -36.055510110079311},
                        {2000, 2000, 900, 9.6380801838897418e-183, -419.10735008016989},
                        {5000, 5000, 60, .86433251529805938, -.14579772854697888},
                        {400, 400, 1, 1, 0},
                        {400, 400, 2, 1, 0}};
  for (const Case& c : cases) {
    const ForgetQuality quality = shifted(static_cast<int>(c.n), static_cast<int>(c.h));
    INFO("n = " << c.n << ", k = " << c.h);
    CHECK(std::abs(quality.distance - double(c.h) / double(c.n)) < 1e-15);
    CHECK(relative_error(quality.p_value, c.p) < 1e-12);
    CHECK(std::abs(quality.log_p_value - c.log_p) < 1e-12 * std::max(1.0, std::abs(c.log_p)));
  }
}

TEST_CASE("a p below the smallest double still has a logarithm", "[forget_quality]") {
  const ForgetQuality quality = shifted(2000, 2000);
  CHECK(quality.p_value == 0);
  CHECK(relative_error(quality.log_p_value, -2767.5226963865262) < 1e-14);
}

TEST_CASE("p of unequal sizes has twelve digits", "[forget_quality]") {
  // Lattice paths counted in whole numbers.
  const Case cases[] = {{400, 300, 120000, 1.6183255230278437e-206, -473.85113716985127},
                        {400, 300, 60000, 1.8132973118734715e-39, -89.205671719541006},
                        {117, 100, 5000, 2.1923774500623661e-9, -19.938279288312874},
                        {100, 117, 5000, 2.1923774500623661e-9, -19.938279288312874},
                        {3600, 400, 360000, 2.8652088522968865e-20, -44.999060614536264},
                        {40, 41, 320, .34062365682150834, -1.0769770568487091},
                        {1, 400, 400, .0049875311720698254, -5.3008142467466239},
                        {7, 400, 1500, .022517651674567623, -3.7934557584761643},
                        {400, 3600, 1440000, 0, -1295.7765451881985},
                        {600, 700, 420000, 0, -892.74015405335172}};
  for (const Case& c : cases) {
    const detail::ScaledNumber p = detail::ks_tail_any_sizes(c.n, c.m, c.h);
    INFO("n = " << c.n << ", m = " << c.m << ", h = " << c.h);
    CHECK(relative_error(p.value(), c.p) < 1e-12);
    CHECK(relative_error(p.log(), c.log_p) < 1e-13);
  }
}

TEST_CASE("both ways of counting agree at equal sizes", "[forget_quality]") {
  for (int64_t n : {1, 2, 3, 10, 61, 200}) {
    for (int64_t k = 1; k <= n; k += 1 + n / 20) {
      const double closed = detail::ks_tail_equal_sizes(n, k).log();
      CHECK(std::abs(detail::ks_tail_any_sizes(n, n, k * n).log() - closed) < 1e-12);
    }
  }
}

TEST_CASE("D and p, against every order of two small samples", "[forget_quality]") {
  for (int n = 1; n <= 6; ++n) {
    for (int m = 1; m <= 6; ++m) {
      // Which of the n + m ranks belong to the first sample: all equally likely.
      std::vector<int> owner(static_cast<std::size_t>(n + m), 1);
      std::fill_n(owner.begin(), n, 0);
      std::map<double, ForgetQuality> by_distance;
      std::vector<double> distances;
      do {
        Eigen::ArrayXd a(n), b(m);
        Eigen::Index i = 0, j = 0;
        for (std::size_t rank = 0; rank < owner.size(); ++rank) {
          (owner[rank] == 0 ? a[i++] : b[j++]) = static_cast<double>(rank);
        }
        const ForgetQuality quality = forget_quality(a, b);
        CHECK(std::abs(quality.distance - distance_by_definition(a, b)) < 1e-15);
        CHECK(quality.distance == ks_distance(a, b));
        distances.push_back(quality.distance);
        by_distance.emplace(quality.distance, quality);
      } while (std::next_permutation(owner.begin(), owner.end()));
      for (const auto& [distance, quality] : by_distance) {
        const auto as_far = std::count_if(distances.begin(), distances.end(),
                                          [d = distance](double x) { return x > d - 1e-12; });
        CHECK(std::abs(quality.p_value - double(as_far) / double(distances.size())) < 1e-14);
      }
    }
  }
}

TEST_CASE("D with ties, against the definition", "[forget_quality]") {
  checks::Integers integers(17);
  for (int round = 0; round < 300; ++round) {
    Eigen::ArrayXd a(1 + integers(12)), b(1 + integers(12));
    for (double& x : a) x = integers(5);
    for (double& x : b) x = integers(6);
    CHECK(std::abs(ks_distance(a, b) - distance_by_definition(a, b)) < 1e-15);
    CHECK(ks_distance(a, b) == Approx(ks_distance(b, a)).epsilon(1e-15));
    CHECK(std::abs(forget_quality(a, b).p_value - forget_quality(b, a).p_value) < 1e-13);
  }
}

TEST_CASE("a model is indistinguishable from itself", "[forget_quality]") {
  for (const Eigen::ArrayXd& ratios :
       {array({.5}), array({.1, .2, .2, 3}), Eigen::ArrayXd(Eigen::ArrayXd::Random(400))}) {
    const ForgetQuality quality = forget_quality(ratios, ratios);
    CHECK(quality.distance == 0);
    CHECK(quality.p_value == 1);
    CHECK(quality.log_p_value == 0);
  }
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  CHECK(forget_quality(array({1, kInfinity}), array({1, kInfinity})).p_value == 1);
}

TEST_CASE("forget quality refuses what it cannot order", "[forget_quality]") {
  CHECK(error_of([] { forget_quality(array({}), array({1})); }) ==
        "alkn::eval::forget_quality: expected at least one value, got none (unlearned)");
  CHECK(error_of([] {
          forget_quality(array({1}), array({1, std::nan("")}));
        }) == "alkn::eval::forget_quality: expected values in [-inf, inf], got nan (reference[1])");
  CHECK(error_of([] { ks_distance(array({1}), array({})); }) ==
        "alkn::eval::ks_distance: expected at least one value, got none (reference)");
}
