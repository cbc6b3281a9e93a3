// Groups over Gloo, for parameters on the CPU. Needs Gloo's headers (libgloo-dev on Debian) and
// USE_C10D_GLOO, which the target alkn::dist sets; the code itself is in LibTorch.
#pragma once

#if !defined(USE_C10D_GLOO)
#error \
    "alkn/dist/gloo.hpp needs USE_C10D_GLOO: link alkn::dist (find_package(alkn COMPONENTS dist))"
#endif

#include <c10/util/intrusive_ptr.h>
#include <alkn/dist/c10d_group.hpp>
#include <alkn/dist/environment.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <pthread.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace alkn::dist {

/// How long a process waits for the others, unless told otherwise.
inline constexpr std::chrono::minutes kTimeout{30};

namespace detail {

/// Threads that start in its scope do not end the process where they write to one that is gone:
/// Gloo and libuv write without MSG_NOSIGNAL, and expect SIGPIPE to be ignored, as Python does.
class BlockSigpipe {
 public:
  BlockSigpipe() {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, &before_);
  }
  BlockSigpipe(const BlockSigpipe&) = delete;
  BlockSigpipe& operator=(const BlockSigpipe&) = delete;
  ~BlockSigpipe() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace detail

/// A Gloo backend whose processes find each other in `store`. Its threads block SIGPIPE.
/// @param address of this machine towards the others; empty: that of its name
inline c10::intrusive_ptr<c10d::Backend> gloo_backend(const c10::intrusive_ptr<c10d::Store>& store,
                                                      int rank, int size,
                                                      std::chrono::milliseconds timeout,
                                                      const std::string& address = {}) {
  const detail::BlockSigpipe for_its_threads;
  const auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface != nullptr && *interface != '\0')
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
  else if (!address.empty())
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
  else
    options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

/// The processes that find each other in `store`.
/// @param cuda moves tensors of CUDA devices, see alkn/dist/nccl.hpp; null: the group moves none
inline std::shared_ptr<Group> gloo_group(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                         int size, std::chrono::milliseconds timeout = kTimeout,
                                         const std::string& address = {},
                                         c10::intrusive_ptr<c10d::Backend> cuda = {}) {
  const auto part = [&](const char* prefix) -> c10::intrusive_ptr<c10d::Store> {
    return c10::make_intrusive<c10d::PrefixStore>(prefix, store);
  };
  auto data = gloo_backend(part("alkn/data"), rank, size, timeout, address);
  auto control = gloo_backend(part("alkn/control"), rank, size, timeout, address);
  return std::make_shared<C10dGroup>(std::move(data), std::move(control), timeout, store,
                                     std::move(cuda));
}

/// The store in which the processes of an environment meet; process 0 hosts it unless its launcher
/// does.
inline c10::intrusive_ptr<c10d::Store> environment_store(const Environment& place,
                                                         std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = place.port;
  options.isServer = place.rank == 0 && place.agent_prefix.empty();
  options.numWorkers = static_cast<std::size_t>(place.size);
  options.waitWorkers = false;
  options.timeout = timeout;
  const detail::BlockSigpipe for_the_server;
  c10::intrusive_ptr<c10d::Store> store =
      c10::make_intrusive<c10d::TCPStore>(place.address, options);
  if (place.agent_prefix.empty()) return store;
  return c10::make_intrusive<c10d::PrefixStore>(place.agent_prefix, store);
}

/// The processes that torchrun, mpirun or srun have started with this one: see read_environment().
/// Collective.
/// @returns null where no launcher has: alone, an Unlearner takes that as well
/// @throws c10::Error where the processes do not meet within the timeout
inline std::shared_ptr<Group> from_environment(std::chrono::milliseconds timeout = kTimeout) {
  const std::optional<Environment> place = read_environment();
  if (!place) return nullptr;
  return gloo_group(environment_store(*place, timeout), place->rank, place->size, timeout,
                    place->own_address());
}

}  // namespace alkn::dist
