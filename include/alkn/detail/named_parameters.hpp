// The list of named parameters that an optimizer is built from, checked once.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace alkn {

using at::Tensor;

/// A parameter and its name in the model.
struct NamedParameter {
  std::string name;
  Tensor tensor;
};

namespace detail {

template <class Item>
concept OrderedDictItem = requires(const Item& item) {
  { item.key() } -> std::convertible_to<std::string>;
  { item.value() } -> std::convertible_to<Tensor>;
};

template <class Item>
concept NameValueItem = requires(const Item& item) {
  { item.name } -> std::convertible_to<std::string>;
  { item.value } -> std::convertible_to<Tensor>;
};

template <class Item>
concept NameTensorItem = requires(const Item& item) {
  { item.name } -> std::convertible_to<std::string>;
  { item.tensor } -> std::convertible_to<Tensor>;
};

template <class Item>
concept PairItem = requires(const Item& item) {
  { item.first } -> std::convertible_to<std::string>;
  { item.second } -> std::convertible_to<Tensor>;
};

template <class Item>
NamedParameter to_named_parameter(const Item& item) {
  if constexpr (OrderedDictItem<Item>)
    return {item.key(), item.value()};
  else if constexpr (NameValueItem<Item>)
    return {item.name, item.value};
  else if constexpr (NameTensorItem<Item>)
    return {item.name, item.tensor};
  else
    return {item.first, item.second};
}

template <class Item>
concept NamedParameterItem =
    OrderedDictItem<Item> || NameValueItem<Item> || NameTensorItem<Item> || PairItem<Item>;

}  // namespace detail

/// What a model's `named_parameters()` returns: torch::nn::Module's OrderedDict,
/// torch::jit::Module's list, or a range of NamedParameter or of pairs (name, tensor). Not
/// std::ranges::input_range: torch::jit's lists are none.
template <class R>
concept NamedParameters = requires(const R& range) {
  std::begin(range) != std::end(range);
  requires detail::NamedParameterItem<std::remove_cvref_t<decltype(*std::begin(range))>>;
};

namespace detail {

/// The bytes of storage that a tensor's elements lie in: [first, last), or empty.
inline std::pair<std::uintptr_t, std::uintptr_t> extent(const Tensor& t) {
  if (t.numel() == 0) return {0, 0};
  const auto first = reinterpret_cast<std::uintptr_t>(t.data_ptr());
  std::int64_t reach = 0;
  for (std::int64_t d = 0; d < t.dim(); ++d) reach += (t.size(d) - 1) * t.stride(d);
  return {first, first + static_cast<std::uintptr_t>((reach + 1) * t.element_size())};
}

/// A dense tensor of one of the four types.
inline bool is_steppable(const Tensor& t) {
  const at::ScalarType type = t.defined() ? t.scalar_type() : at::kBool;
  return (type == at::kFloat || type == at::kDouble || type == at::kBFloat16 ||
          type == at::kHalf) &&
         t.layout() == at::kStrided;
}

inline void check_parameter(std::string_view owner, const NamedParameter& p) {
  TORCH_CHECK_VALUE(p.tensor.defined(), "alkn::", owner,
                    ": expected a defined tensor, got an undefined one (parameter \"", p.name,
                    "\")");
  TORCH_CHECK_VALUE(p.tensor.layout() == at::kStrided, "alkn::", owner,
                    ": expected a dense parameter, got layout ", p.tensor.layout(),
                    " (parameter \"", p.name, "\")");
  TORCH_CHECK_VALUE(is_steppable(p.tensor), "alkn::", owner,
                    ": expected a parameter of float, double, bfloat16 or half, got ",
                    p.tensor.scalar_type(), " (parameter \"", p.name, "\")");
  TORCH_CHECK_VALUE(p.tensor.is_leaf(), "alkn::", owner,
                    ": expected a leaf tensor, got the result of an operation (parameter \"",
                    p.name, "\")");
  TORCH_CHECK_VALUE(at::has_internal_overlap(p.tensor) != at::MemOverlap::Yes, "alkn::", owner,
                    ": expected entries in memory of their own, got a tensor of ", p.tensor.sizes(),
                    " with strides ", p.tensor.strides(), " (parameter \"", p.name, "\")");
}

/// Two parameters may not share memory, unless they are one tensor under two names.
inline void check_overlap(std::string_view owner, const std::vector<NamedParameter>& params) {
  std::vector<std::pair<std::pair<std::uintptr_t, std::uintptr_t>, const NamedParameter*>> extents;
  for (const NamedParameter& p : params) {
    if (p.tensor.numel() > 0 && p.tensor.has_storage()) extents.emplace_back(extent(p.tensor), &p);
  }
  std::ranges::sort(extents, {}, [](const auto& e) {
    const at::Device device = e.second->tensor.device();
    return std::tuple(device.type(), device.index(), e.first);
  });
  for (std::size_t i = 1; i < extents.size(); ++i) {
    const auto& [before, a] = extents[i - 1];
    const auto& [after, b] = extents[i];
    TORCH_CHECK_VALUE(
        a->tensor.device() != b->tensor.device() || after.first >= before.second, "alkn::", owner,
        ": expected parameters in memory of their own, got overlapping storage (parameters \"",
        a->name, "\" and \"", b->name, "\")");
  }
}

/// Collects and checks the parameters of a model; a tensor that appears under several names is kept
/// once, under its first. Throws c10::ValueError for an empty list, a name given twice, an
/// unsupported tensor, overlapping storage.
template <NamedParameters R>
std::vector<NamedParameter> collect_parameters(std::string_view owner, const R& range) {
  std::vector<NamedParameter> params;
  std::unordered_set<std::string> names;
  std::unordered_set<const void*> tensors;
  for (const auto& item : range) {
    NamedParameter p = to_named_parameter(item);
    TORCH_CHECK_VALUE(names.insert(p.name).second, "alkn::", owner,
                      ": expected every name once, got a duplicate parameter (parameter \"", p.name,
                      "\")");
    check_parameter(owner, p);
    if (tensors.insert(p.tensor.unsafeGetTensorImpl()).second) params.push_back(std::move(p));
  }
  TORCH_CHECK_VALUE(!params.empty(), "alkn::", owner,
                    ": expected at least one parameter, got an empty list");
  check_overlap(owner, params);
  return params;
}

}  // namespace detail
}  // namespace alkn
