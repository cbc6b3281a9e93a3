// Several processes that unlearn one model together, as an Unlearner needs them. Without c10d,
// which alkn/dist brings.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceType.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

#include <array>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace alkn {

/// What the processes tell each other before a call moves tensors: 64 bytes, so that two processes
/// in different calls notice it instead of mixing up their data.
using GroupMessage = std::array<std::byte, 64>;

namespace detail {

class Agreement;

/// Another process has made another call. It has got this process's message in its own call: this
/// process must not tell it anything more of what it is in.
class OtherCall : public c10::Error {
  using Error::Error;
};

template <class... Parts>
[[noreturn]] void throw_other_call(const Parts&... parts) {
  throw OtherCall({__func__, __FILE__, static_cast<std::uint32_t>(__LINE__)}, c10::str(parts...));
}

}  // namespace detail

/// The processes, numbered from 0. Every call but rank(), size(), timeout() and moves() is
/// collective: all processes make the same calls in the same order. A call returns when its result
/// can be used by what the process does next; it throws c10::Error or std::exception where a
/// process is gone or does not come within timeout(), and the group is of no use from then on.
class Group {
 public:
  virtual ~Group() = default;
  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;
  /// How long a call waits for the other processes.
  [[nodiscard]] virtual std::chrono::milliseconds timeout() const noexcept = 0;

  /// Whether tensors of these devices can be given to the calls below: those of the CPU can.
  [[nodiscard]] virtual bool moves(c10::DeviceType type) const noexcept {
    return type == c10::DeviceType::CPU;
  }
  /// The sum over all processes, the same bits on each. @param values contiguous, fp32 or (on the
  /// CPU) double, in place, of the same size everywhere
  virtual void all_reduce(const at::Tensor& values) = 0;
  /// The same sum on `root` alone; what the others have in `values` then is unspecified.
  virtual void reduce(const at::Tensor& values, int root) = 0;
  /// The values of `root`, to all. @param values contiguous, any dtype
  virtual void broadcast(const at::Tensor& values, int root) = 0;
  /// The message of every process, by rank; through host memory.
  [[nodiscard]] virtual std::vector<GroupMessage> gather(const GroupMessage& mine) = 0;
  /// After a call that threw: the processes that are known not to have come to the last gather().
  [[nodiscard]] virtual std::vector<int> missing() { return {}; }

  /// The factor of a loss term that is a mean over `count` tokens or sequences of this process:
  /// size * count / (sum of the counts), so that the plain average of all processes' gradients is
  /// the gradient of the mean over all tokens. Collective.
  /// @param count [0, inf); 0 on all processes: 0
  [[nodiscard]] double share(double count) {
    TORCH_CHECK_VALUE(count >= 0 && std::isfinite(count),
                      "alkn::Group: expected a count in [0, inf), got ", count, " (share)");
    constexpr std::uint64_t kShare = 0x616c6b6e73686172;  // tells it from other calls
    GroupMessage mine{};
    std::memcpy(mine.data(), &kShare, sizeof kShare);
    std::memcpy(mine.data() + sizeof kShare, &count, sizeof count);
    double sum = 0;
    for (const GroupMessage& message : gather(mine)) {
      std::uint64_t call = 0;
      double other = 0;
      std::memcpy(&call, message.data(), sizeof call);
      std::memcpy(&other, message.data() + sizeof call, sizeof other);
      if (call != kShare)
        detail::throw_other_call(
            "alkn::Group: expected share() on every process, got another call on one");
      sum += other;
    }
    return sum > 0 ? size() * count / sum : 0;
  }

 private:
  friend class detail::Agreement;
  std::uint64_t num_unlearners_ = 0;  ///< that were made over this group, in the order of all
};

/// What of a method's state a process holds.
enum class Sharding : std::uint8_t {
  state,  ///< moments, masters, scores, G_r, theta_{t-1}, masks of its own share of the parameters
  none,   ///< everything: for models whose state is small beside what sending the weights costs
};

/// The processes that an Unlearner shares its work with.
struct Processes {
  std::shared_ptr<Group> group = nullptr;  ///< null: this process is alone
  Sharding sharding = Sharding::state;

  Processes() = default;
  /// @param all a group, or one of a derived class; null
  template <std::derived_from<Group> AnyGroup>
  Processes(std::shared_ptr<AnyGroup> all,  // NOLINT(google-explicit-constructor): a group will do
            Sharding how = Sharding::state)
      : group(std::move(all)), sharding(how) {}
};

}  // namespace alkn
