// The parameter groups of a method, by the names of the parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <alkn/method/bases.hpp>
#include <alkn/optim/adamw_options.hpp>
#include <alkn/parameters.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace alkn {

/// Parameters, by name, that take options of their own: AdamWOverrides over alkn::AdamW, else the
/// base's options.
template <class GroupOptions>
struct ParameterGroup {
  std::vector<std::string> names;  ///< as in the model; each in one group at most
  GroupOptions options;            ///< of these parameters
};

namespace detail {

/// The options that a method hands to its base's constructor.
template <class Base, class BaseOptions>
const auto& base_options(const BaseOptions& options) {
  constexpr bool kFits =
      std::constructible_from<Base, std::vector<torch::optim::OptimizerParamGroup>, BaseOptions>;
  static_assert(kFits,
                "alkn: the last argument must be the options of the base optimizer, from which and "
                "parameter groups it can be made: alkn::AdamWOptions over alkn::AdamW");
  if constexpr (kFits) return options;
}

template <class Base, class GroupOptions, class BaseOptions>
std::unique_ptr<torch::optim::OptimizerOptions> group_options(const GroupOptions& own,
                                                              const BaseOptions& defaults) {
  if constexpr (std::same_as<GroupOptions, AdamWOverrides>) {
    static_assert(kIsFused<Base>,
                  "alkn: AdamWOverrides are for groups of alkn::AdamW; another Base takes its own "
                  "options, complete in themselves");
    if constexpr (kIsFused<Base>) return std::make_unique<AdamWOptions>(own.merged(defaults));
  } else {
    constexpr bool kFits = std::same_as<GroupOptions, BaseOptions> &&
                           std::derived_from<GroupOptions, torch::optim::OptimizerOptions>;
    static_assert(kFits, "alkn: a parameter group's options must be the base optimizer's options");
    if constexpr (kFits) return std::make_unique<GroupOptions>(own);
  }
}

/// Splits `params` into the named groups and, first, the rest under the defaults.
template <class Base, class GroupOptions, class BaseOptions>
std::vector<torch::optim::OptimizerParamGroup> make_groups(
    std::string_view owner, const std::vector<NamedParameter>& params,
    const std::vector<ParameterGroup<GroupOptions>>& groups, const BaseOptions& defaults) {
  std::unordered_map<std::string, Tensor> rest;
  for (const NamedParameter& p : params) rest.emplace(p.name, p.tensor);
  std::vector<torch::optim::OptimizerParamGroup> named;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<Tensor> tensors;
    for (const std::string& name : groups[g].names) {
      const auto found = rest.find(name);
      TORCH_CHECK_VALUE(found != rest.end(), "alkn::", owner,
                        ": expected the name of a parameter that is in no other group, got \"",
                        name, "\" (named group ", g, ")");
      tensors.push_back(found->second);
      rest.erase(found);
    }
    named.emplace_back(std::move(tensors), group_options<Base>(groups[g].options, defaults));
  }
  std::vector<torch::optim::OptimizerParamGroup> all;
  std::vector<Tensor> others;
  for (const NamedParameter& p : params) {
    if (rest.contains(p.name)) others.push_back(p.tensor);
  }
  if (!others.empty()) all.emplace_back(std::move(others));
  for (auto& group : named) all.push_back(std::move(group));
  return all;
}

}  // namespace detail
}  // namespace alkn
