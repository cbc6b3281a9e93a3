// Texts made of pieces: errors, and settings that processes and checkpoints compare. Not by fmt,
// which a file without a library of it compiles whole, in several seconds.
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace alkn::detail {

/// Words or a number, the latter the same in every locale. A double has the fewest digits that read
/// back to it, with an exponent below 1e-4 and from 1e16 on: 0.1, 100000, 1e-08, inf.
class Piece {
 public:
  Piece(const char* words) : text_(words) {}
  Piece(const std::string& words) : text_(words) {}
  Piece(std::string_view words) : text_(words) {}
  Piece(char letter) : text_(own_, 1) { own_[0] = letter; }
  Piece(bool flag) : text_(flag ? "true" : "false") {}
  template <std::integral T>
  Piece(T number) {
    take(std::to_chars(own_, own_ + kSize, number));
  }
  Piece(double number) {
    const double size = std::abs(number);
    const bool written_out = size == 0 || (size >= 1e-4 && size < 1e16);
    take(std::to_chars(own_, own_ + kSize, number,
                       written_out ? std::chars_format::fixed : std::chars_format::scientific));
  }
  /// With so many digits at most.
  Piece(double number, int digits) {
    take(std::to_chars(own_, own_ + kSize, number, std::chars_format::general, digits));
  }
  Piece(float) = delete;
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;
  ~Piece() = default;

  [[nodiscard]] std::string_view text() const { return text_; }

 private:
  static constexpr std::size_t kSize = 32;  // no number is longer

  void take(const std::to_chars_result& written) {
    text_ = {own_, static_cast<std::size_t>(written.ptr - own_)};
  }

  char own_[kSize];
  std::string_view text_;
};

/// The pieces one after the other.
inline std::string text_of(std::initializer_list<Piece> pieces) {
  std::string all;
  for (const Piece& piece : pieces) all += piece.text();
  return all;
}

/// Numbers or words with ", " in between.
template <class List>
std::string listed(const List& list) {
  std::string all;
  for (const auto& one : list) {
    if (!all.empty()) all += ", ";
    all += Piece(one).text();
  }
  return all;
}

/// 16 digits to the base 16.
inline std::string hash_text(std::uint64_t hash) {
  char digits[16];
  const auto end = std::to_chars(digits, digits + sizeof digits, hash, 16).ptr;
  std::string all(static_cast<std::size_t>(digits + sizeof digits - end), '0');
  return all.append(digits, end);
}

}  // namespace alkn::detail
