// The strings that the tokenizers' tests read: strings.py, again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace test_strings {

inline constexpr std::uint64_t kNumStrings = 20000;

/// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t below(std::uint64_t bound) {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % bound;
  }

 private:
  std::uint64_t state_;
};

inline std::string utf8(std::uint64_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) {
    return {static_cast<char>(code)};
  }
  if (code < 0x800) {
    return {static_cast<char>(0xc0 | (code >> 6)), tail(0)};
  }
  if (code < 0x10000) {
    return {static_cast<char>(0xe0 | (code >> 12)), tail(6), tail(0)};
  }
  return {static_cast<char>(0xf0 | (code >> 18)), tail(12), tail(6), tail(0)};
}

inline std::string generated(std::uint64_t index, const nlohmann::json& material) {
  Random random(index);
  const nlohmann::json& fragments = material["fragments"];
  const nlohmann::json& ranges = material["ranges"];
  const auto fragment = [&] {
    return fragments[random.below(fragments.size())].get<std::string>();
  };
  std::string text;
  const std::uint64_t pieces = 1 + random.below(16);
  for (std::uint64_t i = 0; i < pieces; ++i) {
    const std::uint64_t kind = random.below(16);
    if (kind < 12) {
      text += fragment();
    } else if (kind < 14) {
      const nlohmann::json& range = ranges[random.below(ranges.size())];
      const auto first = range[0].get<std::uint64_t>();
      text += utf8(first + random.below(range[1].get<std::uint64_t>() - first + 1));
    } else if (kind == 14) {
      const std::string repeated = fragment();
      for (std::uint64_t times = 1 + random.below(9); times > 0; --times) {
        text += repeated;
      }
    } else {
      std::uint64_t bound = 10;
      for (std::uint64_t digits = random.below(9); digits > 0; --digits) {
        bound *= 10;
      }
      text += std::to_string(random.below(bound));
    }
  }
  return text;
}

inline std::string in_context(std::uint64_t code) {
  const std::string c = utf8(code);
  return "x" + c + "y " + c + c + " 1" + c + "2'" + c + "\n" + c;
}

}  // namespace test_strings
