// The arrays of a checkpoint: what is written of an UnlearnerCore, and what does not fit one. See
// checkpoint.hpp; loading.hpp takes them over.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <alkn/checkpoint/base_archive.hpp>
#include <alkn/checkpoint/checks.hpp>
#include <alkn/io/tensors.hpp>
#include <alkn/task/core.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

template <class T>
Tensor column(const std::vector<T>& values) {
  return at::tensor(values);
}

/// What is kept of each parameter, and how its arrays' names begin.
inline constexpr std::array<std::pair<const char*, Tensor ParameterState::*>, 5> kStateArrays{
    {{"used/", &ParameterState::used},
     {"start/", &ParameterState::start},
     {"retain/", &ParameterState::retain},
     {"score/", &ParameterState::score},
     {"mask/", &ParameterState::mask}}};

/// Writes and compares an UnlearnerCore; checkpoint.hpp adds what depends on the method.
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
        for (const auto& [kind, member] : kStateArrays) put(arrays, kind + p.name, p.*member);
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
    arrays.emplace_back("base/now", BaseArchive(core_).now());
    if (core_.in_task()) write_task(arrays, header["task"]);
  }

  /// What of the file does not fit the unlearner, in words; empty: it can be read.
  std::vector<std::string> differences(const std::map<std::string, Tensor>& arrays,
                                       const nlohmann::json& header) const {
    core_.check_parameters(false);  // as they were at construction
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

 private:
  [[nodiscard]] bool owns(std::size_t i) const { return core_.shards().owns(i); }

  static void put(io::NamedTensors& arrays, const std::string& name, const Tensor& t) {
    if (t.defined()) arrays.emplace_back(name, t);
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
    arrays.emplace_back("base/before", BaseArchive(core_).before(task));
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

  UnlearnerCore& core_;
};

}  // namespace alkn::detail
