// Takes over what was read of a checkpoint: all that can fail first, then the rest.
#pragma once

#include <ATen/core/Tensor.h>
#include <alkn/checkpoint/arrays.hpp>
#include <alkn/checkpoint/base_archive.hpp>
#include <alkn/checkpoint/contents.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/task/core.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

class CheckpointLoad {
 public:
  /// Makes everything that commit() puts in place. The unlearner is as it was.
  /// @param contents that check_checkpoint() has nothing against
  CheckpointLoad(UnlearnerCore& core, const CheckpointContents& contents)
      : core_(core), arrays_(contents.arrays) {
    const nlohmann::json& header = contents.header;
    num_tasks_ = header.at("num_tasks").get<std::int64_t>();
    if (header.contains("task")) {
      task_ = read_task(header.at("task"));
      read_memory(contents.redistributed);
    }
    states_ = read_states();
    for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
      const ParameterState& p = core_.parameters()[i];
      if (!owns(i)) {
        live_.emplace_back();
        continue;
      }
      const bool fused = core_.base().fused();
      live_.push_back(fused ? Tensor() : core_.base().masters().get(p.param));
      if (!fused || !is_low_precision(p.param)) continue;
      masters_.adopt(p.param, arrays_.at("master/" + p.name).to(p.device));
      masters_.agree(p.param);
    }
    BaseArchive base(core_);
    if (task_) {
      BaseContents before;
      base.load("base/before", contents.bases, before);
      task_->state_before.swap(before.state);
      task_->options_before.swap(before.options);
    }
    base.load("base/now", contents.bases, base_);
  }

  /// Throws nothing.
  void commit() {
    BaseArchive(core_).put(base_);
    if (core_.base().fused()) std::swap(core_.base().masters(), masters_);
    for (std::size_t i = 0; i < states_.size(); ++i) {
      ParameterState& p = core_.parameters()[i];
      if (owns(i)) p.param.copy_(arrays_.at("parameter/" + p.name));
      if (live_[i].defined()) live_[i].copy_(arrays_.at("master/" + p.name));
      core_.base().masters().agree(p.param);
      std::swap(p, states_[i]);
    }
    core_.resume(num_tasks_, std::move(task_));
  }

 private:
  [[nodiscard]] bool owns(std::size_t i) const { return core_.shards().owns(i); }

  [[nodiscard]] std::unique_ptr<TaskState> read_task(const nlohmann::json& header) const {
    auto task = std::make_unique<TaskState>();
    task->announced = header.at("announced").get<std::int64_t>();
    task->done = header.at("done").get<std::int64_t>();
    task->skipped = header.at("skipped").get<std::int64_t>();
    task->training = task->prepared = header.at("training").get<bool>();
    task->num_retain_batches = header.at("num_retain_batches").get<std::int64_t>();
    const auto* numbers = arrays_.at("task/numbers").const_data_ptr<double>();
    task->unmask_ratio = numbers[0];
    task->last = {.task = header.at("last").at("task").get<std::int64_t>(),
                  .step = header.at("last").at("step").get<std::int64_t>(),
                  .grad_norm = numbers[1],
                  .clip_scale = numbers[2],
                  .unmask_ratio = numbers[3],
                  .fraction_trained = numbers[4],
                  .skipped = header.at("last").at("skipped").get<bool>()};
    return task;
  }

  /// @param redistributed see CheckpointContents
  void read_memory(bool redistributed) {
    if (!arrays_.contains("memory/ids")) return;
    const Tensor& ids = arrays_.at("memory/ids");
    const Tensor& sizes = arrays_.at("memory/sizes");
    const auto values = arrays_.at("memory/values")
                            .split_with_sizes({sizes.const_data_ptr<std::int64_t>(),
                                               static_cast<std::size_t>(sizes.numel())});
    const std::int64_t size = core_.shards().size();
    SampleMemory::Entries entries;
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      const std::int64_t id = ids.const_data_ptr<std::int64_t>()[i];
      if (redistributed && (id % size + size) % size != core_.shards().rank()) continue;
      entries.try_emplace(
          id, SampleMemory::Entry{values[static_cast<std::size_t>(i)].clone(),
                                  arrays_.at("memory/tokens").const_data_ptr<std::int64_t>()[i]});
    }
    task_->memory.put(std::move(entries));
  }

  /// What is known of each parameter, as the files have it.
  [[nodiscard]] std::vector<ParameterState> read_states() const {
    const auto* threshold = arrays_.at("columns/threshold").const_data_ptr<double>();
    const auto* eta = arrays_.at("columns/eta").const_data_ptr<double>();
    const auto* flags = arrays_.at("columns/flags").const_data_ptr<std::int64_t>();
    const auto* unmasked = arrays_.at("columns/num_unmasked").const_data_ptr<std::int64_t>();
    std::vector<ParameterState> states = core_.parameters();
    for (std::size_t i = 0; i < states.size(); ++i) {
      ParameterState& p = states[i];
      p.drop_task();
      for (const auto& [kind, member] : kStateArrays) {
        const auto found = arrays_.find(kind + p.name);
        const bool host = member == &ParameterState::start && core_.settings().start_on_host;
        if (found == arrays_.end())
          p.*member = Tensor();
        else if (host)
          p.*member = p.device.is_cuda() ? pinned_copy(found->second) : found->second;
        else
          p.*member = found->second.to(p.device);
      }
      p.threshold = (flags[i] & 1) != 0 ? std::optional(threshold[i]) : std::nullopt;
      p.eta = (flags[i] & 2) != 0 ? std::optional(eta[i]) : std::nullopt;
      p.slow = (flags[i] & 4) != 0;
      p.num_trained = unmasked[i];
    }
    return states;
  }

  UnlearnerCore& core_;
  const std::map<std::string, Tensor>& arrays_;
  std::int64_t num_tasks_ = 0;
  std::unique_ptr<TaskState> task_;
  std::vector<ParameterState> states_;
  Masters masters_;           ///< of alkn::AdamW; another base's state is known by its masters
  std::vector<Tensor> live_;  ///< those, of each parameter
  BaseContents base_;
};

/// Runs the part of a load that can fail, on all processes.
/// @param hash of the checkpoint, read afterwards: all must have the same
inline void load_together(UnlearnerCore& core, const double& hash,
                          const std::function<void()>& checks) {
  if (!core.shards().active()) {
    checks();
    return;
  }
  const std::vector<double> all = core.agree(Call::load_checkpoint, checks, hash);
  for (std::size_t i = 1; i < all.size(); ++i) {
    TORCH_CHECK(all[i] == all[0],
                "alkn::load_checkpoint: expected one checkpoint for all processes, got others on "
                "process 0 and on process ",
                i);
  }
}

}  // namespace alkn::detail
