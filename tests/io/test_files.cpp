// Files that are written whole or not at all, whatever the system says; files that are read while
// others write; locks that end with their process.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "alkn/io/atomic_file.hpp"
#include "alkn/io/file_lock.hpp"
#include "alkn/io/input_file.hpp"
#include "catch.hpp"
#include "faults.hpp"
#include "folder.hpp"

namespace {

namespace fs = std::filesystem;
using alkn::io::AtomicFile;
using alkn::io::write_file;
using files::bytes_of;
using files::error_of;
using files::Folder;
using files::put;

std::string reason(int error) { return std::generic_category().message(error); }

/// Runs `action` in a process of its own that then waits to be killed. Returns its number.
template <class Action>
pid_t process_that(Action&& action) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    action([&] {
      static_cast<void>(::write(ends[1], "x", 1));
      for (;;) ::pause();
    });
    ::_exit(0);
  }
  ::close(ends[1]);
  char ready = 0;
  REQUIRE(::read(ends[0], &ready, 1) == 1);
  ::close(ends[0]);
  return child;
}

void kill_and_wait(pid_t child) {
  ::kill(child, SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
}

}  // namespace

TEST_CASE("what is no regular file is neither replaced nor removed", "[files]") {
  const Folder folder;
  const fs::path pipe = folder.file("pipe"), device = folder.file("device"),
                 link = folder.file("link"), inner = folder.file("folder");
  const std::string start = "alkn::io::AtomicFile: expected a regular file, or none, at ";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  fs::create_directory(inner);
  fs::create_symlink("pipe", link);
  std::vector<std::pair<fs::path, std::string>> special{
      {pipe, "a pipe"}, {link, "a pipe"}, {inner, "a folder"}, {"/dev/null", "a device"}};
  if (::mknod(device.c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0) {
    special.emplace_back(device, "a device");
  }
  ::sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = folder.file("socket").string();
  REQUIRE(name.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, name.c_str(), name.size() + 1);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(::bind(socket, reinterpret_cast<::sockaddr*>(&address), sizeof(address)) == 0);
  special.emplace_back(name, "a socket");
  for (const auto& item : special) {  // clang 14 captures no structured bindings
    const auto& path = item.first;
    const auto& kind = item.second;
    struct ::stat before {
    }, after{};
    REQUIRE(::lstat(path.c_str(), &before) == 0);
    CHECK(error_of([&] { write_file(path, "x"); }) == start + path.string() + ", got " + kind);
    alkn::io::remove_file(path);
    REQUIRE(::lstat(path.c_str(), &after) == 0);
    CHECK(before.st_ino == after.st_ino);
    CHECK(before.st_mode == after.st_mode);
  }
  CHECK(static_cast<std::size_t>(folder.num_files()) ==
        special.size() - 1);  // and no temporary one
  ::close(socket);

  // It may also come while the file is written.
  AtomicFile file(folder.file("late"));
  file.write("x");
  REQUIRE(::mkfifo(folder.file("late").c_str(), 0600) == 0);
  CHECK(error_of([&] { file.commit(); }) == start + folder.file("late").string() + ", got a pipe");
  CHECK(fs::is_fifo(folder.file("late")));

  // Links of the system to open files, whose names are gone.
  put(folder.file("gone"), "before");
  const int open_file = ::open(folder.file("gone").c_str(), O_RDONLY);
  fs::remove(folder.file("gone"));
  const std::string by_number = "/proc/self/fd/" + std::to_string(open_file);
  CHECK(error_of([&] { write_file(by_number, "x"); }) ==
        "alkn::io::AtomicFile: expected a file with a name at " + by_number +
            ", got a link to an open file");
  ::close(open_file);
}

TEST_CASE("a link leads to what is written, also where nothing was yet", "[files]") {
  const Folder folder;
  fs::create_directory(folder.file("inner"));
  fs::create_symlink("inner/target", folder.file("first"));
  fs::create_symlink(folder.file("first"), folder.file("second"));
  write_file(folder.file("second"), "text");
  CHECK(fs::is_symlink(folder.file("second")));
  CHECK(fs::is_symlink(folder.file("first")));
  CHECK(bytes_of(folder.file("inner") / "target") == "text");
  alkn::io::remove_file(folder.file("second"));
  CHECK_FALSE(fs::exists(folder.file("inner") / "target"));
  CHECK(fs::is_symlink(folder.file("second")));
  fs::create_symlink("ring", folder.file("ring"));
  CHECK(error_of([&] { write_file(folder.file("ring"), "x"); }) ==
        "alkn::io::AtomicFile: expected no ring of links at " + folder.file("ring").string() +
            ", got: " + reason(ELOOP));
}

TEST_CASE("a name may be as long as the system allows", "[files]") {
  const Folder folder;
  for (const std::size_t length : {std::size_t{245}, std::size_t{255}}) {
    const fs::path path = folder.file(std::string(length, 'n'));
    write_file(path, "first");
    write_file(path, "text");
    CHECK(bytes_of(path) == "text");
    const alkn::io::FileLock lock(path);
  }
  CHECK(folder.num_files() == 2);
  CHECK(error_of([&] { write_file(folder.file(std::string(256, 'n')), "x"); }) ==
        "alkn::io::AtomicFile: expected to finish " + folder.file(std::string(256, 'n')).string() +
            ", got: " + reason(ENAMETOOLONG));
  CHECK(folder.num_files() == 2);
}

TEST_CASE("each failure of the system leaves the file as it was, and nothing beside", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  put(path, "what was there before");
  struct Fault {
    const char* plan;
    const char* expected;
    int error;
  };
  for (const Fault& fault :
       {Fault{"open 0 30", "a writable folder for ", EROFS},  // remounted read-only
        Fault{"open 0 24", "a writable folder for ", EMFILE},
        Fault{"write 0 28", "to write 300 bytes to ", ENOSPC},      // full
        Fault{"write 0 28 100", "to write 200 bytes to ", ENOSPC},  // full half-way
        Fault{"write 1 5", "to write 7 bytes to ", EIO},
        Fault{"write 0 122", "to write 300 bytes to ", EDQUOT},
        Fault{"fsync 0 5", "to flush ", EIO}, Fault{"fsync 0 28", "to flush ", ENOSPC},
        Fault{"dup 0 24", "to finish ", EMFILE}, Fault{"rename 0 30", "to finish ", EROFS},
        Fault{"rename 0 13", "to finish ", EACCES}}) {
    INFO(fault.plan);
    std::string error;
    int faulty = 0;
    {
      const faults::Plan plan(fault.plan);
      error = error_of([&] {
        AtomicFile file(path);
        file.write(std::string(300, 'x'));
        file.write("the end");
        file.commit();
      });
      faulty = faults::count();
    }
    CHECK(faulty > 0);
    CHECK(error == "alkn::io::AtomicFile: expected " + (fault.expected + path.string()) +
                       ", got: " + reason(fault.error));
    CHECK(bytes_of(path) == "what was there before");
    CHECK(folder.num_files() == 1);
  }
}

TEST_CASE("signals and short writes lose nothing", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i) + " ";
  for (const char* fault : {"open 0 4", "write 0 4", "write 0 -1 3", "fsync 0 4", "read 0 4"}) {
    INFO(fault);
    std::string back;
    int faulty = 0;
    {
      const faults::Plan plan(fault);
      write_file(path, text);
      back = alkn::io::read_text(path);
      faulty = faults::count();
    }
    CHECK(faulty > 0);
    CHECK(back == text);
    CHECK(bytes_of(path) == text);
    CHECK(folder.num_files() == 1);
  }
  for (const char* fault : {"pread 0 4", "pread 0 -1 7"}) {
    const alkn::io::InputFile file(path);
    std::string back(text.size(), ' ');
    const faults::Plan plan(fault);
    file.read(0, back.data(), back.size());
    CHECK(back == text);
    CHECK(faults::count() > 0);
  }
}

TEST_CASE("reading says what the system says", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  const auto read = [&] { alkn::io::read_text(path); };
  const auto open = [&] { alkn::io::InputFile file(path); };
  const std::string start = "alkn::io: expected a readable file, got ";
  CHECK(error_of(read) == start + "none");
  CHECK(error_of(open) == start + "none");
  fs::create_directory(path);
  CHECK(error_of(read) == start + "a folder");
  CHECK(error_of(open) == "alkn::io: expected a file, got a folder");
  fs::remove(path);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(error_of(open) == "alkn::io: expected a file, got a pipe");  // and does not wait for one
  fs::remove(path);
  put(path, "text");
  {
    const faults::Plan plan("open 0 13");
    CHECK(error_of(read) == start + reason(EACCES));
  }
  {
    const faults::Plan plan("read 0 5");
    CHECK(error_of(read) == start + reason(EIO));
  }
  const alkn::io::InputFile file(path);
  char bytes[8];
  CHECK(error_of([&] { file.read(2, bytes, 3); }) ==
        "alkn::io: expected 3 readable bytes at 2, got 2");
  const faults::Plan plan("pread 0 5");
  CHECK(error_of([&] { file.read(2, bytes, 2); }) ==
        "alkn::io: expected 2 readable bytes at 2, got 0: " + reason(EIO));
}

TEST_CASE("what killed writers left goes with the next save, a living one's stays", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  std::vector<pid_t> writers;
  for (int i = 0; i < 3; ++i) {
    writers.push_back(process_that([&](auto&& wait) {
      AtomicFile file(path);
      file.write("half");
      wait();
    }));
  }
  for (const pid_t writer : writers) kill_and_wait(writer);
  CHECK(folder.num_files() == 3);
  write_file(folder.file("b"), "another file's");
  CHECK(folder.num_files() == 4);
  {
    AtomicFile alive(path);  // removes the three, and has one of its own
    alive.write("alive");
    CHECK(folder.num_files() == 2);
    write_file(path, "beside");
    CHECK(folder.num_files() == 3);
    const pid_t child = process_that([&](auto&& wait) {
      AtomicFile other(path);
      other.write("other");
      wait();
    });
    write_file(path, "again");
    CHECK(folder.num_files() == 4);  // a, b, two temporary ones of living writers
    kill_and_wait(child);
    alive.commit();
  }
  CHECK(bytes_of(path) == "alive");
  write_file(path, "last");
  CHECK(folder.num_files() == 2);
}

TEST_CASE("writers of one path never commit each other's bytes", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  put(path, "x");
  std::vector<std::thread> writers;
  std::atomic<int> errors{0};
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      for (int i = 0; i < 100; ++i) {
        try {
          write_file(path,
                     std::string(1000 + static_cast<std::size_t>(w), static_cast<char>('0' + w)));
        } catch (const std::exception&) {
          ++errors;
        }
      }
    });
  }
  int mixed = 0;
  for (int i = 0; i < 400; ++i) {
    const std::string text = alkn::io::read_bytes(path);
    const auto first = static_cast<std::size_t>(text[0] - '0');
    const bool whole = text == "x" || text == std::string(1000 + first, text[0]);
    mixed += whole ? 0 : 1;
  }
  for (std::thread& writer : writers) writer.join();
  CHECK(faults::shared_temporaries() == 0);
  CHECK(faults::exclusive_temporaries() >= 1);
  CHECK(mixed == 0);
  CHECK(errors == 0);
  CHECK(folder.num_files() == 1);
}

TEST_CASE("a lock keeps another process out, and says which one has it", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("run");
  const auto lock = [&] { const alkn::io::FileLock held(path); };
  const pid_t child = process_that([&](auto&& wait) {
    const alkn::io::FileLock held(path);
    wait();
  });
  CHECK(error_of(lock) == "alkn::io: expected to be alone with " + path.string() +
                              ", got process " + std::to_string(child));
  const alkn::io::FileLock other(folder.file("other"));
  kill_and_wait(child);
  CHECK(error_of(lock) == "no error");  // what was killed holds nothing
  CHECK(folder.num_files() == 1);       // other's
  CHECK(error_of([&] { alkn::io::FileLock held(folder.file("none") / "run"); }) ==
        "alkn::io: expected a writable folder for " + (folder.file("none") / "run").string() +
            ", got " + reason(ENOENT));
}

TEST_CASE("a lock on a file that its owner has just removed is none", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("run");
  faults::after_next_lock_is_opened([&] {
    for (const auto& entry : fs::directory_iterator(path.parent_path())) fs::remove(entry);
  });
  const alkn::io::FileLock held(path);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string error = error_of([&] { const alkn::io::FileLock second(path); });
    ::_exit(error.find("got process " + std::to_string(::getppid())) == std::string::npos ? 1 : 0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("a lock is held by one process at a time, however they come and go", "[files]") {
  const Folder folder;
  const fs::path path = folder.file("run"), inside = folder.file("inside");
  std::vector<pid_t> children;
  for (int c = 0; c < 4; ++c) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int code = 0;
      for (int i = 0; i < 200; ++i) {
        try {
          const alkn::io::FileLock held(path);
          const int mark = ::open(inside.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600);
          if (mark < 0) code = 1;  // somebody else is in
          ::close(mark);
          ::unlink(inside.c_str());
        } catch (const std::exception&) {
        }
      }
      ::_exit(code);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  CHECK(folder.num_files() == 0);
}
