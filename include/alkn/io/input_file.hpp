// Files that are read: bytes at any place of one that stays the same, or a whole text.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "alkn/io/text.hpp"

namespace alkn::io {

/// An open file's number, closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      close();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(); }

  /// open(2), again where a signal came in between.
  static Descriptor open(const std::filesystem::path& path, int flags, ::mode_t mode = 0) {
    int number = -1;
    do {
      number = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    } while (number < 0 && errno == EINTR);
    return Descriptor(number);
  }

  [[nodiscard]] explicit operator bool() const { return number_ >= 0; }
  [[nodiscard]] int number() const { return number_; }

  /// Returns whether the system had nothing to complain of. Linux has closed it also after EINTR.
  bool close() noexcept {
    const int number = std::exchange(number_, -1);
    return number < 0 || ::close(number) == 0 || errno == EINTR;
  }

 private:
  int number_ = -1;
};

/// "a folder", "a pipe", ...: what stands where a regular file was expected.
inline std::string kind_of(::mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "a file";
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    default:
      return "a device";
  }
}

namespace detail {

using Status = struct ::stat;

/// Opens a file for reading; the status is that of the very file that was opened.
inline Descriptor open_to_read(const std::filesystem::path& path, int flags, Status& status) {
  Descriptor file = Descriptor::open(path, O_RDONLY | flags);
  if (!file || ::fstat(file.number(), &status) != 0) {
    throw Unexpected("a readable file",
                     errno == ENOENT ? "none" : std::generic_category().message(errno));
  }
  return file;
}

}  // namespace detail

/// A regular file, read at any place. Size and bytes are those of the file that was opened, also
/// when another one takes its name. Reading is thread-safe.
class InputFile {
 public:
  /// @throws Unexpected where there is none, or no regular one
  explicit InputFile(const std::filesystem::path& path) {
    detail::Status status{};
    file_ = detail::open_to_read(path, O_NONBLOCK, status);  // a pipe without a writer would block
    if (!S_ISREG(status.st_mode)) throw Unexpected("a file", kind_of(status.st_mode));
    size_ = static_cast<std::int64_t>(status.st_size);
  }

  /// Bytes.
  [[nodiscard]] std::int64_t size() const { return size_; }

  /// Copies `num_bytes` bytes from `offset` on. @throws Unexpected where there are fewer
  void read(std::int64_t offset, void* destination, std::size_t num_bytes) const {
    std::size_t done = 0;
    while (done < num_bytes) {
      const ::ssize_t size = ::pread(file_.number(), static_cast<char*>(destination) + done,
                                     num_bytes - done, offset + static_cast<std::int64_t>(done));
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) {
        throw Unexpected(
            std::to_string(num_bytes) + " readable bytes at " + std::to_string(offset),
            std::to_string(done) + (size < 0 ? ": " + std::generic_category().message(errno) : ""));
      }
      done += static_cast<std::size_t>(size);
    }
  }

 private:
  Descriptor file_;
  std::int64_t size_ = 0;
};

/// All bytes of a file or a pipe. @throws Unexpected
inline std::string read_bytes(const std::filesystem::path& path) {
  detail::Status status{};
  const Descriptor file = detail::open_to_read(path, 0, status);
  if (S_ISDIR(status.st_mode)) throw Unexpected("a readable file", "a folder");
  std::string bytes;
  if (S_ISREG(status.st_mode)) bytes.reserve(static_cast<std::size_t>(status.st_size));
  std::array<char, 1 << 16> piece{};
  for (;;) {
    const ::ssize_t size = ::read(file.number(), piece.data(), piece.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) throw Unexpected("a readable file", std::generic_category().message(errno));
    if (size == 0) return bytes;
    bytes.append(piece.data(), static_cast<std::size_t>(size));
  }
}

/// A text in UTF-8, without a byte-order mark. @throws Unexpected
inline std::string read_text(const std::filesystem::path& path) {
  return without_byte_order_mark(read_bytes(path));
}

}  // namespace alkn::io
