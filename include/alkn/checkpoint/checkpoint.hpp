// Checkpoints: everything that a resumed run needs, in one file that appears whole or not at all.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <alkn/checkpoint/contents.hpp>
#include <alkn/checkpoint/file.hpp>
#include <alkn/checkpoint/loading.hpp>
#include <alkn/checkpoint/shard_files.hpp>
#include <alkn/io/tensors.hpp>
#include <alkn/method/unlearner.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

namespace alkn {

/// Writes the whole state of a run to `path`: parameters and fp32 masters, the base's state and
/// options, masks, thresholds, and of a running task the weights of its start, retain gradient,
/// scores, what the objective remembered, its counters; the state of LibTorch's CPU generator;
/// `buffers` as given (a model's, by name). One safetensors file, whole or not at all. With a group
/// (collective) a folder that all processes reach, whole or not at all as well: a file of each
/// process with its share of the state, which is read again before it counts, and an index; see
/// checkpoint/shard_files.hpp.
/// @throws std::runtime_error if the file cannot be written; c10::ValueError for a name that is not
/// UTF-8
template <class Method>
void save_checkpoint(const std::filesystem::path& path, const Method& unlearner,
                     const io::NamedTensors& buffers = {}) {
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  detail::UnlearnerCore& core = *detail::CoreAccess::core(unlearner);
  if (!core.shards().active()) {
    detail::write_checkpoint(path, unlearner, buffers);
    return;
  }
  detail::save_shards(path, core, [&](const std::filesystem::path& shard) {
    detail::write_checkpoint(shard, unlearner, buffers);
  });
}

/// Reads what save_checkpoint wrote into an unlearner of the same method, options and parameters,
/// and `buffers` into the tensors given. The run goes on with the same bits as if it had never
/// stopped. With a group it is collective. What N processes have written is read by any number of
/// them, and by one without a group; what one has written by any number. By another number than N,
/// sample `id` of what `remember` keeps is on process id modulo size, and process r has the
/// generator's state and the buffers of process r modulo N; with N itself all is where it was.
/// @returns the running task, if there was one
/// @throws c10::Error listing what differs, c10::Error or std::runtime_error for a missing,
/// truncated or corrupted file, or one that the folder's index was not written for; nothing is
/// changed then, on any process
template <class Method>
[[nodiscard]] std::optional<typename Method::TaskType> load_checkpoint(
    const std::filesystem::path& path, Method& unlearner, const io::NamedTensors& buffers = {}) {
  const std::shared_ptr<detail::UnlearnerCore>& core = detail::CoreAccess::core(unlearner);
  const c10::InferenceMode normal_tensors(false);
  const at::NoGradGuard no_grad;
  detail::CheckpointContents file;
  std::optional<detail::CheckpointLoad> load;
  std::optional<detail::GeneratorState> generator;
  double hash = 0;
  detail::load_together(*core, hash, [&] {
    TORCH_CHECK(
        !core->in_task(),
        "alkn::load_checkpoint: expected no running task, got one; end or abandon it first");
    const detail::SavedFiles files(path);
    file = detail::ContentsReader(files, *core).read();
    detail::check_checkpoint(file, path, unlearner, buffers);
    for (const char* name : {"base/now", "base/before"}) file.arrays.erase(name);  // read again
    load.emplace(*core, file);
    generator.emplace(file.arrays.at("generator"), path);
    hash = static_cast<double>(file.hash);
  });
  core->together(
      detail::Call::load_checkpoint, 0, [] {},
      [&] {
        load->commit();
        generator->keep();
        core->spread_loaded();
      });
  for (const auto& [name, buffer] : buffers) {
    const c10::InferenceMode mode(buffer.is_inference());  // only there one may be written
    const at::NoGradGuard no_grad_here;
    Tensor(buffer).copy_(file.arrays.at("buffer/" + name));
  }
  if (!core->in_task()) return std::nullopt;
  return std::optional<typename Method::TaskType>(std::in_place, core, core->task().serial,
                                                  unlearner.method_options());
}

}  // namespace alkn
