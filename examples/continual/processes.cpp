#include "continual/processes.hpp"

#include <alkn/dist/environment.hpp>
#if defined(USE_C10D_GLOO)
#include <alkn/dist/gloo.hpp>
#endif
#include <fmt/format.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "continual/data.hpp"

extern char** environ;  // NOLINT: POSIX has it in no header

namespace continual {
namespace {

#if defined(USE_C10D_GLOO)
constexpr bool kHasGloo = true;
#else
constexpr bool kHasGloo = false;
#endif

void require_gloo(const std::string& where) {
  if (kHasGloo) return;
  data_error("a program built with Gloo's headers (libgloo-dev), which several processes need",
             "one without", where);
}

[[noreturn]] void fail(const std::string& expected, int error) {
  data_error(expected, std::generic_category().message(error), "--processes");
}

/// A port of this machine that was free a moment ago.
int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ::socklen_t length = sizeof address;
  auto* generic = static_cast<sockaddr*>(static_cast<void*>(&address));
  const bool found = socket >= 0 && ::bind(socket, generic, length) == 0 &&
                     ::getsockname(socket, generic, &length) == 0;
  const int error = errno;
  if (socket >= 0) ::close(socket);
  if (!found) fail("a free port", error);
  return ntohs(address.sin_port);
}

/// For the processes to come. @param replace else what the user has set stays
void set_variable(const char* name, const std::string& value, bool replace = true) {
  ::setenv(name, value.c_str(), replace ? 1 : 0);
}

/// The processes that were started, and what became of them.
class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() {
    send(SIGKILL);
    reap(0);
  }

  /// In a process group of its own: what a terminal or a shell sends to this one's comes once.
  void start(char** arguments, const sigset_t& mask) {
    ::posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    ::posix_spawnattr_setsigmask(&attributes, &mask);
    ::pid_t pid = 0;
    const int error =
        ::posix_spawn(&pid, "/proc/self/exe", nullptr, &attributes, arguments, environ);
    ::posix_spawnattr_destroy(&attributes);
    if (error != 0) fail("to start another process", error);
    pids_.push_back(pid);
  }

  void send(int signal) const {
    for (const ::pid_t pid : pids_) {
      if (pid != kEnded) ::kill(pid, signal);
    }
  }

  /// Takes note of those that have ended. @param options WNOHANG: waits for none
  void reap(int options) {
    for (std::size_t rank = 0; rank < pids_.size(); ++rank) {
      int status = 0;
      if (pids_[rank] == kEnded || ::waitpid(pids_[rank], &status, options) != pids_[rank])
        continue;
      pids_[rank] = kEnded;
      if (code_ != EXIT_SUCCESS) continue;
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (WIFSIGNALED(status)) {
        fmt::print(stderr, "continual: process {} was ended by signal {}\n", rank,
                   WTERMSIG(status));
      }
    }
  }

  [[nodiscard]] bool any() const {
    return std::ranges::any_of(pids_, [](::pid_t pid) { return pid != kEnded; });
  }
  [[nodiscard]] int code() const { return code_; }  ///< of the first that failed

 private:
  static constexpr ::pid_t kEnded = 0;
  std::vector<::pid_t> pids_;  // by rank
  int code_ = EXIT_SUCCESS;
};

}  // namespace

std::shared_ptr<alkn::Group> meet(int asked) {
  const auto place = alkn::dist::read_environment();
  const int found = place ? place->size : 1;
  if (asked > 0 && asked != found) {
    data_error("as many processes as were started, " + std::to_string(found), std::to_string(asked),
               "--processes");
  }
  if (found == 1) return nullptr;
  require_gloo("WORLD_SIZE");
  if (asked > 0)
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // not to go on without the one that started it
#if defined(USE_C10D_GLOO)
  return alkn::dist::from_environment();
#else
  return nullptr;
#endif
}

bool was_launched() {
  const auto place = alkn::dist::read_environment();
  return place && place->size > 1;
}

bool was_restarted() {
  const char* count = std::getenv("TORCHELASTIC_RESTART_COUNT");
  return count != nullptr && std::atoi(count) > 0;
}

int start_processes(int count, char** arguments) {
  require_gloo("--processes");
  const auto cores = static_cast<int>(std::thread::hardware_concurrency());
  set_variable("WORLD_SIZE", std::to_string(count));
  set_variable("LOCAL_WORLD_SIZE", std::to_string(count));
  set_variable("MASTER_ADDR", "127.0.0.1");
  set_variable("MASTER_PORT", std::to_string(free_port()));
  ::unsetenv("TORCHELASTIC_USE_AGENT_STORE");  // these are not torchrun's
  set_variable("OMP_NUM_THREADS", std::to_string(std::max(1, cores / count)), false);

  ::sigset_t awaited, before;
  sigemptyset(&awaited);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&awaited, signal);
  ::pthread_sigmask(SIG_BLOCK, &awaited, &before);
  Children children;
  for (int rank = 0; rank < count; ++rank) {
    set_variable("RANK", std::to_string(rank));
    set_variable("LOCAL_RANK", std::to_string(rank));
    children.start(arguments, before);
  }

  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds kGrace{10};  // for what fails everywhere, and to save
  std::optional<Clock::time_point> failed;
  while (children.any()) {
    const ::timespec second{1, 0};
    const int signal = ::sigtimedwait(&awaited, nullptr, &second);
    if (signal == SIGINT || signal == SIGTERM) children.send(signal);
    children.reap(WNOHANG);
    if (children.code() != EXIT_SUCCESS && !failed) failed = Clock::now();
    if (failed && Clock::now() - *failed > kGrace) children.send(SIGKILL);
  }
  return children.code();
}

}  // namespace continual
