// What the base optimizer has, in an archive of its own `save` among a checkpoint's arrays.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <c10/util/ScopeExit.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/archive.h>
#include <alkn/checkpoint/saved_file.hpp>
#include <alkn/optim/archive.hpp>
#include <alkn/optim/optimizer_state.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/task/core.hpp>

#include <cstddef>
#include <exception>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

namespace alkn::detail {

/// A file, and the parameters of which this process takes what the base has from it.
struct BaseSource {
  std::shared_ptr<const SavedFile> file;
  std::vector<char> takes;
};

/// What a base holds: its state, and the options of its groups.
struct BaseContents {
  OptimizerState state;
  std::vector<std::unique_ptr<torch::optim::OptimizerOptions>> options;
};

/// The base's own state and group options, through its `save` and `load`; without alkn::AdamW's
/// masters, which a checkpoint has by name.
class BaseArchive {
 public:
  explicit BaseArchive(UnlearnerCore& core) : core_(core) {}

  [[nodiscard]] Tensor now() {
    const at::NoGradGuard no_grad;
    const UnlearnerCore::ArchiveOfShare share(core_);
    Masters aside;
    exchange(aside);
    const auto back = c10::make_scope_exit([&] { exchange(aside); });
    torch::serialize::OutputArchive archive;
    optimizer().save(archive);
    std::ostringstream stream;
    archive.save_to(stream);
    return bytes_tensor(stream.str());
  }

  /// Of what the task has set aside.
  [[nodiscard]] Tensor before(TaskState& task) {
    Options own = clones(), then;
    then.reserve(own.size());
    for (const auto& options : task.options_before) then.push_back(options->clone());
    const auto exchange_state = [&](Options& options) {  // throws nothing
      optimizer().state().swap(task.state_before);
      put_options(options);
    };
    exchange_state(then);
    const auto back = c10::make_scope_exit([&] { exchange_state(own); });
    return now();
  }

  /// What the files have under a name. The base is as it was.
  void load(const char* name, const std::vector<BaseSource>& files, BaseContents& loaded) {
    auto& groups = optimizer().param_groups();
    BaseContents mine;
    mine.options = clones();
    Masters aside;  // alkn::AdamW's archive has none: it would forget them
    mine.state.swap(optimizer().state());
    exchange(aside);
    const auto back = c10::make_scope_exit([&] {
      mine.state.swap(optimizer().state());
      put_options(mine.options);
      exchange(aside);
    });
    const auto& defaults = std::as_const(optimizer()).defaults();
    for (auto& group : groups) {  // somebody may have set those of another class
      const torch::optim::OptimizerOptions& own = group.options();
      if (typeid(own) != typeid(defaults)) group.set_options(defaults.clone());
    }
    for (const BaseSource& source : files) {
      load_archive(source.file->read(name), name);
      core_.forget_state(optimizer().state(), 0,
                         [&](std::size_t i) { return source.takes[i] == 0; });
      for (auto& [key, entry] : optimizer().state()) loaded.state.emplace(key, std::move(entry));
      if (loaded.options.empty()) loaded.options = clones();
    }
  }

  /// Throws nothing.
  void put(BaseContents& contents) {
    optimizer().state().swap(contents.state);
    put_options(contents.options);
  }

 private:
  using Options = std::vector<std::unique_ptr<torch::optim::OptimizerOptions>>;

  torch::optim::Optimizer& optimizer() const { return core_.base().optimizer(); }

  void exchange(Masters& aside) {
    if (core_.base().fused()) std::swap(core_.base().masters(), aside);
  }

  void put_options(Options& options) {
    auto& groups = optimizer().param_groups();
    for (std::size_t g = 0; g < groups.size(); ++g) core_.put_options(groups[g], options[g]);
  }

  [[nodiscard]] Options clones() const {
    Options all;
    all.reserve(optimizer().param_groups().size());
    for (const auto& group : optimizer().param_groups()) all.push_back(group.options().clone());
    return all;
  }

  void load_archive(const Tensor& bytes, const char* name) {
    torch::serialize::InputArchive archive;
    std::istringstream stream(tensor_bytes(bytes));
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

  UnlearnerCore& core_;
};

}  // namespace alkn::detail
