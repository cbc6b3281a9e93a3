// ROUGE-L recall, its words and their stems.
#include <zlib.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "alkn/eval/porter_stemmer.hpp"
#include "alkn/eval/rouge.hpp"
#include "catch.hpp"
#include "checks.hpp"

using checks::error_of;
using namespace alkn::eval;
using Words = std::vector<std::string>;

namespace {

std::string read_compressed(const std::string& file) {
  std::string text;
  gzFile stream = gzopen(file.c_str(), "rb");
  REQUIRE(stream != nullptr);
  char buffer[1 << 16];
  for (int size; (size = gzread(stream, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(size));
  }
  REQUIRE(gzclose(stream) == Z_OK);
  return text;
}

bool is_subsequence(const Words& part, const Words& whole) {
  std::size_t found = 0;
  for (const std::string& word : whole) {
    if (found < part.size() && part[found] == word) ++found;
  }
  return found == part.size();
}

}  // namespace

TEST_CASE("stems are NLTK's, letter for letter", "[porter_stemmer]") {
  std::istringstream lines(read_compressed(ALKN_PORTER_STEMS));
  int64_t words = 0, wrong = 0;
  for (std::string word, stem; lines >> word >> stem; ++words) {
    if (porter_stem(word) != stem) {
      ++wrong;
      UNSCOPED_INFO(word << ": expected " << stem << ", got " << porter_stem(word));
    }
  }
  CHECK(words > 40000);
  CHECK(wrong == 0);
}

TEST_CASE("short and irregular words", "[porter_stemmer]") {
  CHECK(porter_stem("").empty());
  CHECK(porter_stem("s") == "s");
  CHECK(porter_stem("as") == "as");
  CHECK(porter_stem("skies") == "sky");
  CHECK(porter_stem("dies") == "die");
  CHECK(porter_stem("flies") == "fli");
  CHECK(porter_stem("enjoy") == "enjoy");
  CHECK(porter_stem("succeed") == "succeed");
}

TEST_CASE("words are those of the rouge-score package", "[rouge]") {
  CHECK(rouge_tokens("The \xC4\xB0stanbul poet's 3rd novel, 300\xE2\x84\xAAm long: Cr\xC3\xA8me "
                     "BR\xC3\x9BL\xC3\x89"
                     "E -- running flies!") == Words{"the", "i", "stanbul", "poet", "s", "3rd",
                                                     "novel", "300km", "long", "cr", "me", "br",
                                                     "l", "e", "run", "fli"});
  CHECK(rouge_tokens("").empty());
  CHECK(rouge_tokens("  \n..").empty());
  CHECK(rouge_tokens("dying1 YEARS yields") == Words{"dying1", "year", "yield"});
  CHECK(rouge_tokens("a\xC2\xA0"
                     "b\xE2\x80\x94"
                     "cities") == Words{"a", "b", "citi"});
  CHECK(rouge_tokens("It was his gas, says Ellis") ==
        Words{"it", "was", "his", "gas", "say", "elli"});
  CHECK(rouge_tokens("\xC4") == Words{});  // a character cut in two
}

TEST_CASE("the longest common subsequence, against all subsequences", "[rouge]") {
  checks::Integers integers(11);
  for (int round = 0; round < 300; ++round) {
    Words a, b;
    const int size_a = integers(9), size_b = integers(9);
    for (int i = 0; i < size_a; ++i)
      a.push_back(std::string(1, static_cast<char>('a' + integers(3))));
    for (int i = 0; i < size_b; ++i)
      b.push_back(std::string(1, static_cast<char>('a' + integers(3))));
    int64_t longest = 0;
    for (unsigned chosen = 0; chosen < 1u << a.size(); ++chosen) {
      Words part;
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (chosen >> i & 1) part.push_back(a[i]);
      }
      if (is_subsequence(part, b)) longest = std::max(longest, static_cast<int64_t>(part.size()));
    }
    CHECK(longest_common_subsequence(a, b) == longest);
    CHECK(longest_common_subsequence(b, a) == longest);
  }
}

TEST_CASE("ROUGE-L recall", "[rouge]") {
  CHECK(rouge_l_recall("Japan", "Answer: Japan is known.") == 1);
  CHECK(rouge_l_recall("The cat sat on the mat", "the mat cats sit on") == .5);
  CHECK(rouge_l_recall("one two three four", "ONE, three; two... four?") == .75);
  CHECK(rouge_l_recall("word", "") == 0);
  CHECK(
      error_of([] { rouge_l_recall("?!", "word"); }) ==
      "alkn::eval::rouge_l_recall: expected a reference with at least one word of a-z and 0-9, got "
      "none (reference \"?!\")");
}
