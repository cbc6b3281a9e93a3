// fp32 master weights of bfloat16 and half parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>
#include <c10/core/Storage.h>
#include <alkn/step/slot.hpp>

#include <cstdint>
#include <unordered_map>

namespace alkn::detail {

/// Keeps an fp32 copy of every low-precision parameter, so that updates below half a unit in the
/// last place add up.
class Masters {
 public:
  /// The master of `param`, [shape] fp32 contiguous; undefined for float and double, and where
  /// another process has it. An entry of
  /// the parameter that somebody else has written since the last step is taken over. The reference
  /// is good until adopt().
  const Tensor& get(const Tensor& param) {
    if (!is_low_precision(param)) return none_;
    Entry& entry = entries_[param.unsafeGetTensorImpl()];
    if (entry.elsewhere) return none_;
    const auto version = param._version();
    if (!entry.values.defined() || entry.values.sizes() != param.sizes() ||
        entry.values.device() != param.device()) {
      entry.values = param.detach().to(at::kFloat, false, true, at::MemoryFormat::Contiguous);
      entry.note(param);
    } else if (entry.version != version || !entry.is_at(param)) {
      const Tensor now = param.detach();  // by bits: -0 is another value than 0
      const Tensor same =
          entry.values.to(now.scalar_type()).view(at::kShort).eq(now.view(at::kShort));
      entry.values.copy_(at::where(same, entry.values, now.to(at::kFloat)));
      entry.note(param);
    }
    return entry.values;
  }

  /// The master as it is, or an undefined tensor.
  [[nodiscard]] Tensor find(const Tensor& param) const {
    const auto found = entries_.find(param.unsafeGetTensorImpl());
    return found == entries_.end() ? Tensor() : found->second.values;
  }

  /// Takes over a master, [shape] fp32 contiguous; undefined: forgets the one that there is. Where
  /// it does not round to the parameter, the parameter counts: see get().
  void adopt(const Tensor& param, const Tensor& values) {
    if (values.defined())
      entries_[param.unsafeGetTensorImpl()] = {.values = values};
    else
      entries_.erase(param.unsafeGetTensorImpl());
  }

  /// Another process has the master of `param`: until adopt() there is none here.
  void leave(const Tensor& param) {
    if (is_low_precision(param))
      entries_[param.unsafeGetTensorImpl()] = {.values = {}, .elsewhere = true};
  }

  /// To be called when parameter and master agree: after a step, or after both were restored.
  void agree(const Tensor& param) {
    if (!is_low_precision(param)) return;
    const auto found = entries_.find(param.unsafeGetTensorImpl());
    if (found == entries_.end() || found->second.elsewhere) return;
    found->second.note(param);
  }

 private:
  struct Entry {
    Tensor values;
    std::int64_t version = -1;  ///< of the parameter, when it and its master agreed last
    // set_data puts other values in place without another version. The storage is held: a new one
    // cannot get its address.
    c10::Storage storage = {};
    const void* data = nullptr;
    bool elsewhere = false;

    [[nodiscard]] bool is_at(const Tensor& param) const {
      return data == param.const_data_ptr() &&
             storage.unsafeGetStorageImpl() == param.storage().unsafeGetStorageImpl();
    }
    void note(const Tensor& param) {
      version = param._version();
      if (is_at(param)) return;
      storage = param.storage();
      data = param.const_data_ptr();
    }
  };
  std::unordered_map<const void*, Entry> entries_;
  Tensor none_;
};

}  // namespace alkn::detail
