# What the project's own tests, examples and benchmarks are built with; nobody else sees any of it.

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(ALKN_CCACHE ccache)
  if(ALKN_CCACHE)
    # The sloppiness is what ccache asks for before it keeps files that read a precompiled header.
    set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env
        CCACHE_SLOPPINESS=pch_defines,time_macros "${ALKN_CCACHE}")
  endif()
endif()
# A test that uses what LibTorch needs without LibTorch (Eigen, json) asks for it by LINK.
find_package(Eigen3 QUIET)
find_package(fmt QUIET)
find_package(nlohmann_json QUIET)
find_package(Threads REQUIRED)

# The flags of the project's own sources.
add_library(alkn_options INTERFACE)
target_compile_options(alkn_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Wshadow>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ALKN_WERROR}>>:-Werror>)
# g++ 12 takes `"text" + std::string` for an overlapping copy when it optimises (its bug 105651).
target_compile_options(alkn_options INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)

if(TARGET alkn_compiled)
  target_link_libraries(alkn_compiled PRIVATE $<BUILD_INTERFACE:alkn_options>)
endif()

# alkn_add_program(<name> SOURCES <files>... [TORCH [COMPILED]] [LINK <targets>...] [STANDARD <17 or 20>])
#
# An executable of this project: its warnings, and alkn::alkn (TORCH), alkn::compiled (TORCH COMPILED)
# or the torch-free alkn::kernel. Adds nothing where TORCH is asked for and LibTorch is switched off; ask with
# if(TARGET <name>).
function(alkn_add_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH;COMPILED" "STANDARD" "SOURCES;LINK")
  if(arg_TORCH AND NOT TARGET alkn::alkn)
    return()
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE alkn_options ${arg_LINK})
  if(arg_TORCH)
    if(arg_COMPILED)
      target_link_libraries(${name} PRIVATE alkn::compiled)
    else()
      target_link_libraries(${name} PRIVATE alkn::alkn)
    endif()
  else()
    target_link_libraries(${name} PRIVATE alkn::kernel Threads::Threads)
  endif()
  if(NOT arg_STANDARD)
    set(arg_STANDARD 20)
  endif()
  set_target_properties(${name} PROPERTIES CXX_STANDARD ${arg_STANDARD} CXX_EXTENSIONS OFF)
endfunction()
