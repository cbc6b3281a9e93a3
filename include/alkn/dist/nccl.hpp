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
#include <alkn/dist/environment.hpp>
#include <alkn/dist/gloo.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>
#include <memory>
#include <optional>

namespace alkn::dist {

/// An NCCL backend whose processes find each other in `store`; each uses the CUDA device that its
/// tensors are on.
/// @param timeout of the group; NCCL's own is twice that
inline c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                      int rank, int size,
                                                      std::chrono::milliseconds timeout) {
  const auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = 2 * timeout;  // its watchdog ends the process: the group is to throw before
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

/// Makes the CUDA device with this number the current one.
/// @throws c10::ValueError where there are fewer
inline void set_cuda_device(int index) {
  const bool linked = c10::impl::hasDeviceGuardImpl(c10::DeviceType::CUDA);
  const int count =
      linked ? c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)->deviceCount() : 0;
  TORCH_CHECK_VALUE(index < count, "alkn::dist: expected a CUDA device for LOCAL_RANK ", index,
                    ", got ", count, " devices", linked ? "" : " (torch_cuda is not linked)");
  c10::impl::getDeviceGuardImpl(c10::DeviceType::CUDA)
      ->setDevice({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)});
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
