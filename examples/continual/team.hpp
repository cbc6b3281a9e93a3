// The processes that share a run. Each has its own part of the samples; what is decided, printed
// and written is the same for all.
#pragma once

#include <c10/util/Exception.h>
#include <alkn/group.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace continual {

/// What a process throws where another one has failed: that one says why.
struct Elsewhere : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// All calls but group(), rank(), size(), first() and own() are collective: every process makes
/// them, in the same order.
class Team {
 public:
  Team() = default;  ///< this process alone, which waits for nobody
  explicit Team(std::shared_ptr<alkn::Group> group) : group_(std::move(group)) {}

  [[nodiscard]] const std::shared_ptr<alkn::Group>& group() const { return group_; }
  [[nodiscard]] int rank() const { return group_ ? group_->rank() : 0; }
  [[nodiscard]] int size() const { return group_ ? group_->size() : 1; }
  [[nodiscard]] bool first() const { return rank() == 0; }

  /// This process's part: every size()-th. In a list whose ids are places, the id modulo size() is
  /// the process.
  template <class Item>
  [[nodiscard]] std::vector<Item> own(const std::vector<Item>& all) const {
    std::vector<Item> part;
    for (auto i = static_cast<std::size_t>(rank()); i < all.size();
         i += static_cast<std::size_t>(size())) {
      part.push_back(all[i]);
    }
    return part;
  }

  /// What the mean over `count` tokens or sequences of this process weighs in the mean of all.
  [[nodiscard]] double share(std::int64_t count) const {
    return group_ ? group_->share(static_cast<double>(count)) : 1;
  }

  /// The value of every process, by rank.
  [[nodiscard]] std::vector<double> all(double mine) const {
    if (!group_) return {mine};
    constexpr std::uint64_t kTag = 0x636f6e74696e7561;  // tells it from the library's messages
    alkn::GroupMessage message{};
    std::memcpy(message.data(), &kTag, sizeof kTag);
    std::memcpy(message.data() + sizeof kTag, &mine, sizeof mine);
    std::vector<double> values;
    for (const alkn::GroupMessage& other : gather(message)) {
      std::uint64_t tag = 0;
      std::memcpy(&tag, other.data(), sizeof tag);
      if (tag != kTag) {
        throw std::runtime_error("continual: expected every process at the same place, got others");
      }
      std::memcpy(&values.emplace_back(), other.data() + sizeof tag, sizeof(double));
    }
    return values;
  }

  /// Added in the order of the ranks: the same bits on every process.
  [[nodiscard]] double sum(double mine) const {
    const std::vector<double> values = all(mine);
    double sum = values[0];
    for (std::size_t i = 1; i < values.size(); ++i) sum += values[i];
    return sum;
  }
  [[nodiscard]] std::int64_t max(std::int64_t mine) const {
    double most = 0;
    for (const double value : all(static_cast<double>(mine))) most = std::max(most, value);
    return static_cast<std::int64_t>(most);
  }
  [[nodiscard]] bool any(bool mine) const { return sum(mine ? 1 : 0) > 0; }
  /// What the first process finds.
  [[nodiscard]] bool first_finds(bool mine) const { return all(mine ? 1 : 0)[0] > 0; }

  /// Runs `work` on every process. Where it fails on some it fails on all: on the first of them
  /// with its error, on the others with Elsewhere.
  template <class Work>
  void together(const Work& work) const {
    std::exception_ptr error;
    try {
      work();
    } catch (...) {
      if (!group_) throw;
      error = std::current_exception();
    }
    const std::vector<double> failed = all(error ? 1 : 0);
    const auto found = std::ranges::find(failed, 1.0);
    if (found == failed.end()) return;
    const auto process = found - failed.begin();
    if (process == rank()) std::rethrow_exception(error);
    throw Elsewhere("continual: expected all processes to go on, got an error on process " +
                    std::to_string(process));
  }

  /// Runs `work` on the first process, while the others wait: what is printed and written.
  template <class Work>
  void once(const Work& work) const {
    together([&] {
      if (first()) work();
    });
  }

 private:
  [[nodiscard]] std::vector<alkn::GroupMessage> gather(const alkn::GroupMessage& message) const {
    std::string what;
    try {
      return group_->gather(message);
    } catch (const c10::Error& error) {
      what = error.what_without_backtrace();
    } catch (const std::exception& error) {
      what = error.what();
    }
    throw std::runtime_error("continual: expected all " + std::to_string(size()) +
                             " processes, got " + what);
  }

  std::shared_ptr<alkn::Group> group_;
};

}  // namespace continual
