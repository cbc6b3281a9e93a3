// What of a model is no parameter, given to all processes of a group. Without c10d.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <alkn/group.hpp>
#include <alkn/io/hash.hpp>
#include <alkn/parameters.hpp>
#include <alkn/task/agreement.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace alkn::dist {

/// Gives every process the buffers of process 0: running means, tables of positions. Collective; to
/// be called before the first step, and again where buffers have become others.
/// @param buffers a model's named_buffers(), of any dtype and device; undefined ones are left out
/// @param group null: this process is alone, and nothing is done
/// @returns the names of those that some process had other bits of; the same list on all
/// @throws c10::Error where the processes have other names, shapes or dtypes, which it names, or do
/// not all come; no buffer is changed then
template <NamedParameters Named>
std::vector<std::string> broadcast(const Named& buffers, const std::shared_ptr<Group>& group) {
  if (!group) return {};
  const at::NoGradGuard no_grad;
  std::vector<std::string> names, lines;
  std::vector<Tensor> tensors, values;  // the values on the host, contiguous
  std::int64_t num_bytes = 0;
  Tensor packed;
  alkn::detail::Agreement agreement(group, "dist::broadcast");
  alkn::detail::CallState state{.call = alkn::detail::Call::broadcast};
  const auto pack = [&] {
    for (const auto& item : buffers) {
      const NamedParameter buffer = alkn::detail::to_named_parameter(item);
      if (!buffer.tensor.defined()) continue;
      names.push_back(buffer.name);
      lines.push_back(fmt::format("buffer \"{}\" {} [{}]", buffer.name,
                                  c10::toString(buffer.tensor.scalar_type()),
                                  fmt::join(buffer.tensor.sizes(), ", ")));
      state.settings = io::detail::hash_bytes(lines.back() + "\n", state.settings);
      tensors.push_back(buffer.tensor);
      values.push_back(buffer.tensor.detach().cpu().contiguous().clone());
      num_bytes += static_cast<std::int64_t>(values.back().nbytes());
    }
    packed = at::empty({num_bytes}, at::kByte);
    auto* to = packed.mutable_data_ptr<std::uint8_t>();
    for (const Tensor& value : values) {
      std::memcpy(to, value.const_data_ptr(), value.nbytes());
      to += value.nbytes();
    }
  };
  agreement.meet(state, pack, [&] { return lines; });
  if (num_bytes == 0) return {};
  const Tensor differ = at::zeros({std::ssize(names)}, at::kFloat);
  agreement.watch(alkn::detail::Call::broadcast, [&] {
    group->broadcast(packed, 0);
    const auto* from = packed.const_data_ptr<std::uint8_t>();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t size = values[i].nbytes();
      if (size > 0 && std::memcmp(values[i].const_data_ptr(), from, size) != 0) {
        differ.mutable_data_ptr<float>()[i] = 1;
        std::memcpy(values[i].mutable_data_ptr(), from, size);
        tensors[i].copy_(values[i]);
      }
      from += size;
    }
    group->all_reduce(differ);
  });
  std::vector<std::string> others;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (differ.const_data_ptr<float>()[i] > 0) others.push_back(names[i]);
  }
  return others;
}

}  // namespace alkn::dist
