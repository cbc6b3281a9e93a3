// Groups over NCCL, for parameters on CUDA devices. Needs NCCL's headers, which the target
// alkn::nccl brings, and a LibTorch with CUDA; the code itself is in LibTorch.
#pragma once

#if !defined(USE_C10D_NCCL)
#error \
    "alkn/dist/nccl.hpp needs USE_C10D_NCCL: link alkn::nccl (find_package(alkn COMPONENTS nccl))"
#endif

#include <c10/core/Device.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>
#include <c10/util/intrusive_ptr.h>
#include <nccl.h>
#include <torch/csrc/cuda/nccl.h>
#include <alkn/dist/environment.hpp>
#include <alkn/dist/gloo.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

namespace alkn::dist {

namespace detail {

/// Goes as LibTorch asks for: what is in flight comes to its end, unless it was aborted.
class Nccl final : public c10d::ProcessGroupNCCL {
 public:
  using ProcessGroupNCCL::ProcessGroupNCCL;
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;
  ~Nccl() override {
    if (aborted_) return;
    try {
      ProcessGroupNCCL::shutdown();
    } catch (...) {  // a destructor may not throw
    }
  }
  void abort() override {
    aborted_ = true;
    ProcessGroupNCCL::abort();
  }

 private:
  bool aborted_ = false;
};

}  // namespace detail

/// An NCCL backend whose processes find each other in `store`; each uses the CUDA device that its
/// tensors are on.
/// @param timeout of the group; NCCL's own is twice that
/// @throws c10::Error where LibTorch was built with another NCCL than the headers'
inline c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                      int rank, int size,
                                                      std::chrono::milliseconds timeout) {
  const std::uint64_t built = torch::cuda::nccl::version();  // major, minor, patch
  TORCH_CHECK(built >> 32U == NCCL_MAJOR && (built >> 16U & 0xFFFFU) == NCCL_MINOR,
              "alkn::dist: expected NCCL's headers of version ", built >> 32U, ".",
              built >> 16U & 0xFFFFU, ", as LibTorch has it, got ", NCCL_MAJOR, ".", NCCL_MINOR,
              " (ALKN_NCCL_INCLUDE_DIR)");
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = 2 * timeout;  // its watchdog ends the process: the group is to throw before
  return c10::make_intrusive<detail::Nccl>(store, rank, size, options);
}

/// Makes a CUDA device the current one of this thread: the only one that the process sees, or that
/// with the number `local_rank`.
/// @throws c10::ValueError where there are fewer
inline void set_cuda_device(int local_rank) {
  constexpr auto kCuda = c10::DeviceType::CUDA;
  const int count = c10::impl::hasDeviceGuardImpl(kCuda)
                        ? c10::impl::getDeviceGuardImpl(kCuda)->deviceCount()
                        : 0;
  const int index = count == 1 ? 0 : local_rank;
  TORCH_CHECK_VALUE(index < count, "alkn::dist: expected a CUDA device for LOCAL_RANK ", local_rank,
                    ", got ", count, " devices");
  c10::impl::getDeviceGuardImpl(kCuda)->setDevice({kCuda, static_cast<c10::DeviceIndex>(index)});
}

/// from_environment() for parameters on CUDA: the device numbered LOCAL_RANK becomes the current
/// one of the calling thread, and NCCL moves the tensors on it. Collective.
/// @returns null where no launcher has started this process, and the device is as it was
/// @throws c10::Error where the processes do not meet within the timeout, or there is no such
/// device
inline std::shared_ptr<Group> cuda_from_environment(std::chrono::milliseconds timeout = kTimeout) {
  const std::optional<Environment> place = read_environment();
  if (!place) return nullptr;
  set_cuda_device(place->local_rank);
  const c10::intrusive_ptr<c10d::Store> store = environment_store(*place, timeout);
  const detail::BlockSigpipe for_its_threads;
  auto cuda = nccl_backend(c10::make_intrusive<c10d::PrefixStore>("alkn/cuda", store), place->rank,
                           place->size, timeout);
  return gloo_group(store, place->rank, place->size, timeout, place->own_address(),
                    std::move(cuda));
}

}  // namespace alkn::dist
