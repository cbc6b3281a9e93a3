// The task protocol as a sequence of calls that is drawn from bytes.
#pragma once

#include <alkn/alkn.hpp>
#include <alkn/checkpoint/checkpoint.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "forged_checkpoint.hpp"
#include "task_calls.hpp"

namespace fuzz {

template <class Method>
class Protocol : Calls<Method> {
  using Base = Calls<Method>;
  using typename Base::Task;

 public:
  Protocol(Bytes& bytes, std::filesystem::path file, at::ScalarType type, typename Base::Make make)
      : Base(bytes, type, make), file_(std::move(file)) {}

  /// Calls in any order until the bytes end; then whatever there is has to go on as a task does.
  void play() {
    reach(bytes_.pick(6));
    while (!bytes_.at_end()) call(bytes_.next());
    finish();
  }

  /// A checkpoint, damaged or with other contents, again and again, and calls after it.
  void play_checkpoints() {
    reach(bytes_.pick(6));
    save();
    while (!bytes_.at_end()) {
      leave_task();
      bytes_.pick(2) == 0 ? load_damaged() : load_forged();
      for (auto n = bytes_.pick(4); n > 0; --n) call(bytes_.next());
    }
    finish();
  }

 private:
  using Base::attempt, Base::broken, Base::bytes_, Base::check_restored, Base::core, Base::depth_,
      Base::difference, Base::kOwn, Base::method_, Base::model_, Base::must, Base::now,
      Base::shown_, Base::stale_, Base::start_, Base::task_;

  // --- checkpoints ---------------------------------------------------------------------------

  struct Saved {
    std::string bytes;
    State state;
    std::optional<State> begun;
    bool written = false;
    bool fits = false;  ///< the model had its own parameters
  };

  void save() {
    const State before = now();
    const bool worked = attempt("save_checkpoint", [&] { alkn::save_checkpoint(file_, *method_); });
    if (const State after = now(); !(after == before))
      violated("save_checkpoint", difference(before, after));
    if (!worked) return;
    std::ifstream in(file_, std::ios::binary);
    saved_ = {std::string(std::istreambuf_iterator<char>(in), {}), before, this->begun_,
              this->written_, this->is_whole() && this->aside_.size() == kOwn};
  }
  void write(const std::string& bytes) const { std::ofstream(file_, std::ios::binary) << bytes; }

  /// An error, or exactly what was saved.
  bool load(const std::string& bytes) {
    write(bytes);
    std::optional<Task> made;
    if (!attempt("load_checkpoint", [&] { read_into(made); })) return false;
    State after = now();
    after.gradients = saved_->state.gradients;
    if (!(after == saved_->state))
      violated("load_checkpoint", "not as saved, " + difference(saved_->state, after));
    if (made) this->take(std::move(*made), saved_->begun, saved_->written);
    return true;
  }
  void read_into(std::optional<Task>& made) {
    auto read = alkn::load_checkpoint(file_, *method_);
    if (read) made.emplace(std::move(*read));
  }
  void load_good() {
    if (!saved_) return;
    const bool fits = !core().in_task() && this->is_whole() && this->aside_.size() == kOwn;
    if (!load(saved_->bytes) && fits && saved_->fits)
      violated("load_checkpoint", "has to work and does not");
  }
  void load_damaged() {
    if (!saved_) return;
    std::string bytes = saved_->bytes;
    for (auto n = 1 + bytes_.pick(3); n > 0; --n) {
      const auto at = static_cast<std::size_t>(bytes_.next(2)) % bytes.size();
      const auto byte = static_cast<char>(bytes_.next());
      switch (bytes_.pick(4)) {
        case 0:
          bytes[at] = byte;
          break;
        case 1:
          bytes.resize(1 + at);
          break;
        case 2:
          bytes.insert(at, 1 + bytes_.pick(9), byte);
          break;
        default:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << bytes_.pick(8)));
      }
    }
    load(bytes);
  }
  /// An error, or exactly what the file says now.
  void load_forged() {
    if (!saved_) return;
    write(saved_->bytes);
    const Contents file = forge_checkpoint(file_, bytes_);
    std::optional<Task> made;
    if (!attempt("load_checkpoint of a forged file", [&] { read_into(made); })) return;
    this->forged_ = true;
    alkn::save_checkpoint(file_, *method_);
    if (const std::string what = lost(file, Contents(file_)); !what.empty())
      violated("load_checkpoint of a forged file", "has not read " + what);
    if (made) this->take(std::move(*made), std::nullopt, true);
  }

  // --- any call ------------------------------------------------------------------------------

  /// Those that need no handle.
  bool call_of_method(std::uint32_t code) {
    constexpr std::int64_t kSteps[] = {3, 1, 12, 0};
    switch (code) {
      case 0:
        this->begin(bytes_.one_of(kSteps));
        return true;
      case 1:
        this->step();
        return true;
      case 2:
        this->add_parameters();
        return true;
      case 3:
        save();
        return true;
      case 4:
        load_good();
        return true;
      case 5:
        load_damaged();
        return true;
      case 6:
        load_forged();
        return true;
      case 7:
        this->step_with_closure();
        return true;
      case 8:
        draw_gradients(bytes_, model_.params);
        return true;
      case 9:
        this->clear_gradients();
        return true;
      case 10:
        start_.reset();
        return true;
      case 11:
        shown_.reset();
        return true;
      case 12:
        this->set_data();
        return true;
      case 13:
        this->put_back();
        return true;
      case 14:
        this->write_weights();
        return true;
      case 15:
        this->freeze();
        return true;
      case 16:
        this->set_options();
        return true;
      case 17:
        this->mend_options();
        return true;
      case 18:
        if (depth_ == 0) this->rebuild();
        return true;
      case 19:
        this->drop();
        return true;
      default:
        return false;
    }
  }
  void call_of_task(std::uint32_t code, Task& task) {
    switch (code) {
      case 0:
        return this->remember(task);
      case 1:
        return this->accumulate(task);
      case 2:
        return this->loss(task);
      case 3:
        return this->read(task);
      case 4:
        return this->start_weights(task);
      case 5:
        return this->weights_at(task);
      case 6:
        return this->end(task);
      case 7:
        return this->end_with_lambda(task);
      case 8:
        return this->end_with_judge(task);
      default:
        return this->abandon(task);
    }
  }
  void call(std::uint32_t code) override {
    constexpr std::uint32_t kOfMethod = 20, kOfTask = 10;
    const bool too_late = code / (kOfMethod + kOfTask) == 7;
    code %= kOfMethod + kOfTask;
    if (call_of_method(code)) return;
    std::optional<Task>& task = too_late || !task_ ? stale_ : task_;
    if (task) call_of_task(code - kOfMethod, *task);
  }
  void call_of_judge(std::uint32_t code) override {
    if (code % 2 == 0)
      call_of_method(code / 2 % 7);
    else if (task_)
      call_of_task(code / 2 % 10, *task_);
  }

  // --- as it should be -----------------------------------------------------------------------

  bool prepare() {
    const tiny::Batch forget(tiny::kForget);
    if (task_->wants_memory() && !must("remember", [&] {
          task_->remember(forget.ids, model_.forward(forget.tokens), forget.labels);
        }))
      return false;
    const tiny::Batch retain(tiny::kRetain);
    return !task_->wants_retain_gradient() || must("accumulate_retain_gradient", [&] {
      task_->accumulate_retain_gradient(
          alkn::mean_nll(model_.forward(retain.tokens), retain.labels));
    });
  }
  bool step_well() {
    this->clear_gradients();
    return must("loss", [&] { tiny::loss_of(*task_, model_).backward(); }) &&
           must("step", [&] { method_->step(); });
  }
  bool begin_well(std::int64_t steps) {
    std::optional<Task> made;
    const State before = now();
    if (!must("begin_task", [&] { made.emplace(method_->begin_task({.steps = steps})); }))
      return false;
    this->take(std::move(*made), before, false);
    return prepare();
  }
  void end_well() {
    if (must("end", [&] { tiny::ignore(task_->end()); })) this->retire();
  }
  /// A start from which few bytes lead far.
  void reach(std::size_t place) {
    if (place == 1) {
      tiny::set_gradients(model_.params, 1);
      must("step", [&] { method_->step(); });
    }
    if (place >= 4) {
      begin_well(2);
      step_well();
      end_well();
    }
    if (place == 2 || place == 3 || place == 4) begin_well(3);
    if (place == 3 || place == 4) step_well();
  }
  /// Out of the running task, whatever its state.
  void leave_task() {
    start_.reset(), shown_.reset();
    this->put_back();
    if (!core().in_task()) return;
    if (task_ && (core().holds_start() || core().task().done == 0)) {
      const bool held = core().holds_start();
      if (must("abandon", [&] { task_->abandon(); })) check_restored("abandon", held);
    } else if (task_ && !broken()) {
      this->mend_options();
      end_well();
    }
    core().in_task() ? this->rebuild() : this->retire();
  }
  /// What is left is a valid state: a task works.
  void finish() {
    leave_task();
    this->mend_options();
    if (!this->is_usual() || !begin_well(1) || !step_well()) return;
    end_well();
  }

  std::filesystem::path file_;
  std::optional<Saved> saved_;
};

}  // namespace fuzz
