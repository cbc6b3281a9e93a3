// The arrays of a checkpoint: what an UnlearnerCore writes and reads. See checkpoint.hpp. Long, as
// each array is written, compared and read here, side by side.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <c10/util/ScopeExit.h>
#include <fmt/format.h>
#include <torch/serialize/archive.h>
#include <alkn/checkpoint/checks.hpp>
#include <alkn/io/tensors.hpp>
#include <alkn/optim/archive.hpp>
#include <alkn/task/core.hpp>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

namespace alkn::detail {

inline Tensor bytes_tensor(const std::string& bytes) {
  Tensor t = at::empty({static_cast<std::int64_t>(bytes.size())}, at::kByte);
  if (!bytes.empty()) std::memcpy(t.mutable_data_ptr(), bytes.data(), bytes.size());
  return t;
}

inline std::string tensor_bytes(const Tensor& t) {
  return {static_cast<const char*>(t.const_data_ptr()), static_cast<std::size_t>(t.numel())};
}

template <class T>
Tensor column(const std::vector<T>& values) {
  return at::tensor(values);
}

/// Writes and reads an UnlearnerCore; checkpoint.hpp adds what depends on the method.
class CheckpointArrays {
 public:
  explicit CheckpointArrays(UnlearnerCore& core) : core_(core) {}

  void write(io::NamedTensors& arrays, nlohmann::json& header) {
    core_.check_parameters(false);
    header["num_tasks"] = core_.num_tasks();
    std::vector<double> threshold, eta;
    std::vector<std::int64_t> flags, unmasked;
    for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
      ParameterState& p = core_.parameters()[i];
      header["parameters"].push_back({{"name", p.name}, {"group", p.group}});
      if (owns(i)) {
        arrays.emplace_back("parameter/" + p.name, p.param);
        put(arrays, "master/" + p.name, core_.base().masters().get(p.param));
        put(arrays, "given/" + p.name, p.given);
        for (const auto& [kind, member] : kTensors) put(arrays, kind + p.name, p.*member);
      }
      threshold.push_back(p.threshold.value_or(0));
      eta.push_back(p.eta.value_or(0));
      flags.push_back((p.threshold ? 1 : 0) + (p.eta ? 2 : 0) + (p.slow ? 4 : 0));
      unmasked.push_back(p.num_trained);
    }
    arrays.emplace_back("columns/threshold", column(threshold));
    arrays.emplace_back("columns/eta", column(eta));
    arrays.emplace_back("columns/flags", column(flags));
    arrays.emplace_back("columns/num_unmasked", column(unmasked));  // its name since version 1
    arrays.emplace_back("base/now", base_archive());
    if (core_.in_task()) write_task(arrays, header["task"]);
  }

  /// What of the file does not fit the unlearner, in words; empty: it can be read.
  std::vector<std::string> differences(const std::map<std::string, Tensor>& arrays,
                                       const nlohmann::json& header) const {
    std::vector<std::string> found;
    std::map<std::string, std::size_t> saved;
    for (const auto& row : header.at("parameters")) {
      saved.emplace(row.at("name").get<std::string>(),
                    row.at("group").get_ref<const nlohmann::json::number_unsigned_t&>());
    }
    for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
      const ParameterState& p = core_.parameters()[i];
      const auto row = saved.find(p.name);
      if (row == saved.end()) {
        found.push_back(fmt::format("parameter \"{}\" is not in the file", p.name));
        continue;
      }
      const auto values = arrays.find("parameter/" + p.name);
      if (values == arrays.end()) {
        if (owns(i))  // else another process has it
          found.push_back(fmt::format("array \"parameter/{}\" is not in the file", p.name));
      } else if (values->second.sizes() != p.param.sizes() ||
                 values->second.scalar_type() != p.dtype) {
        found.push_back(fmt::format(
            "parameter \"{}\" is {}, in the file {}", p.name, array_text(p.dtype, p.param.sizes()),
            array_text(values->second.scalar_type(), values->second.sizes())));
      }
      const auto given = arrays.find("given/" + p.name);
      if (given != arrays.end() && p.given.defined() && given->second.scalar_type() == at::kLong &&
          !given->second.equal(p.given.cpu())) {
        found.push_back(fmt::format("the mask of parameter \"{}\" is another in the file", p.name));
      }
      if (row->second != p.group) {
        found.push_back(fmt::format("parameter \"{}\" is in group {}, in the file in group {}",
                                    p.name, p.group, row->second));
      }
      saved.erase(row);
    }
    for (const auto& [name, group] : saved) {
      found.push_back(fmt::format("parameter \"{}\" of the file is not in the model", name));
    }
    if (found.empty()) {
      const auto& rows = header.at("parameters");
      for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
        if (rows[i].at("name") != core_.parameters()[i].name) {
          found.push_back(fmt::format("parameter {} is \"{}\", in the file \"{}\"", i,
                                      core_.parameters()[i].name,
                                      rows[i].at("name").get<std::string>()));
        }
      }
    }
    if (found.empty()) found = CheckpointChecks(core_, arrays, header).differences();
    return found;
  }

  /// Takes everything over, after differences(). Throws only before anything is changed.
  void read(const std::map<std::string, Tensor>& arrays, const nlohmann::json& header) {
    const auto num_tasks = header.at("num_tasks").get<std::int64_t>();
    std::unique_ptr<TaskState> task;
    if (header.contains("task")) task = read_task(arrays, header.at("task"));
    std::vector<ParameterState> states = read_states(arrays);
    Masters masters;  // of alkn::AdamW; another base's state is known by the masters that it has
    std::vector<Tensor> live;
    for (std::size_t i = 0; i < core_.parameters().size(); ++i) {
      const ParameterState& p = core_.parameters()[i];
      if (!owns(i)) {
        live.emplace_back();
        continue;
      }
      const bool fused = core_.base().fused();
      live.push_back(fused ? Tensor() : core_.base().masters().get(p.param));
      if (!fused || !is_low_precision(p.param)) continue;
      masters.adopt(p.param, arrays.at("master/" + p.name).to(p.device));
      masters.agree(p.param);
    }
    read_base(arrays, task.get());
    // nothing below throws
    if (core_.base().fused()) std::swap(core_.base().masters(), masters);
    for (std::size_t i = 0; i < states.size(); ++i) {
      ParameterState& p = core_.parameters()[i];
      if (owns(i)) p.param.copy_(arrays.at("parameter/" + p.name));
      if (live[i].defined()) live[i].copy_(arrays.at("master/" + p.name));
      core_.base().masters().agree(p.param);
      std::swap(p, states[i]);
    }
    core_.resume(num_tasks, std::move(task));
  }

 private:
  using Member = Tensor ParameterState::*;
  static inline const std::vector<std::pair<std::string, Member>> kTensors = {
      {"used/", &ParameterState::used},
      {"start/", &ParameterState::start},
      {"retain/", &ParameterState::retain},
      {"score/", &ParameterState::score},
      {"mask/", &ParameterState::mask}};

  [[nodiscard]] bool owns(std::size_t i) const { return core_.shards().owns(i); }

  static void put(io::NamedTensors& arrays, const std::string& name, const Tensor& t) {
    if (t.defined()) arrays.emplace_back(name, t);
  }

  torch::optim::Optimizer& optimizer() const { return core_.base().optimizer(); }

  /// The base's own state and group options, through its `save`; without alkn::AdamW's masters,
  /// which the file has by name.
  Tensor base_archive() {
    const at::NoGradGuard no_grad;
    const UnlearnerCore::ArchiveOfShare share(core_);
    Masters aside;
    const auto exchange = [&] {
      if (core_.base().fused()) std::swap(core_.base().masters(), aside);
    };
    exchange();
    const auto back = c10::make_scope_exit(exchange);
    torch::serialize::OutputArchive archive;
    optimizer().save(archive);
    std::ostringstream stream;
    archive.save_to(stream);
    return bytes_tensor(stream.str());
  }

  /// Exchanges the base's state and options with those that the task set aside.
  void swap_before(TaskState& task) {
    auto& groups = optimizer().param_groups();
    std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> now;
    for (const auto& group : groups) now.push_back(group.options().clone());
    optimizer().state().swap(task.state_before);  // nothing throws any more
    for (std::size_t g = 0; g < groups.size(); ++g)
      core_.put_options(groups[g], task.options_before[g]);
    task.options_before.swap(now);
  }

  void write_task(io::NamedTensors& arrays, nlohmann::json& header) {
    TaskState& task = core_.task();
    UnlearnerCore::check_whole(task, "save_checkpoint()");
    TORCH_CHECK(!task.scope() && !task.judging,
                "alkn::save_checkpoint: expected the fine-tuned weights in the model, got a call ",
                "inside ", task.judging ? "the judge of end()" : "the scope of ",
                task.judging ? "" : task.scope());
    TORCH_CHECK(
        task.training == task.prepared,
        "alkn::save_checkpoint: expected a first step that found all its memory, got a call "
        "after one that did not; take it again");
    header = {{"announced", task.announced},
              {"done", task.done},
              {"skipped", task.skipped},
              {"training", task.training},
              {"num_retain_batches", task.num_retain_batches}};
    const StepReport& last = task.last;
    arrays.emplace_back("task/numbers", column(std::vector<double>{
                                            task.unmask_ratio, last.grad_norm, last.clip_scale,
                                            last.unmask_ratio, last.fraction_trained}));
    header["last"] = {{"task", last.task}, {"step", last.step}, {"skipped", last.skipped}};
    swap_before(task);
    try {
      arrays.emplace_back("base/before", base_archive());
    } catch (...) {
      swap_before(task);
      throw;
    }
    swap_before(task);
    write_memory(arrays, task.memory);
  }

  static void write_memory(io::NamedTensors& arrays, const SampleMemory& memory) {
    if (memory.entries().empty()) return;
    std::map<std::int64_t, SampleMemory::Entry> sorted(memory.entries().begin(),
                                                       memory.entries().end());
    std::vector<std::int64_t> ids, tokens, sizes;
    std::vector<Tensor> values;
    for (const auto& [id, entry] : sorted) {
      ids.push_back(id);
      tokens.push_back(entry.num_tokens);
      sizes.push_back(entry.values.numel());
      values.push_back(entry.values);
    }
    arrays.emplace_back("memory/ids", column(ids));
    arrays.emplace_back("memory/tokens", column(tokens));
    arrays.emplace_back("memory/sizes", column(sizes));
    arrays.emplace_back("memory/values", at::cat(values));
  }

  static std::unique_ptr<TaskState> read_task(const std::map<std::string, Tensor>& arrays,
                                              const nlohmann::json& header) {
    auto task = std::make_unique<TaskState>();
    task->announced = header.at("announced").get<std::int64_t>();
    task->done = header.at("done").get<std::int64_t>();
    task->skipped = header.at("skipped").get<std::int64_t>();
    task->training = task->prepared = header.at("training").get<bool>();
    task->num_retain_batches = header.at("num_retain_batches").get<std::int64_t>();
    const auto* numbers = arrays.at("task/numbers").const_data_ptr<double>();
    task->unmask_ratio = numbers[0];
    task->last = {.task = header.at("last").at("task").get<std::int64_t>(),
                  .step = header.at("last").at("step").get<std::int64_t>(),
                  .grad_norm = numbers[1],
                  .clip_scale = numbers[2],
                  .unmask_ratio = numbers[3],
                  .fraction_trained = numbers[4],
                  .skipped = header.at("last").at("skipped").get<bool>()};
    if (arrays.contains("memory/ids")) {
      const Tensor& ids = arrays.at("memory/ids");
      const Tensor& sizes = arrays.at("memory/sizes");
      const auto values = arrays.at("memory/values")
                              .split_with_sizes({sizes.const_data_ptr<std::int64_t>(),
                                                 static_cast<std::size_t>(sizes.numel())});
      SampleMemory::Entries entries;
      for (std::int64_t i = 0; i < ids.numel(); ++i) {
        entries[ids.const_data_ptr<std::int64_t>()[i]] = {
            values[static_cast<std::size_t>(i)].clone(),
            arrays.at("memory/tokens").const_data_ptr<std::int64_t>()[i]};
      }
      task->memory.put(std::move(entries));
    }
    return task;
  }

  void load_archive(const std::map<std::string, Tensor>& arrays, const char* name) {
    torch::serialize::InputArchive archive;
    std::istringstream stream(tensor_bytes(arrays.at(name)));
    optimizer().state().clear();  // LibTorch keeps what the archive lacks
    try {
      archive.load_from(stream);
      optimizer().load(archive);
    } catch (const c10::ValueError&) {  // alkn::AdamW's
      throw;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception&) {
      TORCH_CHECK(false, "alkn::load_checkpoint: expected what the base optimizer has saved, got ",
                  "an archive that it cannot load (\"", name, "\")");
    }
  }

  /// What is known of each parameter, as the file has it.
  [[nodiscard]] std::vector<ParameterState> read_states(
      const std::map<std::string, Tensor>& arrays) const {
    const auto* threshold = arrays.at("columns/threshold").const_data_ptr<double>();
    const auto* eta = arrays.at("columns/eta").const_data_ptr<double>();
    const auto* flags = arrays.at("columns/flags").const_data_ptr<std::int64_t>();
    const auto* unmasked = arrays.at("columns/num_unmasked").const_data_ptr<std::int64_t>();
    std::vector<ParameterState> states = core_.parameters();
    for (std::size_t i = 0; i < states.size(); ++i) {
      ParameterState& p = states[i];
      p.drop_task();
      for (const auto& [kind, member] : kTensors) {
        const auto found = arrays.find(kind + p.name);
        const bool host = member == &ParameterState::start && core_.settings().start_on_host;
        if (found == arrays.end())
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

  /// The base's state and options, and those set aside by a running task. If the base refuses, its
  /// own are back.
  void read_base(const std::map<std::string, Tensor>& arrays, TaskState* task) {
    auto& groups = optimizer().param_groups();
    TaskState mine;
    for (const auto& group : groups) mine.options_before.push_back(group.options().clone());
    const auto& defaults = std::as_const(optimizer()).defaults();
    Masters aside;  // alkn::AdamW's archive has none: it would forget them
    const auto exchange = [&] {
      if (core_.base().fused()) std::swap(core_.base().masters(), aside);
    };
    mine.state_before.swap(optimizer().state());
    exchange();
    try {
      for (auto& group : groups) {  // somebody may have set those of another class
        const torch::optim::OptimizerOptions& own = group.options();
        if (typeid(own) != typeid(defaults)) group.set_options(defaults.clone());
      }
      if (task != nullptr) {
        load_archive(arrays, "base/before");
        task->state_before.swap(optimizer().state());
        for (const auto& group : groups) task->options_before.push_back(group.options().clone());
      }
      load_archive(arrays, "base/now");
    } catch (...) {
      mine.state_before.swap(optimizer().state());
      for (std::size_t g = 0; g < groups.size(); ++g)
        core_.put_options(groups[g], mine.options_before[g]);
      exchange();
      throw;
    }
    exchange();
  }

  UnlearnerCore& core_;
};

}  // namespace alkn::detail
