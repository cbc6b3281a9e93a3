// Where the library's own code is compiled: in every file that uses it (header-only, the default),
// or once, in the target alkn::compiled, which defines ALKN_COMPILED for its users. Templates over
// the user's types are in his files either way.
#pragma once

/// Before a function that is declared in one header and defined in its partner `*_definitions.hpp`,
/// or, of a task, in one of task/*.hpp.
#if defined(ALKN_COMPILED)
#define ALKN_COMPILED_INLINE
#else
#define ALKN_COMPILED_INLINE inline
#endif

/// Whether this file needs those definitions: ALKN_COMPILING is the source of alkn::compiled.
#if !defined(ALKN_COMPILED) || defined(ALKN_COMPILING)
#define ALKN_DEFINITIONS 1
#else
#define ALKN_DEFINITIONS 0
#endif
