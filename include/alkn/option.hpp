// Options of the policies: fluent setters that return the whole option struct, and one visitor that
// lists every field once, for validation and for checkpoints.
#pragma once

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <type_traits>

/// Declares the option `name` of type `T` with its default: `self.name(value)` sets it and returns
/// `Self&`, `self.name()` reads it. `Self` is the struct that inherits this one (CRTP).
#define ALKN_OPTION(Self, T, name, ...)                                  \
 public:                                                                 \
  Self& name(T new_##name) {                                             \
    this->name##_ = new_##name;                                          \
    return static_cast<Self&>(*this);                                    \
  }                                                                      \
  [[nodiscard]] const T& name() const noexcept { return this->name##_; } \
                                                                         \
 protected:                                                              \
  T name##_ = __VA_ARGS__

namespace alkn::detail {

/// An interval of real numbers; NaN is in none.
struct Range {
  double low, high;
  bool low_open, high_open;

  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  /// [low, high]
  static constexpr Range closed(double low, double high) { return {low, high, false, false}; }
  /// (low, high)
  static constexpr Range open(double low, double high) { return {low, high, true, true}; }
  /// [low, high)
  static constexpr Range closed_open(double low, double high) { return {low, high, false, true}; }
  /// (low, high]
  static constexpr Range open_closed(double low, double high) { return {low, high, true, false}; }
  /// [0, infinity)
  static constexpr Range non_negative() { return closed_open(0, kInfinity); }
  /// (0, infinity)
  static constexpr Range positive() { return open(0, kInfinity); }
  /// (-infinity, infinity)
  static constexpr Range finite() { return open(-kInfinity, kInfinity); }

  [[nodiscard]] constexpr bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
  }
  [[nodiscard]] std::string text() const {
    return fmt::format("{}{}, {}{}", low_open ? '(' : '[', low, high, high_open ? ')' : ']');
  }
};

/// Throws c10::ValueError unless `range` contains `value`.
/// @param owner the class that asks, @param where for example "group 2", or empty
inline void check_range(std::string_view owner, std::string_view field, double value,
                        const Range& range, std::string_view where = {}) {
  TORCH_CHECK_VALUE(range.contains(value), "alkn::", owner, ": expected ", field, " in ",
                    range.text(), ", got ", fmt::format("{}", value),
                    where.empty() ? "" : fmt::format(" ({})", where));
}

/// Checks every field of an option struct against its range; the visitor of `Options::visit`.
struct RangeChecker {
  std::string_view owner;
  std::string_view where = {};

  template <class T>
  void operator()(std::string_view field, const T& value, const Range& range) const {
    check_range(owner, field, static_cast<double>(value), range, where);
  }
  template <class T>
  requires(std::is_enum_v<T> || std::is_same_v<T, bool>) void operator()(std::string_view,
                                                                         const T&) const {}
};

}  // namespace alkn::detail
