// A file that appears whole or not at all.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "alkn/io/hash.hpp"
#include "alkn/io/input_file.hpp"

namespace alkn::io {

namespace detail {

/// 16 hexadecimal digits.
inline std::string hex(std::uint64_t value) {
  std::array<char, 17> digits{};
  std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(value));
  return digits.data();
}

/// ".alkn-" and a hash of the name: what stands beside a file has a name of its own length, which
/// always fits, and is hidden.
inline std::string beside(const std::filesystem::path& path) {
  return ".alkn-" + hex(hash_bytes(path.filename().string()));
}

inline std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

/// A new name beside `path`, for what is not finished.
inline std::filesystem::path temporary_name(const std::filesystem::path& path) {
  std::random_device random;
  const std::uint64_t high = random(), low = random();
  return folder_of(path) / (beside(path) + "-" + hex(high << 32U | low) + ".tmp");
}

/// Locks what has just been made under a temporary name, for as long as it is open: whoever finds
/// it without a lock knows that its maker is gone. Returns false where another one took it for such
/// before it was locked; then it needs another name.
inline bool lock_temporary(const Descriptor& file) {
  const bool locked = ::flock(file.number(), LOCK_EX | LOCK_NB) == 0;
  Status mine{};
  return (locked || errno != EWOULDBLOCK) && ::fstat(file.number(), &mine) == 0 &&
         mine.st_nlink > 0;
}

/// Removes what others left under temporary names for `path` and do not hold. Best effort.
inline void remove_stale(const std::filesystem::path& path) {
  const auto folder = folder_of(path);
  const std::string start = beside(path) + "-", end = ".tmp";
  const std::unique_ptr<::DIR, int (*)(::DIR*)> entries(::opendir(folder.c_str()), &::closedir);
  if (!entries) return;
  while (const ::dirent* entry = ::readdir(entries.get())) {
    const std::string_view name = entry->d_name;
    if (name.size() < start.size() + end.size() || name.substr(0, start.size()) != start ||
        name.substr(name.size() - end.size()) != end) {
      continue;
    }
    const Descriptor file = Descriptor::open(folder / name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    std::error_code ignored;
    if (file && ::flock(file.number(), LOCK_EX | LOCK_NB) == 0) {
      std::filesystem::remove_all(folder / name, ignored);
    }
  }
}

}  // namespace detail

/// A file that is written beside its place and takes it only in `commit()`.
///
/// Bytes go to a temporary file in the same folder, which no other writer can have; `commit()`
/// flushes it to the disk (fsync) and renames it over `path`. Going out of scope before that, also
/// by an exception, removes the temporary file and leaves whatever was at `path` as it was. A
/// process that is killed leaves it behind: the next one that writes to `path` removes it, as its
/// lock went with its writer. A file that is replaced hands its mode on; where `path` is a link,
/// what it leads to is replaced. What is no regular file (a pipe, a device, a folder) is refused.
/// Throws std::runtime_error with the path and the system's reason: unwritable folder, full disk.
/// POSIX only.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path) : path_(path) {
    path_ = target_of(path);
    detail::remove_stale(path_);
    create();
    detail::Status there{};
    if (::stat(path_.c_str(), &there) == 0) {
      static_cast<void>(::fchmod(file_.number(), there.st_mode & 07777U));  // best effort
    }
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  AtomicFile(AtomicFile&&) = delete;
  AtomicFile& operator=(AtomicFile&&) = delete;

  ~AtomicFile() { discard(); }

  /// Appends `num_bytes` bytes from `data`.
  void write(const void* data, std::size_t num_bytes) {
    const auto* next = static_cast<const char*>(data);
    while (num_bytes > 0) {
      const ::ssize_t written = ::write(file_.number(), next, num_bytes);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        fail("to write " + std::to_string(num_bytes) + " bytes to", written < 0 ? errno : ENOSPC);
      }
      next += written;
      num_bytes -= static_cast<std::size_t>(written);
    }
  }

  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Flushes the file to the disk and gives it its name.
  void commit() {
    while (::fsync(file_.number()) != 0) {
      if (errno != EINTR) fail("to flush");
    }
    // Some file systems say only to a close that they are full. The file itself stays open: its
    // lock must last until it has its name.
    if (Descriptor again(::dup(file_.number())); !again || !again.close()) fail("to finish");
    refuse_special(path_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("to finish");
    temporary_.clear();
    file_.close();
    flush_folder();
  }

 private:
  /// What is no regular file must be neither replaced nor, later, removed.
  void refuse_special(const std::filesystem::path& path) {
    detail::Status there{};
    if (::stat(path.c_str(), &there) == 0 && !S_ISREG(there.st_mode)) {
      refuse("a regular file, or none, at", kind_of(there.st_mode));
    }
  }

  /// Where a link leads, also where nothing is there yet: the file is replaced, not the link.
  std::filesystem::path target_of(std::filesystem::path path) {
    refuse_special(path);
    detail::Status there{};
    const bool exists = ::stat(path.c_str(), &there) == 0;
    constexpr int kMostLinks = 40;  // as the system
    std::error_code error;
    for (int i = 0; std::filesystem::is_symlink(path, error); ++i) {
      if (i == kMostLinks) fail("no ring of links at", ELOOP);
      const std::filesystem::path next = std::filesystem::read_symlink(path, error);
      if (error) fail("a readable link at", error.value());
      path = next.is_absolute() ? next : detail::folder_of(path) / next;
    }
    // Links of /proc lead to open files, whose names may be gone.
    if (exists && ::stat(path.c_str(), &there) != 0) {
      refuse("a file with a name at", "a link to an open file");
    }
    return path;
  }

  void create() {
    constexpr ::mode_t kMode = 0666;  // the user's umask takes away from it
    do {
      temporary_ = detail::temporary_name(path_);
      file_ = Descriptor::open(temporary_, O_CREAT | O_EXCL | O_WRONLY, kMode);
      if (!file_ && errno != EEXIST) {
        const int reason = errno;
        temporary_.clear();
        fail("a writable folder for", reason);
      }
    } while (!file_ || !detail::lock_temporary(file_));
  }

  [[noreturn]] void fail(const std::string& expected, int reason = errno) {
    refuse(expected, std::generic_category().message(reason), ":");
  }

  [[noreturn]] void refuse(const std::string& expected, const std::string& got,
                           const char* colon = "") {
    discard();
    throw std::runtime_error("alkn::io::AtomicFile: expected " + expected + " " + path_.string() +
                             ", got" + colon + " " + got);
  }

  void discard() noexcept {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
    file_.close();
  }

  /// The new name survives a power cut only once its folder is on the disk too. Best effort: some
  /// file systems refuse it, and the file itself is complete.
  void flush_folder() const noexcept {
    const Descriptor folder = Descriptor::open(detail::folder_of(path_), O_RDONLY | O_DIRECTORY);
    if (folder) ::fsync(folder.number());
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;  ///< empty once it is gone
  Descriptor file_;
};

/// Writes `text` to `path`, whole or not at all.
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

/// Removes a regular file, of a link what it leads to, or does nothing where there is none.
/// Devices, pipes and folders stay. @throws std::runtime_error where it cannot be removed
inline void remove_file(const std::filesystem::path& path) {
  detail::Status there{};
  if (::stat(path.c_str(), &there) != 0 || !S_ISREG(there.st_mode)) return;
  std::error_code error;
  const std::filesystem::path target = std::filesystem::canonical(path, error);
  if (::unlink((error ? path : target).c_str()) != 0 && errno != ENOENT) {
    throw std::runtime_error("alkn::io::remove_file: expected to remove " + path.string() +
                             ", got: " + std::generic_category().message(errno));
  }
}

}  // namespace alkn::io
