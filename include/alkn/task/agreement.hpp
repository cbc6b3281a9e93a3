// What the processes of a group tell each other before and after a call: that it is the same one,
// with the same settings, and that it can go on everywhere.
#pragma once

#include <c10/util/Exception.h>
#include <alkn/compiled.hpp>
#include <alkn/group.hpp>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

/// The calls that all processes make together.
enum class Call : std::uint16_t {
  construction,
  add_named_parameters,
  begin_task,
  accumulate_retain_gradient,
  step,
  last_tensors,
  start_weights,
  weights_at,
  end,
  judge,
  abandon,
  save_checkpoint,
  load_checkpoint,
  broadcast,
};

/// Its name, for error texts.
const char* call_name(Call call);

/// Where a process stands when it makes a call.
struct CallState {
  Call call = Call::construction;
  std::int64_t task = 0, step = 0;
  double argument = 0;         ///< the number of steps, lambda, a judge's value
  std::string asked = {};      ///< further arguments in words, among the settings
  bool same_argument = true;   ///< whether all must have the same
  std::uint64_t settings = 0;  ///< hash of what settings_lines() says
};

/// Meetings of the processes of a group. Once one has failed, every later call throws.
class Agreement {
 public:
  explicit Agreement(std::shared_ptr<Group> group, std::string owner)
      : group_(std::move(group)),
        owner_(std::move(owner)),
        number_(group_ ? group_->num_unlearners_++ : 0) {}

  /// Runs `checks`, what a call can do on this process alone, and learns how it went elsewhere.
  /// @param mine read after them
  /// @param settings the lines that all processes must have alike; asked where the hashes differ
  /// @returns the argument of every process, by rank
  /// @throws what `checks` threw; c10::Error where another process makes another call, or that of
  /// another unlearner, has other settings, or cannot go on: on all processes, and nothing has
  /// happened then
  std::vector<double> meet(const CallState& mine, const std::function<void()>& checks,
                           const std::function<std::vector<std::string>()>& settings);

  /// Runs what follows a meeting. An exception there leaves the processes at different places: the
  /// group has failed, but for one that agreed() marks.
  template <class Body>
  auto watch(Call call, const Body& body) {
    try {
      return body();
    } catch (...) {
      if (agreed_ || !failure_.empty()) {  // an inner call has said all
        agreed_ = false;
        throw;
      }
      fail(call);
    }
  }

  /// The exception that is about to be thrown is thrown on every process.
  void agreed() noexcept { agreed_ = true; }

  [[nodiscard]] bool works() const noexcept { return failure_.empty(); }

  /// No call is possible any more. @param why for the next one's error
  void mark_failed(std::string why) noexcept {
    if (failure_.empty()) failure_ = std::move(why);
  }

 private:
  [[noreturn]] void fail(Call call);  ///< inside a handler
  [[nodiscard]] std::vector<std::string> other_lines(const std::vector<std::string>& mine,
                                                     int process);

  std::shared_ptr<Group> group_;
  std::string owner_;
  std::uint64_t number_;  ///< of its unlearner among those of the group
  std::string failure_;
  bool agreed_ = false;
};

/// Whether a construction has come to its core, which meets the other processes by itself.
struct Entered {
  bool yes = false;
  const Processes& operator()(const Processes& processes) {
    yes = true;
    return processes;
  }
};

/// In a handler, before a construction has met the other processes: tells them that it will not.
/// Returns without a group; else throws what is handled, or what went wrong in the group.
void refuse_construction(const Processes& processes, const char* owner);

}  // namespace alkn::detail

#if ALKN_DEFINITIONS
#include <alkn/task/agreement_definitions.hpp>
#endif
