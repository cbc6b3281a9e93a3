// Processes of a group as threads of one: the library's part of many processes without a network.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>

#include <alkn/group.hpp>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace threads {

using namespace std::chrono_literals;

/// Where the threads meet: each brings a pointer, one works on all of them while the others wait.
class Table {
 public:
  explicit Table(int size) : places_(static_cast<std::size_t>(size)) {}

  void meet(int rank, void* mine, const std::function<void(const std::vector<void*>&)>& work) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (gave_up_) throw std::runtime_error("a process did not come in time");
    places_[static_cast<std::size_t>(rank)] = mine;
    const auto round = round_;
    if (++num_there_ == static_cast<int>(places_.size())) {
      work(places_);
      num_there_ = 0;
      ++round_;
      arrived_.notify_all();
    } else if (!arrived_.wait_for(lock, kTimeout, [&] { return round_ != round; })) {
      gave_up_ = true;  // what it brought is gone
      throw std::runtime_error("a process did not come in time");
    }
    // nobody may come back before all have gone
    if (++num_gone_ == static_cast<int>(places_.size())) {
      num_gone_ = 0;
      ++left_;
      arrived_.notify_all();
    } else {
      const auto left = left_;
      arrived_.wait_for(lock, kTimeout, [&] { return left_ != left; });
    }
  }

  static constexpr std::chrono::milliseconds kTimeout = 3s;

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<void*> places_;
  int num_there_ = 0, num_gone_ = 0;
  std::int64_t round_ = 0, left_ = 0;
  bool gave_up_ = false;
};

/// Adds in the order of the ranks.
class ThreadGroup final : public alkn::Group {
 public:
  ThreadGroup(std::shared_ptr<Table> table, int rank, int size)
      : table_(std::move(table)), rank_(rank), size_(size) {}

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept override {
    return Table::kTimeout;
  }
  void all_reduce(const at::Tensor& values) override {
    moved(values);
    at::Tensor copy = values;
    table_->meet(rank_, &copy, [](const std::vector<void*>& all) {
      const at::Tensor sum = total(all);
      for (void* one : all) static_cast<at::Tensor*>(one)->copy_(sum);
    });
  }
  void reduce(const at::Tensor& values, int root) override {
    moved(values);
    at::Tensor copy = values;
    table_->meet(rank_, &copy, [root](const std::vector<void*>& all) {
      const at::Tensor sum = total(all);
      for (std::size_t i = 0; i < all.size(); ++i) {
        auto& one = *static_cast<at::Tensor*>(all[i]);
        if (static_cast<int>(i) == root)
          one.copy_(sum);
        else
          one.fill_(-777);  // unspecified: nobody may look
      }
    });
  }
  void broadcast(const at::Tensor& values, int root) override {
    moved(values);
    at::Tensor copy = values;
    table_->meet(rank_, &copy, [root](const std::vector<void*>& all) {
      const auto& from = *static_cast<at::Tensor*>(all[static_cast<std::size_t>(root)]);
      for (void* one : all) {
        auto& to = *static_cast<at::Tensor*>(one);
        if (to.sizes() != from.sizes() || to.scalar_type() != from.scalar_type())
          throw std::runtime_error("two processes broadcast other tensors");
        // as a network does: autograd is not told
        if (!to.is_same(from))
          std::memcpy(to.mutable_data_ptr(), from.const_data_ptr(), to.nbytes());
      }
    });
  }
  [[nodiscard]] std::vector<alkn::GroupMessage> gather(const alkn::GroupMessage& mine) override {
    ++num_messages;
    std::vector<alkn::GroupMessage> found;
    struct Place {
      const alkn::GroupMessage* message;
      std::vector<alkn::GroupMessage>* found;
    } place{&mine, &found};
    table_->meet(rank_, &place, [](const std::vector<void*>& all) {
      for (void* to : all) {
        for (void* from : all)
          static_cast<Place*>(to)->found->push_back(*static_cast<Place*>(from)->message);
      }
    });
    return found;
  }

  std::int64_t num_messages = 0, num_collectives = 0, num_bytes = 0;
  /// Called before a collective that moves tensors, with its number.
  std::function<void(std::int64_t)> before = [](std::int64_t) {};

 private:
  static at::Tensor total(const std::vector<void*>& all) {
    const auto& first = *static_cast<at::Tensor*>(all[0]);
    at::Tensor sum = at::zeros_like(first);
    for (void* one : all) {
      const auto& values = *static_cast<at::Tensor*>(one);
      if (values.sizes() != first.sizes() || values.scalar_type() != first.scalar_type())
        throw std::runtime_error("two processes reduce other tensors");
      sum.add_(values);
    }
    return sum;
  }
  void moved(const at::Tensor& values) {
    before(num_collectives++);
    num_bytes += static_cast<std::int64_t>(values.nbytes());
  }

  std::shared_ptr<Table> table_;
  int rank_, size_;
};

/// Runs `process(group)` on as many threads. @returns what each threw, null where nothing
inline std::vector<std::exception_ptr> run(
    int size, const std::function<void(const std::shared_ptr<ThreadGroup>&)>& process) {
  const auto table = std::make_shared<Table>(size);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> all;
  for (int rank = 0; rank < size; ++rank) {
    all.emplace_back([&, rank] {
      try {
        process(std::make_shared<ThreadGroup>(table, rank, size));
      } catch (...) {
        errors[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  return errors;
}

/// Rethrows the first exception of run().
inline void run_all(int size,
                    const std::function<void(const std::shared_ptr<ThreadGroup>&)>& process) {
  for (const std::exception_ptr& error : run(size, process)) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace threads
