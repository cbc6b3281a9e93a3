// Calls of the system that fail as a test asks: see faults.cpp.
#pragma once

#include <functional>
#include <string>

namespace faults {

/// "fsync 0 5": from the call after so many good ones on, fsync fails with error 5. Others are
/// open, write, dup, rename, pread and read. "write 2 28 100": the third write and all later ones
/// take 100 bytes first. "write 0 -1 3": writes take 3 bytes at a time and never fail. An
/// interruption (EINTR) comes at every other call. "" ends it. A program takes the plan of
/// ALKN_FAULTS.
void plan(const std::string& text);

/// How many calls have failed or were cut since.
int count();

/// Temporary files that were opened so far in a way that another writer's could have been meant,
/// and in a way (O_EXCL) that could not.
int shared_temporaries();
int exclusive_temporaries();

/// What another process does just after the next lock's file was opened, before it is locked.
void after_next_lock_is_opened(std::function<void()> action);

/// Ends the plan with its scope.
struct Plan {
  explicit Plan(const std::string& text) { plan(text); }
  ~Plan() { plan(""); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

}  // namespace faults
