// Included by every header that defines what alkn::compiled has compiled: a file that links it
// would define all that a second time.
#pragma once

#include <alkn/compiled.hpp>

#if !ALKN_DEFINITIONS
#error \
    "alkn: alkn::compiled has the functions of the header that includes this one: include alkn/alkn.hpp, or the header that declares them"
#endif
