// What an objective remembers of the samples of a task.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

namespace alkn::detail {

using at::Tensor;

/// What the objective remembers of each sample, keyed by the sample's id.
class SampleMemory {
 public:
  struct Entry {
    Tensor values;                ///< 1-D
    std::int64_t num_tokens = 0;  ///< valid tokens when it was remembered
  };

  using Entries = std::unordered_map<std::int64_t, Entry>;

  /// Takes over all, or, where there is no memory, none. They replace those of the same ids.
  void put(Entries entries) {
    entries_.reserve(entries_.size() + entries.size());
    entries_.merge(entries);  // what is left is known
    for (auto& [id, entry] : entries) entries_.find(id)->second = std::move(entry);
  }

  /// Throws c10::ValueError for an unknown id, or another number of valid tokens than was
  /// remembered.
  [[nodiscard]] const Tensor& get(const std::string& owner, std::int64_t id,
                                  std::int64_t num_tokens) const {
    const auto found = entries_.find(id);
    TORCH_CHECK_VALUE(
        found != entries_.end(), "alkn::", owner,
        ": expected a sample that was remembered before the first step, got an unknown id (sample ",
        id, ")");
    TORCH_CHECK_VALUE(found->second.num_tokens == num_tokens, "alkn::", owner, ": expected ",
                      found->second.num_tokens, " valid tokens as remembered, got ", num_tokens,
                      " (sample ", id, ")");
    return found->second.values;
  }

  [[nodiscard]] const Entries& entries() const noexcept { return entries_; }

 private:
  Entries entries_;
};

}  // namespace alkn::detail
