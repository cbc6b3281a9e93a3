// A folder that appears whole or not at all.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "alkn/io/atomic_file.hpp"
#include "alkn/io/input_file.hpp"

namespace alkn::io {

/// A folder of files that is written beside its place and takes it only in `commit()`.
///
/// Files go to a hidden folder next to `out`; `commit()` renames it. Where `out` is there already,
/// Linux exchanges the two in one step, so that a process killed at any time leaves the old folder
/// or the new one, whole; elsewhere two renames do it, and a kill between them leaves the old one
/// under its hidden name. Going out of scope before `commit()` removes what was written. What
/// killed processes leave, the next one that writes to `out` removes.
///
/// Only a folder that has files of a model alone is replaced; anything else in it is a reason to
/// refuse: it would be lost.
/// Throws std::runtime_error with the path and the system's reason. POSIX only.
class AtomicFolder {
 public:
  explicit AtomicFolder(const std::filesystem::path& out) : out_(target_of(out)) {
    check_replaceable();
    std::error_code error;
    std::filesystem::create_directories(out_.parent_path(), error);
    detail::remove_stale(out_);
    constexpr ::mode_t kMode = 0777;  // the user's umask takes away from it
    for (;;) {
      temporary_ = detail::temporary_name(out_);
      if (::mkdir(temporary_.c_str(), kMode) == 0) {
        lock_ = Descriptor::open(temporary_, O_RDONLY | O_DIRECTORY);
        if (lock_ && detail::lock_temporary(lock_)) return;
      } else if (errno != EEXIST) {
        const std::error_code reason(errno, std::generic_category());
        temporary_.clear();
        fail("a writable folder for", reason);
      }
    }
  }

  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  AtomicFolder(AtomicFolder&&) = delete;
  AtomicFolder& operator=(AtomicFolder&&) = delete;

  ~AtomicFolder() {
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  }

  /// Where the files go until `commit()`.
  [[nodiscard]] const std::filesystem::path& path() const { return temporary_; }

  /// Copies a file under its own name.
  void copy(const std::filesystem::path& file) {
    AtomicFile copied(temporary_ / file.filename());
    try {
      const InputFile from(file);
      std::vector<char> piece(std::size_t{1} << 20);
      for (std::int64_t at = 0; at < from.size(); at += std::ssize(piece)) {
        const auto size = std::min<std::int64_t>(std::ssize(piece), from.size() - at);
        from.read(at, piece.data(), static_cast<std::size_t>(size));
        copied.write(piece.data(), static_cast<std::size_t>(size));
      }
    } catch (const Unexpected& error) {
      throw std::runtime_error("alkn::io::AtomicFolder: expected " + error.expected + ", got " +
                               error.got + " (" + file.string() + ")");
    }
    copied.commit();
  }

  /// Gives the folder its name.
  void commit() {
    std::error_code error;
    if (!std::filesystem::exists(out_, error)) {
      std::filesystem::rename(temporary_, out_, error);
      if (error) fail("to finish", error);
      temporary_.clear();
    } else if (!exchange()) {
      std::filesystem::path old = temporary_;
      old += "-old";
      std::filesystem::rename(out_, old, error);
      if (error) fail("to finish", error);
      std::filesystem::rename(temporary_, out_, error);
      if (error) {
        std::error_code ignored;
        std::filesystem::rename(old, out_, ignored);
        fail("to finish", error);
      }
      temporary_ = old;  // to be removed
    }
    flush_parent();
  }

 private:
  /// An absolute path without a trailing slash; where it is a link, what it leads to.
  static std::filesystem::path target_of(const std::filesystem::path& out) {
    std::error_code error;
    std::filesystem::path target = std::filesystem::weakly_canonical(out, error);
    if (error) target = std::filesystem::absolute(out);
    return target.has_filename() ? target : target.parent_path();
  }

  /// Swaps the two folders in one step; then the old one is the temporary one.
  bool exchange() {
#ifdef RENAME_EXCHANGE
    return ::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, out_.c_str(), RENAME_EXCHANGE) == 0;
#else
    return false;
#endif
  }

  void check_replaceable() const {
    namespace fs = std::filesystem;
    std::error_code error;
    if (!fs::exists(out_, error)) return;
    if (!fs::is_directory(out_, error)) refuse("a file");
    static const std::vector<std::string> kinds{".safetensors", ".json", ".model", ".txt",
                                                ".jinja",       ".md",   ".bin",   ""};
    for (const fs::directory_entry& entry : fs::directory_iterator(out_, error)) {
      const std::string kind = entry.path().extension().string();
      if (!entry.is_regular_file() || std::ranges::find(kinds, kind) == kinds.end()) {
        refuse("\"" + entry.path().filename().string() + "\" in it");
      }
    }
    if (error) fail("a readable folder at", error);
  }

  [[noreturn]] void refuse(const std::string& got) const {
    throw std::runtime_error(
        "alkn::io::AtomicFolder: expected no folder, or one with files of a model alone, got " +
        got + " (" + out_.string() + ")");
  }

  [[noreturn]] void fail(const std::string& expected, const std::error_code& reason) const {
    throw std::runtime_error("alkn::io::AtomicFolder: expected " + expected + " " + out_.string() +
                             ", got: " + reason.message());
  }

  /// The new name survives a power cut only once the parent is on the disk too. Best effort.
  void flush_parent() const noexcept {
    const int descriptor = ::open(out_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor >= 0) {
      ::fsync(descriptor);
      ::close(descriptor);
    }
  }

  std::filesystem::path out_;
  std::filesystem::path temporary_;
  Descriptor lock_;  ///< of the temporary folder
};

}  // namespace alkn::io
