// Options of the policies: each is declared in one place, which makes its setter, which returns the
// whole option struct, and its entry in the list for validation and checkpoints.
#pragma once

#include <c10/util/Exception.h>
#include <alkn/text.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// Opens the options of a policy; ALKN_OPTIONS_END() closes them. What stands outside of the two,
/// or in a struct that this one inherits, is no option.
#define ALKN_OPTIONS_BEGIN()                        \
 private:                                           \
  static constexpr int kFirstOptionLine = __LINE__; \
                                                    \
 public:                                            \
  static_assert(true)

/// Declares the option `name` of type `T` with its default, in a line of its own:
/// `self.name(value)` sets it and returns `Self&`, the struct that inherits this one (CRTP);
/// `self.name()` reads it. A number's Range follows the default; a default with a comma in it is a
/// call in parentheses.
#define ALKN_OPTION(Self, T, name, value, ...)                       \
  ALKN_OPTION_IN(Self, T, name, name##_ __VA_OPT__(, ) __VA_ARGS__); \
                                                                     \
 private:                                                            \
  T name##_ = value;                                                 \
                                                                     \
 public:                                                             \
  static_assert(true)

/// The same of a value that lies elsewhere: `place` is a member, or a field of one.
#define ALKN_OPTION_IN(Self, T, name, place, ...)                                         \
  Self& name(T new_value) {                                                               \
    this->place = std::move(new_value);                                                   \
    return static_cast<Self&>(*this);                                                     \
  }                                                                                       \
  [[nodiscard]] const T& name() const noexcept { return this->place; }                    \
  template <class Visitor>                                                                \
  void visit_line(Visitor& visitor, ::alkn::detail::OptionLine<__LINE__>) const {         \
    ::alkn::detail::visit_option(visitor, #name, this->place __VA_OPT__(, ) __VA_ARGS__); \
  }                                                                                       \
  static_assert(true)

/// Makes `visit(v)`: it calls `v(name, value, range)` for every number and `v(name, value)` for
/// every choice, in the order of their lines.
#define ALKN_OPTIONS_END()                                                         \
  template <class Visitor>                                                         \
  void visit(Visitor&& v) const {                                                  \
    ::alkn::detail::visit_lines<kFirstOptionLine>(                                 \
        *this, v, std::make_integer_sequence<int, __LINE__ - kFirstOptionLine>()); \
  }                                                                                \
  static_assert(true)

namespace alkn {

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
  /// [0, 1e30]: a number that the step has in fp32, as it is and ten times as large
  static constexpr Range non_negative_float() { return closed(0, 1e30); }
  /// (0, 1e30]
  static constexpr Range positive_float() { return open_closed(0, non_negative_float().high); }
  /// (0, infinity)
  static constexpr Range positive() { return open(0, kInfinity); }
  /// (-infinity, infinity)
  static constexpr Range finite() { return open(-kInfinity, kInfinity); }

  [[nodiscard]] constexpr bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
  }
  [[nodiscard]] std::string text() const {
    return detail::text_of({low_open ? '(' : '[', low, ", ", high, high_open ? ')' : ']'});
  }
};

namespace detail {

/// The line of a source file in which an option is declared: its place in the list of options.
template <int Line>
using OptionLine = std::integral_constant<int, Line>;

/// Numbers have a range; options that are neither numbers nor choices are not visited.
template <class Visitor, class T, class... Range>
void visit_option(Visitor& visitor, std::string_view name, const T& value, const Range&... range) {
  constexpr bool kChoice = std::is_enum_v<T> || std::is_same_v<T, bool>;
  static_assert(sizeof...(Range) > 0 || kChoice || !std::is_arithmetic_v<T>,
                "alkn: an option that is a number has a Range after its default");
  if constexpr (sizeof...(Range) > 0 || kChoice) visitor(name, value, range...);
}

template <int First, class Options, class Visitor, int... Lines>
void visit_lines(const Options& options, Visitor& visitor, std::integer_sequence<int, Lines...>) {
  const auto visit = [&]<int Line>(OptionLine<Line> line) {
    if constexpr (requires { options.visit_line(visitor, line); })
      options.visit_line(visitor, line);
  };
  (visit(OptionLine<First + Lines>()), ...);
}

/// Throws c10::ValueError unless `range` contains `value`.
/// @param owner the class that asks, @param where for example "group 2", or empty
inline void check_range(std::string_view owner, std::string_view field, double value,
                        const Range& range, std::string_view where = {}) {
  TORCH_CHECK_VALUE(range.contains(value), "alkn::", owner, ": expected ", field, " in ",
                    range.text(), ", got ", text_of({value}),
                    where.empty() ? "" : text_of({" (", where, ")"}));
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

/// Options as names and texts, field by field; the visitor of `Options::visit`.
struct OptionTexts {
  std::vector<std::pair<std::string, std::string>>& texts;

  template <class T, class... Range>
  void operator()(std::string_view field, const T& value, const Range&...) const {
    if constexpr (std::is_enum_v<T>)
      texts.emplace_back(field, std::to_string(static_cast<int>(value)));
    else
      texts.emplace_back(field, text_of({value}));
  }
};

/// In the order of the fields.
template <class Options>
std::vector<std::pair<std::string, std::string>> option_texts(const Options& options) {
  std::vector<std::pair<std::string, std::string>> texts;
  options.visit(OptionTexts{texts});
  return texts;
}

}  // namespace detail
}  // namespace alkn
