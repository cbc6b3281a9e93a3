// Gradients that benchmarks draw from what was counted.
#include "../../benchmarks/gradients.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "catch.hpp"

using alkn_bench::RealGradients;

namespace {

/// A file in the folder of temporary files, for the life of the object.
struct File {
  std::string path;
  explicit File(const std::string& text)
      : path((std::filesystem::temp_directory_path() / "alkn_test_gradients.json").string()) {
    std::ofstream(path) << text;
  }
  ~File() { std::filesystem::remove(path); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
};

}  // namespace

TEST_CASE("an entry's gradients go with its retain gradient, in the shares that were counted") {
  // where G_r is 0, g is; at 2^-10 g is 2^-40 or 2^-20; at 2^-60 it is 2^-8, at the last step 0
  const File file(R"({"octaves": 2, "kinds": {"mlp": [
    [[null, null, 0.25], [-40, -10, 0.25], [-20, -10, 0.25], [-8, -60, 0.25]],
    [[null, null, 0.25], [-40, -10, 0.25], [-20, -10, 0.25], [null, -60, 0.25]]]}})");
  const RealGradients source(file.path);
  constexpr std::int64_t kSize = 200000;
  std::vector<float> r(kSize), first(kSize), last(kSize), again(kSize);
  source.retain("mlp", r.data(), kSize);
  source.gradient("mlp", 5, 0, first.data(), kSize);
  source.gradient("mlp", 6, 0, again.data(), kSize);
  source.gradient("mlp", 5, 1, last.data(), kSize);
  CHECK(first != again);
  const auto in_bin = [](float x, int low) {
    return std::fabs(x) >= std::exp2(static_cast<float>(low)) &&
           std::fabs(x) < std::exp2(static_cast<float>(low + 2));
  };
  std::int64_t wrong = 0, zero = 0, small = 0, negative = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    const bool right = r[i] == 0           ? first[i] == 0 && last[i] == 0
                       : in_bin(r[i], -60) ? in_bin(first[i], -8) && last[i] == 0
                       : in_bin(r[i], -10) ? in_bin(first[i], -40) || in_bin(first[i], -20)
                                           : false;
    wrong += right ? 0 : 1;
    zero += r[i] == 0 ? 1 : 0;
    small += in_bin(first[i], -40) ? 1 : 0;
    negative += first[i] < 0 ? 1 : 0;
  }
  CHECK(wrong == 0);
  CHECK(zero == Approx(kSize / 4).epsilon(0.02));
  CHECK(small == Approx(kSize / 4).epsilon(0.02));
  CHECK(negative == Approx(kSize * 3 / 8).epsilon(0.02));
}

TEST_CASE("a file that is none of counts is refused") {
  for (const char* text : {"", "[]", "{}", "{\"kinds"}) {
    const File file(text);
    CHECK_THROWS_WITH(RealGradients(file.path),
                      "alkn_bench::RealGradients: expected the JSON of record_gradients, got "
                      "another file or none (" +
                          file.path + ")");
  }
}

TEST_CASE("a tensor's kind is told by its shape") {
  CHECK(alkn_bench::kind_of({49152, 576}) == "embedding");
  CHECK(alkn_bench::kind_of({576, 576}) == "attention");
  CHECK(alkn_bench::kind_of({192, 576}) == "attention");
  CHECK(alkn_bench::kind_of({1536, 576}) == "mlp");
  CHECK(alkn_bench::kind_of({576}) == "norm");
}
