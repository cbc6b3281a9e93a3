// Catch2 version 2 has its implementation and its main here; version 3 brings them as a library.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
