// What the arrays and numbers of a checkpoint must be for an unlearner to take them over.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <alkn/task/core.hpp>
#include <alkn/tensor/bits.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

inline std::string array_text(at::ScalarType type, at::IntArrayRef sizes) {
  return fmt::format("{} [{}]", c10::toString(type), fmt::join(sizes, ", "));
}

/// Compares everything beside the parameters' own values with what this method needs; their names
/// and shapes have been compared.
class CheckpointChecks {
 public:
  CheckpointChecks(const UnlearnerCore& core, const std::map<std::string, Tensor>& arrays,
                   const nlohmann::json& header)
      : core_(core), arrays_(arrays), header_(header) {}

  /// In words; empty: all is as it must be.
  std::vector<std::string> differences() {
    whole(header_, "num_tasks", 0, kAny - 1);  // one more has to be counted
    const bool task = header_.contains("task");
    if (task) check_task(header_.at("task"));
    if (!found_.empty()) return found_;
    for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
      if (core_.shards().owns(i)) check_parameter_arrays(core_.parameters()[i]);
    }
    check_columns();
    bytes("base/now");
    need("generator", at::kByte, {at::detail::getDefaultCPUGenerator().get_state().numel()});
    if (task) {
      bytes("base/before");
      need("task/numbers", at::kDouble, {5});
      if (core_.settings().remembers && arrays_.contains("memory/ids")) check_memory();
    }
    for (const auto& [name, array] : arrays_) {
      if (!known_.contains(name) && name != "header" && name.rfind("buffer/", 0) != 0)
        found_.push_back(fmt::format("array \"{}\" of the file is none of this method's", name));
    }
    return found_;
  }

 private:
  static constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();

  /// header[name], a whole number in [low, high]; -1 where it is none.
  std::int64_t whole(const nlohmann::json& header, const char* name, std::int64_t low,
                     std::int64_t high) {
    const auto at = header.find(name);
    if (at != header.end() && at->is_number_integer()) {
      const auto value = at->get<std::int64_t>();
      if (value >= low && value <= high) return value;
    }
    found_.push_back(fmt::format("number \"{}\" of the file is not whole and in [{}, {}]", name,
                                 low, high == kAny ? "inf" : std::to_string(high)));
    return -1;
  }
  bool flag(const nlohmann::json& header, const char* name) {
    const auto at = header.find(name);
    if (at != header.end() && at->is_boolean()) return at->get<bool>();
    found_.push_back(fmt::format("flag \"{}\" of the file is neither true nor false", name));
    return false;
  }

  void check_task(const nlohmann::json& task) {
    const std::int64_t announced = whole(task, "announced", 1, kAny);
    const std::int64_t done = whole(task, "done", 0, std::max<std::int64_t>(0, announced));
    whole(task, "skipped", 0, std::max<std::int64_t>(0, done));
    training_ = flag(task, "training");
    num_retain_batches_ =
        whole(task, "num_retain_batches", localized() && training_ ? 1 : 0, kAny - 1);
    if (done > 0 && !training_)
      found_.push_back("flag \"training\" of the file is false after a step");
    const auto last = task.find("last");
    const nlohmann::json report = last == task.end() ? nlohmann::json() : *last;
    whole(report, "task", 0, kAny);
    whole(report, "step", 0, kAny);
    flag(report, "skipped");
  }

  [[nodiscard]] bool localized() const {
    return core_.settings().mask == kernel::MaskKind::localized;
  }

  void check_parameter_arrays(const ParameterState& p) {
    const bool task = header_.contains("task"), masked = task && localized();
    const at::IntArrayRef shape(p.shape);
    const std::int64_t words = num_mask_words(p.param.numel());
    const at::ScalarType state = state_dtype(p.param);
    need("parameter/" + p.name, p.dtype, shape);
    if (is_low_precision(p.param)) need("master/" + p.name, at::kFloat, shape);
    if (core_.settings().mask == kernel::MaskKind::given)
      need("given/" + p.name, at::kLong, {words});
    if (localized() && arrays_.contains("used/" + p.name))
      need("used/" + p.name, at::kLong, {words});
    if (task && core_.holds_start()) need("start/" + p.name, state, shape);
    if (masked && num_retain_batches_ > 0)
      need("retain/" + p.name, training_ ? core_.retain_dtype(p) : state, shape);
    if (!masked || !training_) return;
    const auto score = arrays_.find("score/" + p.name);
    const bool compact = score != arrays_.end() && score->second.scalar_type() == at::kBFloat16;
    need("score/" + p.name, moment_dtype(p.param, compact), shape);
    need("mask/" + p.name, at::kLong, {words});
  }

  void check_columns() {
    const auto count = static_cast<std::int64_t>(core_.parameters().size());
    need("columns/threshold", at::kDouble, {count});
    need("columns/eta", at::kDouble, {count});
    const bool flags_fit = need("columns/flags", at::kLong, {count});
    if (!need("columns/num_unmasked", at::kLong, {count}) || !flags_fit) return;
    for (std::int64_t i = 0; i < count; ++i) {
      const auto flags = element("columns/flags", i), on = element("columns/num_unmasked", i);
      const ParameterState& p = core_.parameters()[static_cast<std::size_t>(i)];
      if (flags < 0 || flags > 7 || on < 0 || on > p.param.numel()) {
        found_.push_back(fmt::format(
            "flags and number of trained entries of parameter \"{}\" are {} and {} in the file",
            p.name, flags, on));
      }
    }
  }

  void check_memory() {
    const std::int64_t count = arrays_.at("memory/ids").numel();
    const auto values = arrays_.find("memory/values");
    const std::int64_t numel = values == arrays_.end() ? 0 : values->second.numel();
    const auto type = values != arrays_.end() && values->second.scalar_type() == at::kDouble
                          ? at::kDouble
                          : at::kFloat;
    bool all = need("memory/ids", at::kLong, {count});
    for (const char* name : {"memory/tokens", "memory/sizes"})
      all = need(name, at::kLong, {count}) && all;
    all = need("memory/values", type, {numel}) && all;
    if (!all) return;
    std::int64_t left = numel;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t size = element("memory/sizes", i);
      if (size < 0 || size > left) left = -1;
      if (left < 0) break;
      left -= size;
    }
    if (left != 0)
      found_.push_back("array \"memory/sizes\" of the file does not add up to its values");
  }

  [[nodiscard]] std::int64_t element(const char* name, std::int64_t i) const {
    return arrays_.at(name).const_data_ptr<std::int64_t>()[i];
  }

  bool need(const std::string& name, at::ScalarType type, at::IntArrayRef sizes) {
    known_.insert(name);
    const auto at = arrays_.find(name);
    if (at == arrays_.end()) {
      found_.push_back(fmt::format("array \"{}\" is not in the file", name));
      return false;
    }
    const Tensor& array = at->second;
    if (array.scalar_type() == type && array.sizes() == sizes) return true;
    found_.push_back(fmt::format("array \"{}\" is {}, in the file {}", name,
                                 array_text(type, sizes),
                                 array_text(array.scalar_type(), array.sizes())));
    return false;
  }
  void bytes(const std::string& name) {
    const auto at = arrays_.find(name);
    need(name, at::kByte, {at == arrays_.end() ? 0 : at->second.numel()});
  }

  const UnlearnerCore& core_;
  const std::map<std::string, Tensor>& arrays_;
  const nlohmann::json& header_;
  std::vector<std::string> found_;
  std::set<std::string> known_;
  bool training_ = false;
  std::int64_t num_retain_batches_ = 0;
};

}  // namespace alkn::detail
