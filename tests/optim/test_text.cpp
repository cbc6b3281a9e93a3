// Texts of pieces: numbers as fmt writes them, since checkpoints compare options as texts.
#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <locale>
#include <string>
#include <vector>

#include "alkn/text.hpp"
#include "catch.hpp"

using alkn::detail::hash_text;
using alkn::detail::listed;
using alkn::detail::text_of;

namespace {

/// A number of these bits; NaN has a text without its payload.
double number_of(std::uint64_t bits) {
  double number = 0;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

struct Grouped : std::numpunct<char> {
  [[nodiscard]] char do_thousands_sep() const override { return '.'; }
  [[nodiscard]] char do_decimal_point() const override { return ','; }
  [[nodiscard]] std::string do_grouping() const override { return "\3"; }
};

}  // namespace

TEST_CASE("text: words, letters, flags and numbers of any type") {
  const std::string word = "word";
  CHECK(text_of({"a ", word, ' ', std::string_view("view"), " ", true, " ", false}) ==
        "a word view true false");
  CHECK(text_of({std::int64_t{-7}, " ", std::size_t{8}, " ", 1234567, " ",
                 std::numeric_limits<std::uint64_t>::max(), " ",
                 std::numeric_limits<std::int64_t>::min()}) ==
        "-7 8 1234567 18446744073709551615 -9223372036854775808");
  CHECK(text_of({}).empty());
  CHECK(listed(std::vector<int>{}).empty());
  CHECK(listed(std::vector<int>{3}) == "3");
  CHECK(listed(std::vector<std::int64_t>{3, -1, 0}) == "3, -1, 0");
  CHECK(hash_text(0) == "0000000000000000");
  CHECK(hash_text(0x1F2E) == "0000000000001f2e");
  CHECK(hash_text(~std::uint64_t{0}) == "ffffffffffffffff");
}

TEST_CASE("text: a double as fmt has it") {
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> numbers{0,
                              -0.0,
                              1,
                              0.1,
                              -0.1,
                              1e-4,
                              9.999999999999999e-5,
                              1e-5,
                              1e-8,
                              1e5,
                              1e15,
                              1e16,
                              1e17,
                              9999999999999998.0,
                              123.5,
                              2.5e-3,
                              1.0 / 3,
                              1e300,
                              5e-324,
                              -1e22,
                              infinity,
                              -infinity,
                              std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::max()};
  std::uint64_t bits = 1;
  for (int i = 0; i < 200000; ++i) {
    bits = bits * 6364136223846793005U + 1442695040888963407U;
    numbers.push_back(number_of(bits));                            // any exponent
    numbers.push_back(static_cast<double>(bits >> 40U) * 1e-4);    // few digits
    numbers.push_back(static_cast<double>(bits >> (bits & 31U)));  // whole ones
  }
  std::size_t differ = 0;
  for (const double x : numbers) {
    const std::string text = text_of({x});
    if (text == fmt::format("{}", x)) continue;
    ++differ;
    CHECK(text == fmt::format("{}", x));
    if (differ == 10) break;
  }
  CHECK(differ == 0);
  for (const double x : {0.0, 0.00123, 1.26e-5, -0.009951, 12.0})
    CHECK(text_of({{x, 2}}) == fmt::format("{:.2g}", x));
}

TEST_CASE("text: no locale changes a number") {
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouped));
  const std::string text = text_of({1234567, " ", 1234567.5});
  std::locale::global(before);
  CHECK(text == "1234567 1234567.5");
}
