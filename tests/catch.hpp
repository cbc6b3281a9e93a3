// Catch2, version 3 where it is installed, else version 2, under version 3's names.
// A guard by name: a precompiled header from a cache may be of another place and time.
#ifndef ALKN_TESTS_CATCH_HPP
#define ALKN_TESTS_CATCH_HPP

// LibTorch has a CHECK as well, which ends the program: it must come before Catch2's, not after.
#if __has_include(<c10/util/Logging.h>)
#include <c10/util/Logging.h>
#undef CHECK
#endif

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>

using Catch::Approx;
#else
#include <catch2/catch.hpp>

#include <string>

namespace Catch::Matchers {

/// Version 3's name of `Contains` for strings.
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }

}  // namespace Catch::Matchers
#endif

#endif
