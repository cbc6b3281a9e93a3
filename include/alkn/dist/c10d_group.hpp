// A Group over LibTorch's own distributed engine.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/intrusive_ptr.h>
#include <alkn/group.hpp>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace alkn::dist {

/// The processes of c10d backends: one moves tensors, one the short messages before each call, and
/// one, where there are CUDA devices, the tensors on those.
class C10dGroup final : public Group {
 public:
  /// @param data moves tensors of the CPU @param control likewise; another one than `data`, so that
  /// a message never meets a tensor @param timeout that all were made with
  /// @param store where each process notes the calls that it has come to, for the errors of the
  /// others; null: they do not say who is missing
  /// @param cuda moves tensors of CUDA devices; null: the group moves none
  C10dGroup(c10::intrusive_ptr<c10d::Backend> data, c10::intrusive_ptr<c10d::Backend> control,
            std::chrono::milliseconds timeout, c10::intrusive_ptr<c10d::Store> store = {},
            c10::intrusive_ptr<c10d::Backend> cuda = {})
      : data_(std::move(data)),
        control_(std::move(control)),
        cuda_(std::move(cuda)),
        timeout_(timeout),
        store_(std::move(store)) {
    const auto beside = [&](const c10::intrusive_ptr<c10d::Backend>& other) {
      return other.get() != data_.get() && data_->getRank() == other->getRank() &&
             data_->getSize() == other->getSize();
    };
    TORCH_CHECK_VALUE(data_ && control_ && beside(control_) && (!cuda_ || beside(cuda_)),
                      "alkn::dist::C10dGroup: expected backends of their own of the same "
                      "processes, got ",
                      data_ && control_ ? "others" : "null");
  }

  [[nodiscard]] int rank() const noexcept override { return data_->getRank(); }
  [[nodiscard]] int size() const noexcept override { return data_->getSize(); }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept override { return timeout_; }

  [[nodiscard]] bool moves(c10::DeviceType type) const noexcept override {
    return type == c10::DeviceType::CPU || (type == c10::DeviceType::CUDA && cuda_);
  }
  void all_reduce(const at::Tensor& values) override {
    std::vector<at::Tensor> tensors{values};
    move(values, [&](c10d::Backend& backend) { return backend.allreduce(tensors); });
  }
  void reduce(const at::Tensor& values, int root) override {
    std::vector<at::Tensor> tensors{values};
    c10d::ReduceOptions options;
    options.rootRank = root;
    move(values, [&](c10d::Backend& backend) { return backend.reduce(tensors, options); });
  }
  void broadcast(const at::Tensor& values, int root) override {
    std::vector<at::Tensor> tensors{values};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    move(values, [&](c10d::Backend& backend) { return backend.broadcast(tensors, options); });
  }
  [[nodiscard]] std::vector<GroupMessage> gather(const GroupMessage& mine) override {
    ++num_calls_;
    if (store_) store_->set(key(rank()), bytes_of(num_calls_));
    const auto length = static_cast<std::int64_t>(mine.size());
    std::vector<at::Tensor> in{at::empty({length}, at::kByte)};
    std::memcpy(in[0].mutable_data_ptr(), mine.data(), mine.size());
    std::vector<std::vector<at::Tensor>> out(1);
    for (int i = 0; i < size(); ++i) out[0].push_back(at::empty({length}, at::kByte));
    watch([&] { control_->allgather(out, in)->wait(); });
    std::vector<GroupMessage> messages(out[0].size());
    for (std::size_t i = 0; i < messages.size(); ++i)
      std::memcpy(messages[i].data(), out[0][i].const_data_ptr(), messages[i].size());
    return messages;
  }
  [[nodiscard]] std::vector<int> missing() override {
    std::vector<int> ranks;
    for (int i = 0; store_ && i < size(); ++i) {
      std::uint64_t calls = 0;
      if (i == rank()) continue;
      if (store_->check({key(i)})) {
        const std::vector<std::uint8_t> bytes = store_->get(key(i));
        if (bytes.size() == sizeof calls) std::memcpy(&calls, bytes.data(), sizeof calls);
      }
      if (calls < num_calls_) ranks.push_back(i);
    }
    return ranks;
  }

 private:
  /// Calls `collective` with the backend for these tensors, and waits for the result.
  template <class Collective>
  void move(const at::Tensor& values, const Collective& collective) {
    TORCH_CHECK(moves(values.device().type()),
                "alkn::dist::C10dGroup: expected tensors of the CPU, or a backend for CUDA, got "
                "tensors on ",
                values.device());
    watch([&] {
      const c10::intrusive_ptr<c10d::Work> work = collective(values.is_cpu() ? *data_ : *cuda_);
      if (!values.is_cpu()) wait_on_host(*work);
      work->wait();
    });
  }
  /// NCCL's own wait is the stream's: the host would not notice a process that is gone before it
  /// wants something of the device, which hangs then.
  void wait_on_host(c10d::Work& work) const {
    const auto late = std::chrono::steady_clock::now() + timeout_;
    while (!work.isCompleted()) {
      TORCH_CHECK(std::chrono::steady_clock::now() < late,
                  "alkn::dist::C10dGroup: expected the other processes within ", timeout_.count(),
                  " ms, got no result");
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    if (work.exception()) std::rethrow_exception(work.exception());
  }
  /// What is in flight on a device ends where `call` throws: nothing of the process could end else.
  template <class Call>
  void watch(const Call& call) {
    try {
      call();
    } catch (...) {
      if (cuda_) {
        try {
          cuda_->abort();
        } catch (...) {  // the first error is the one to tell
        }
      }
      throw;
    }
  }
  static std::string key(int rank) { return "alkn/calls/" + std::to_string(rank); }
  static std::vector<std::uint8_t> bytes_of(std::uint64_t number) {
    std::vector<std::uint8_t> bytes(sizeof number);
    std::memcpy(bytes.data(), &number, sizeof number);
    return bytes;
  }

  c10::intrusive_ptr<c10d::Backend> data_, control_, cuda_;
  std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::uint64_t num_calls_ = 0;
};

}  // namespace alkn::dist
