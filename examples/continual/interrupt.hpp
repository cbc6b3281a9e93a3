// Ctrl-C: noted at once, acted upon between two steps.
#pragma once

#include <csignal>

namespace continual {

namespace detail {
inline volatile std::sig_atomic_t interrupt_flag = 0;
}

/// From now on the first SIGINT or SIGTERM only sets a flag, so that the loop can write a
/// checkpoint before anything unwinds; a second one ends the program as usual.
inline void catch_interrupts() {
  const auto handler = [](int signal) {
    detail::interrupt_flag = 1;
    std::signal(signal, SIG_DFL);
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

[[nodiscard]] inline bool interrupted() { return detail::interrupt_flag != 0; }

}  // namespace continual
