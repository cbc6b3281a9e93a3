// The system's calls, as a full disk, a broken one or a signal makes them: linked into a test, or
// loaded into a program by LD_PRELOAD.
#include "faults.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string_view>
#include <utility>

namespace {

struct State {
  std::string call;
  int good = 0, error = 0;
  long bytes = 0;
  int done = 0;

  void set(const std::string& text) {
    *this = {};
    std::istringstream stream(text);
    stream >> call >> good >> error >> bytes;
  }
};

State& state() {
  static State one = [] {
    State begin;
    const char* text = std::getenv("ALKN_FAULTS");
    begin.set(text == nullptr ? "" : text);
    return begin;
  }();
  return one;
}

/// Whether this call must fail; of an interruption only every other one.
bool fails(const char* call) {
  State& s = state();
  if (s.call != call || s.good-- > 0) return false;
  ++s.done;
  if (s.error == EINTR && s.done % 2 == 0) return false;
  if (s.error < 0) return false;
  errno = s.error;
  return true;
}

std::function<void()> after_lock;
std::atomic<int> shared{0}, exclusive{0};  // temporary files that were made

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

namespace faults {
void plan(const std::string& text) { state().set(text); }
int count() { return state().done; }
void after_next_lock_is_opened(std::function<void()> action) { after_lock = std::move(action); }
int shared_temporaries() { return shared; }
int exclusive_temporaries() { return exclusive; }
}  // namespace faults

extern "C" {

int open(const char* path, int flags, ...) {
  ::mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    std::va_list list;
    va_start(list, flags);
    mode = va_arg(list, ::mode_t);
    va_end(list);
    if (std::string_view(path).ends_with(".tmp")) ++((flags & O_EXCL) != 0 ? exclusive : shared);
  }
  if (fails("open")) return -1;
  const int file = real<int(const char*, int, ...)>("open")(path, flags, mode);
  if (std::string_view(path).ends_with(".lock")) {
    if (const auto action = std::exchange(after_lock, nullptr)) action();
  }
  return file;
}

ssize_t write(int file, const void* data, std::size_t size) {
  State& s = state();
  if (s.call == "write" && s.bytes > 0 && s.good <= 0 && s.error != EINTR) {
    if (s.error < 0) {
      ++s.done;
      size = std::min(size, static_cast<std::size_t>(s.bytes));
    } else if (size > static_cast<std::size_t>(s.bytes)) {
      size = static_cast<std::size_t>(s.bytes);  // what still fits; the next one fails
      s.bytes = 0;
      return real<ssize_t(int, const void*, std::size_t)>("write")(file, data, size);
    }
  }
  return fails("write") ? -1
                        : real<ssize_t(int, const void*, std::size_t)>("write")(file, data, size);
}

ssize_t read(int file, void* data, std::size_t size) {
  return fails("read") ? -1 : real<ssize_t(int, void*, std::size_t)>("read")(file, data, size);
}

ssize_t pread(int file, void* data, std::size_t size, ::off_t at) {
  State& s = state();
  if (s.call == "pread" && s.error < 0) {
    ++s.done;
    size = std::min(size, static_cast<std::size_t>(s.bytes));
  }
  return fails("pread")
             ? -1
             : real<ssize_t(int, void*, std::size_t, ::off_t)>("pread")(file, data, size, at);
}

int fsync(int file) { return fails("fsync") ? -1 : real<int(int)>("fsync")(file); }

int dup(int file) noexcept { return fails("dup") ? -1 : real<int(int)>("dup")(file); }

int rename(const char* from, const char* to) noexcept {
  return fails("rename") ? -1 : real<int(const char*, const char*)>("rename")(from, to);
}
}
