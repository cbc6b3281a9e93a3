// A file that appears whole or not at all.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace alkn::io {

/// A file that is written beside its place and takes it only in `commit()`.
///
/// Bytes go to a temporary file in the same folder; `commit()` flushes it to the disk (fsync) and
/// renames it over `path`. Going out of scope before that, also by an exception, removes the
/// temporary file and leaves whatever was at `path` as it was. A file that is replaced hands its
/// mode on; where `path` is a link, what it leads to is replaced. Throws std::runtime_error with
/// the path and the system's reason: unwritable folder, full disk. POSIX only.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path) : path_(target_of(std::move(path))) {
    // Distinct for every process and every file of it, so that two writers never share one.
    static std::atomic<unsigned> counter{0};
    temporary_ = path_;
    temporary_ += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
    constexpr ::mode_t kMode = 0666;  // the user's umask takes away from it
    descriptor_ = ::open(temporary_.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, kMode);
    if (descriptor_ < 0) {
      fail("a writable folder for");
    }
    struct ::stat there {};
    if (::stat(path_.c_str(), &there) == 0 && S_ISREG(there.st_mode)) {
      static_cast<void>(::fchmod(descriptor_, there.st_mode & 07777U));  // best effort
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
      const ::ssize_t written = ::write(descriptor_, next, num_bytes);
      if (written < 0 && errno == EINTR) {
        continue;
      }
      if (written <= 0) {
        fail("to write " + std::to_string(num_bytes) + " bytes to");
      }
      next += written;
      num_bytes -= static_cast<std::size_t>(written);
    }
  }

  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Flushes the file to the disk and gives it its name.
  void commit() {
    if (::fsync(descriptor_) != 0) {
      fail("to flush");
    }
    const int closed = ::close(descriptor_);
    descriptor_ = -1;
    if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
      const int reason = errno;
      ::unlink(temporary_.c_str());
      fail("to finish", reason);
    }
    flush_folder();
  }

 private:
  /// Where a link leads: the file is replaced, not the link.
  static std::filesystem::path target_of(std::filesystem::path path) {
    std::error_code error;
    if (!std::filesystem::is_symlink(path, error)) return path;
    std::filesystem::path target = std::filesystem::canonical(path, error);
    return error ? path : target;
  }

  [[noreturn]] void fail(const std::string& expected, int reason = errno) {
    discard();
    throw std::runtime_error("alkn::io::AtomicFile: expected " + expected + " " + path_.string() +
                             ", got: " + std::generic_category().message(reason));
  }

  void discard() noexcept {
    if (descriptor_ >= 0) {
      ::close(descriptor_);
      ::unlink(temporary_.c_str());
      descriptor_ = -1;
    }
  }

  /// The new name survives a power cut only once its folder is on the disk too. Best effort: some
  /// file systems refuse it, and the file itself is complete.
  void flush_folder() const noexcept {
    const auto folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
      ::fsync(descriptor);
      ::close(descriptor);
    }
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// Writes `text` to `path`, whole or not at all.
inline void write_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace alkn::io
