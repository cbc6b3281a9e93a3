// The numbers in the options of LibTorch's optimizers, which LibTorch checks in the defaults alone.
#pragma once

#include <alkn/option.hpp>
#include <alkn/text.hpp>

#include <limits>
#include <string>
#include <string_view>
#include <tuple>

namespace alkn::detail {

/// Throws c10::ValueError, naming the field, for a number out of the range that LibTorch's own
/// constructors ask for. @param options of any first-order optimizer: fields are found by name
template <class Options>
void check_base_options(std::string_view owner, const Options& options, std::string_view where) {
  const auto check = [&](std::string_view field, double value, const Range& range) {
    check_range(owner, field, value, range, where);
  };
  // LibTorch throws in the middle of a step for one that does not fit in fp32
  check("lr", options.get_lr(), Range::non_negative_float());
  if constexpr (requires { std::get<1>(options.betas()); }) {
    check("betas[0]", std::get<0>(options.betas()), Range::closed_open(0, 1));
    check("betas[1]", std::get<1>(options.betas()), Range::closed_open(0, 1));
  }
  if constexpr (requires { options.eps(); }) check("eps", options.eps(), Range::non_negative());
  if constexpr (requires { options.alpha(); })
    check("alpha", options.alpha(), Range::non_negative());
  if constexpr (requires { options.momentum(); })
    check("momentum", options.momentum(), Range::non_negative());
  if constexpr (requires { options.dampening(); })
    check("dampening", options.dampening(), Range::finite());
  if constexpr (requires { options.weight_decay(); })
    check("weight_decay", options.weight_decay(), Range::non_negative());
  if constexpr (requires { options.lr_decay(); })
    check("lr_decay", options.lr_decay(), Range::non_negative());
}

/// The options of any first-order optimizer in words.
template <class Options>
std::string base_options_text(const Options& options) {
  std::string text = text_of({"lr ", options.get_lr()});
  const auto add = [&](std::string_view field, const auto& value) {
    text += text_of({", ", field, " ", value});
  };
  if constexpr (requires { std::get<1>(options.betas()); }) {
    add("betas[0]", std::get<0>(options.betas()));
    add("betas[1]", std::get<1>(options.betas()));
  }
  if constexpr (requires { options.eps(); }) add("eps", options.eps());
  if constexpr (requires { options.alpha(); }) add("alpha", options.alpha());
  if constexpr (requires { options.momentum(); }) add("momentum", options.momentum());
  if constexpr (requires { options.dampening(); }) add("dampening", options.dampening());
  if constexpr (requires { options.nesterov(); }) add("nesterov", options.nesterov());
  if constexpr (requires { options.centered(); }) add("centered", options.centered());
  if constexpr (requires { options.amsgrad(); }) add("amsgrad", options.amsgrad());
  if constexpr (requires { options.weight_decay(); }) add("weight_decay", options.weight_decay());
  if constexpr (requires { options.lr_decay(); }) add("lr_decay", options.lr_decay());
  return text;
}

/// Throws unless eps is a normal number of fp32: an entry whose gradient was masked in every step
/// moves by 0 / (0 + eps).
inline void check_masked_eps(std::string_view owner, double eps, std::string_view where) {
  check_range(owner, "eps", eps,
              Range::closed_open(double{std::numeric_limits<float>::min()}, Range::kInfinity),
              where);
}

}  // namespace alkn::detail
