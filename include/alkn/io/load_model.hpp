// A model's folder into the parameters and buffers of a module.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <locale>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "alkn/io/model_folder.hpp"
#include "alkn/io/tensors.hpp"
#include "alkn/parameters.hpp"

namespace alkn::io {

/// How the names of a model and of a folder go together. Every list is sorted.
struct LoadReport {
  std::vector<std::string> loaded;
  /// The model's, which the folder lacks. A tied name (one tensor under two names) is missing only
  /// where the folder has neither.
  std::vector<std::string> missing;
  /// The folder's, which the model lacks.
  std::vector<std::string> unused;
  /// Names that both have, with another shape or a type that does not convert, and both of them:
  /// `"a" F32 [2, 3] for Float [3, 2]`.
  std::vector<std::string> misfitting;
  /// The folder's tensors of integers, bools or 8 bits that the model lacks: rarely weights.
  std::vector<std::string> skipped;

  /// Nothing is missing, unused or misfitting.
  [[nodiscard]] bool fits() const {
    return missing.empty() && unused.empty() && misfitting.empty();
  }

  /// `missing "a", "b"; unused "c"; misfitting ...`: the lists that are not empty.
  [[nodiscard]] std::string text() const {
    std::string text;
    const auto add = [&](const char* kind, const std::string& list) {
      if (!list.empty()) text += (text.empty() ? "" : "; ") + std::string(kind) + " " + list;
    };
    add("missing", detail::name_list(missing));
    add("unused", detail::name_list(unused));
    std::string list;
    for (const std::string& misfit : misfitting) list += (list.empty() ? "" : ", ") + misfit;
    add("misfitting", list);
    return text;
  }
};

/// A model and a folder that do not fit, with the whole report.
class LoadError : public std::runtime_error {
 public:
  LoadError(const std::filesystem::path& path, LoadReport report)
      : std::runtime_error("alkn::io::load_model: expected the model's names and shapes, got " +
                           report.text() + " (" + path.string() + ")"),
        report_(std::move(report)) {}
  [[nodiscard]] const LoadReport& report() const { return report_; }

 private:
  LoadReport report_;
};

namespace detail {

inline bool is_float(at::ScalarType type) {
  return type == at::kDouble || type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}

inline std::vector<NamedParameter> to_list(const NamedParameters auto& range) {
  std::vector<NamedParameter> list;
  for (const auto& item : range) list.push_back(alkn::detail::to_named_parameter(item));
  return list;
}

inline std::string misfit(const ArrayInfo& array, const at::Tensor& tensor) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << "\"" << array.name << "\" " << to_string(array.dtype) << " "
       << at::IntArrayRef(array.shape) << " for " << tensor.scalar_type() << " " << tensor.sizes();
  return text.str();
}

inline LoadReport compare(const ModelFolder& folder, const std::vector<NamedParameter>& tensors,
                          const std::function<bool(std::string_view)>& kept) {
  LoadReport report;
  std::set<std::string> names;
  std::set<const void*> found;
  std::vector<const NamedParameter*> absent;
  for (const NamedParameter& p : tensors) {
    names.insert(p.name);
    const auto place = folder.find(p.name);
    if (!place) {
      absent.push_back(&p);
      continue;
    }
    const at::ScalarType stored = scalar_type_of(place->array->dtype);
    const bool converts =
        stored == p.tensor.scalar_type() || (is_float(stored) && is_float(p.tensor.scalar_type()));
    if (converts && p.tensor.sizes() == place->array->shape) {
      report.loaded.push_back(p.name);
    } else {
      report.misfitting.push_back(misfit(*place->array, p.tensor));
    }
    found.insert(p.tensor.unsafeGetTensorImpl());
  }
  for (const NamedParameter* p : absent) {
    if (!found.contains(p->tensor.unsafeGetTensorImpl())) report.missing.push_back(p->name);
  }
  for (const std::string& name : folder.names()) {
    if (names.contains(name) || (kept && kept(name))) continue;
    const bool weight = is_float(scalar_type_of(folder.find(name)->array->dtype));
    (weight ? report.unused : report.skipped).push_back(name);
  }
  for (auto* list : {&report.loaded, &report.missing, &report.misfitting}) std::ranges::sort(*list);
  return report;
}

/// Reads one tensor of the folder into `destination`: in place where type and layout allow.
inline void read_into(const ModelFolder::Location& place, at::Tensor destination) {
  const bool in_place = destination.device().is_cpu() && destination.is_contiguous() &&
                        destination.scalar_type() == scalar_type_of(place.array->dtype);
  if (in_place) {
    place.shard->contents.read(*place.array, destination.mutable_data_ptr());
  } else {
    destination.copy_(read_tensor(place.shard->contents, *place.array));
  }
}

}  // namespace detail

/// How the names would go together, without reading any data. Parameters as for `load_model`.
template <NamedParameters Range>
LoadReport compare_model(const ModelFolder& folder, const Range& tensors,
                         const std::function<bool(std::string_view)>& kept = {}) {
  return detail::compare(folder, detail::to_list(tensors), kept);
}

/// Copies a folder's tensors into `tensors`: `model.named_parameters()`, or those and
/// `named_buffers()` in one list. Types float32, float64, bfloat16 and float16 convert into each
/// other, rounded to nearest; others have to be equal.
///
/// `kept`: names of the folder that the model need not have (buffers of other programs), which are
/// neither loaded nor counted as unused.
/// Throws LoadError, before anything is written, where names are missing, unused or misfitting, and
/// for tied names (one tensor) whose values in the folder differ, after the first was loaded;
/// std::runtime_error for data that cannot be read or differ from their checksum.
/// Cost: reads every tensor once (twice where the file has alkn's checksum); memory beside the
/// model: one tensor, and none where type and layout are the file's.
template <NamedParameters Range>
LoadReport load_model(const ModelFolder& folder, const Range& tensors,
                      const std::function<bool(std::string_view)>& kept = {}) {
  const std::vector<NamedParameter> list = detail::to_list(tensors);
  LoadReport report = detail::compare(folder, list, kept);
  if (!report.fits()) throw LoadError(folder.path(), std::move(report));
  for (const ModelFolder::Shard& shard : folder.shards()) shard.contents.verify();
  const c10::NoGradGuard no_grad;
  std::map<const void*, std::string> done;
  for (const NamedParameter& p : list) {
    const auto place = folder.find(p.name);
    if (!place) continue;
    const auto [first, is_new] = done.emplace(p.tensor.unsafeGetTensorImpl(), p.name);
    if (is_new) {
      detail::read_into(*place, p.tensor.detach());
    } else if (!at::equal(read_tensor(place->shard->contents, *place->array)
                              .to(p.tensor.scalar_type())
                              .to(p.tensor.device()),
                          p.tensor.detach())) {
      report.misfitting.push_back("\"" + p.name + "\", which the model ties to \"" + first->second +
                                  "\", with other values");
      throw LoadError(folder.path(), std::move(report));
    }
  }
  return report;
}

}  // namespace alkn::io
