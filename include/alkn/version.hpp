// The version of the library.
#pragma once

#define ALKN_VERSION_MAJOR 0
#define ALKN_VERSION_MINOR 2
#define ALKN_VERSION_PATCH 0
#define ALKN_VERSION "0.2.0"
