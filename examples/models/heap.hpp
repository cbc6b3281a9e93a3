// How a program that trains a real model should hold its memory.
#pragma once

#include <cstdlib>  // defines __GLIBC__ where it is the C library

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace models {

/// From now on freed memory stays with the process. glibc gives blocks above 32 MiB, such as logits
/// and the gradient of an embedding, back to the system at once, which then clears every page
/// again for the next batch: a tenth of an iteration's time or more. Call it first in main.
/// Elsewhere than under glibc it does nothing.
inline void keep_freed_memory() {
#if defined(__GLIBC__)
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

/// Gives what is free now back after all: once a task, before its first step takes the optimizer's
/// state beside what the passes so far have left.
inline void return_freed_memory() {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
}

}  // namespace models
