// The version of the library.
#pragma once

#define ALKN_VERSION_MAJOR 0
#define ALKN_VERSION_MINOR 1
#define ALKN_VERSION_PATCH 0
#define ALKN_VERSION "0.1.0"
