// The example of docs/metrics.md: what stands between the two marks is the page's.
// [example]
#include <alkn/eval/eval.hpp>
#include <string>
#include <vector>

struct Answers {                     // of one model to the questions of one set
  Eigen::ArrayXd losses;             // mean negative log-likelihood per token of the answer
  Eigen::ArrayXd paraphrased;        // of the rephrased answer
  Eigen::ArrayXXd wrong;             // of the wrong answers, one column each
  std::vector<std::string> text;     // what greedy decoding gives
  std::vector<std::string> correct;  // what it should give
};

alkn::eval::SetMetrics retain_metrics(const Answers& answers) {
  Eigen::ArrayXd rouge(answers.losses.size());
  for (Eigen::Index i = 0; i < rouge.size(); ++i) {
    const auto question = static_cast<std::size_t>(i);
    rouge[i] = alkn::eval::rouge_l_recall(answers.correct[question], answers.text[question]);
  }
  const Eigen::ArrayXd ratios = alkn::eval::truth_ratio(answers.paraphrased, answers.wrong);
  return {.probability = alkn::eval::probability(answers.losses).mean(),
          .rouge = rouge.mean(),
          .truth_ratio = alkn::eval::retain_truth_ratio(ratios).mean()};
}

double forget_quality(const Answers& unlearned, const Answers& gold) {
  return alkn::eval::forget_quality(alkn::eval::truth_ratio(unlearned.paraphrased, unlearned.wrong),
                                    alkn::eval::truth_ratio(gold.paraphrased, gold.wrong))
      .p_value;
}
// [example]

#include <cmath>
#include <fstream>
#include <iterator>

#include "catch.hpp"
#include "checks.hpp"

namespace {

std::string read(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  REQUIRE(stream);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("the example of the page is this file's", "[docs]") {
  const std::string source = read(ALKN_METRICS_EXAMPLE), mark = "// [example]\n";
  const std::size_t begin = source.find(mark) + mark.size();
  const std::string example = source.substr(begin, source.find(mark, begin) - begin);
  REQUIRE(example.size() > 1000);
  CHECK(read(ALKN_METRICS_PAGE).find("```cpp\n" + example + "```\n") != std::string::npos);
}

TEST_CASE("the example of the page gives the metrics", "[docs]") {
  Answers answers{checks::array({0, std::log(4.)}),
                  checks::array({1, 1}),
                  Eigen::ArrayXXd(2, 2),
                  {"He is a writer", "Paris"},
                  {"a writer", "Paris, France"}};
  answers.wrong << 1 + std::log(2.), 1 + std::log(2.), 1 + std::log(4.), 1 + std::log(4.);
  const alkn::eval::SetMetrics metrics = retain_metrics(answers);
  CHECK(metrics.probability == Approx(.625).epsilon(1e-14));
  CHECK(metrics.rouge == .75);
  CHECK(metrics.truth_ratio == Approx(.625).epsilon(1e-14));
  CHECK(forget_quality(answers, answers) == 1);
}
