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

/// A dense tensor of one of the four types, with memory that holds its values.
inline bool is_steppable(const Tensor& t) {
  const at::ScalarType type = t.defined() ? t.scalar_type() : at::kBool;
  return (type == at::kFloat || type == at::kDouble || type == at::kBFloat16 ||
          type == at::kHalf) &&
         t.layout() == at::kStrided && !t.is_meta() && !t.is_neg() && !t._is_zerotensor() &&
         !t.is_inference();
}

inline void check_parameter(std::string_view owner, const NamedParameter& p) {
  TORCH_CHECK_VALUE(p.tensor.defined(), "alkn::", owner,
                    ": expected a defined tensor, got an undefined one (parameter \"", p.name,
                    "\")");
  TORCH_CHECK_VALUE(p.tensor.layout() == at::kStrided, "alkn::", owner,
                    ": expected a dense parameter, got layout ", p.tensor.layout(),
                    " (parameter \"", p.name, "\")");
  const char* without = p.tensor.is_meta()          ? "one on meta"
                        : p.tensor.is_neg()         ? "a view with a lazy minus"
                        : p.tensor._is_zerotensor() ? "zeros without memory"
                                                    : nullptr;
  TORCH_CHECK_VALUE(without == nullptr, "alkn::", owner,
                    ": expected a parameter with memory that holds its values, got ", without,
                    " (parameter \"", p.name, "\")");
  TORCH_CHECK_VALUE(!p.tensor.is_inference(), "alkn::", owner,
                    ": expected a parameter made outside c10::InferenceMode, got one made inside "
                    "(parameter \"",
                    p.name, "\")");
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

/// Calls fn(address) with the first byte of every element until it returns false.
/// @returns whether it never did
template <class Fn>
bool all_elements(const Tensor& t, Fn fn) {
  const auto first = extent(t).first;
  std::vector<std::int64_t> index(static_cast<std::size_t>(t.dim()), 0);
  for (std::int64_t i = 0, offset = 0; i < t.numel(); ++i) {
    if (!fn(first + static_cast<std::uintptr_t>(offset * t.element_size()))) return false;
    for (std::int64_t d = t.dim() - 1; d >= 0; --d) {
      auto& at = index[static_cast<std::size_t>(d)];
      offset += t.stride(d);
      if (++at < t.size(d)) break;
      offset -= at * t.stride(d);
      at = 0;
    }
  }
  return true;
}

/// Whether two tensors of one device have a byte in common. Cost: their extents, only where these
/// overlap.
inline bool share_memory(const Tensor& a, const Tensor& b) {
  const auto x = extent(a), y = extent(b);
  const auto begin = std::max(x.first, y.first), end = std::min(x.second, y.second);
  if (a.device() != b.device() || begin >= end) return false;
  std::vector<bool> taken(end - begin, false);
  const auto for_bytes = [&](const Tensor& t, const auto& fn) {
    return all_elements(t, [&](std::uintptr_t element) {
      const auto last = element + static_cast<std::uintptr_t>(t.element_size());
      for (auto byte = std::max(element, begin); byte < std::min(last, end); ++byte) {
        if (!fn(byte - begin)) return false;
      }
      return true;
    });
  };
  for_bytes(a, [&](std::size_t byte) { return taken[byte] = true; });
  return !for_bytes(b, [&](std::size_t byte) { return !taken[byte]; });
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
  std::size_t open = 0;  // the first one that may reach as far as the next
  std::uintptr_t reach = 0;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const auto& [after, b] = extents[i];
    const bool apart = i == 0 || extents[i - 1].second->tensor.device() != b->tensor.device() ||
                       after.first >= reach;
    if (apart) open = i;
    reach = apart ? after.second : std::max(reach, after.second);
    for (std::size_t k = open; k < i; ++k) {
      const NamedParameter* a = extents[k].second;
      TORCH_CHECK_VALUE(
          !share_memory(a->tensor, b->tensor), "alkn::", owner,
          ": expected parameters in memory of their own, got overlapping storage (parameters \"",
          a->name, "\" and \"", b->name, "\")");
    }
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
