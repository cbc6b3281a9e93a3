// One process at a time.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>

#include "alkn/io/atomic_file.hpp"

namespace alkn::io {

/// Keeps other processes from the same path, which need not exist, for as long as it lives; its
/// folder must. The lock is the system's, on an empty file beside the path that goes with the
/// owner: a process that crashes or is killed holds nothing. It does not keep the process's own
/// threads apart, nor processes that a fork makes from the path. POSIX only.
class FileLock {
 public:
  /// @throws Unexpected with the other process's number, where the path is locked
  explicit FileLock(const std::filesystem::path& path) {
    path_ = detail::folder_of(path) / (detail::beside(path) + ".lock");
    constexpr ::mode_t kMode = 0666;
    for (;;) {
      file_ = Descriptor::open(path_, O_CREAT | O_RDWR | O_NOFOLLOW, kMode);
      if (!file_) fail("a writable folder for", path, std::generic_category().message(errno));
      struct ::flock lock {};
      lock.l_type = F_WRLCK;
      lock.l_whence = SEEK_SET;
      if (::fcntl(file_.number(), F_SETLK, &lock) != 0) {
        if (errno == EINTR) continue;
        if (errno != EACCES && errno != EAGAIN) {
          fail("a file system with locks at", path, std::generic_category().message(errno));
        }
        // Whoever had it may have let it go by now: then once more.
        if (::fcntl(file_.number(), F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) continue;
        fail(
            "to be alone with", path,
            lock.l_pid > 0 ? "process " + std::to_string(lock.l_pid) : "another machine's process");
      }
      // The owner before may have removed the file between opening and locking: then once more.
      detail::Status mine{}, there{};
      if (::fstat(file_.number(), &mine) == 0 && ::stat(path_.c_str(), &there) == 0 &&
          mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
        return;
      }
    }
  }

  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  FileLock(FileLock&&) = delete;
  FileLock& operator=(FileLock&&) = delete;

  ~FileLock() { ::unlink(path_.c_str()); }  // still locked: the file is closed after this

 private:
  [[noreturn]] static void fail(const std::string& expected, const std::filesystem::path& path,
                                const std::string& got) {
    throw Unexpected(expected + " " + path.string(), got);
  }

  std::filesystem::path path_;
  Descriptor file_;
};

}  // namespace alkn::io
