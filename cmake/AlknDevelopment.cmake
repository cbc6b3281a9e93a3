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

# alkn_precompile(<name> OPTIONS <flags>... [HEADERS <headers>...])
#
# LibTorch's headers, and <headers>, read once for all programs that are compiled with these options. With g++
# alone: clang-tidy and scripts/check_headers go by clang's compile_commands.json, without a build.
function(alkn_precompile name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "OPTIONS;HEADERS")
  if(NOT (TARGET alkn::alkn AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU"))
    return()
  endif()
  file(WRITE "${PROJECT_BINARY_DIR}/${name}.cpp" "")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL "${PROJECT_BINARY_DIR}/${name}.cpp")
  target_link_libraries(${name} PRIVATE alkn_options alkn_base)
  target_compile_definitions(${name} PRIVATE ALKN_COMPILED)
  # ccache asks for the second.
  target_compile_options(${name} PRIVATE ${arg_OPTIONS} -fpch-preprocess)
  set_target_properties(${name} PROPERTIES
                        EXPORT_COMPILE_COMMANDS ON CXX_STANDARD 20 CXX_EXTENSIONS OFF)
  target_precompile_headers(${name} PRIVATE
    <ATen/ATen.h> <ATen/Parallel.h> <torch/csrc/autograd/autograd.h>
    <torch/csrc/autograd/functions/utils.h> <torch/nn/module.h> <torch/nn/modules/embedding.h>
    <torch/nn/modules/linear.h> <torch/optim/optimizer.h> <torch/optim/sgd.h>
    <torch/serialize/archive.h> <Eigen/Core> <fmt/ranges.h> <nlohmann/json.hpp> ${arg_HEADERS})
endfunction()

# Compiles a target that links alkn::compiled with what alkn_precompile(<headers>) made.
function(alkn_use_precompiled name headers)
  if(TARGET "${headers}")
    target_compile_options(${name} PRIVATE -fpch-preprocess)
    target_precompile_headers(${name} REUSE_FROM ${headers})
  endif()
endfunction()

# What programs with LibTorch do themselves costs nothing beside LibTorch and alkn::compiled; at -O3 they take
# half as long again to compile as at -O1. There g++ 12 takes LibTorch's empty optional of a generator for an
# uninitialised one.
set(alkn_hardly_optimised $<$<AND:$<CXX_COMPILER_ID:GNU,Clang>,$<CONFIG:Release>>:-O1>)
set(alkn_uninitialised $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
set(alkn_program_options ${alkn_hardly_optimised} ${alkn_uninitialised})
alkn_precompile(alkn_program_headers OPTIONS ${alkn_program_options})

# alkn_add_program(<name> SOURCES <files>... [TORCH [HEADER_ONLY | OPTIMIZED]] [LINK <targets>...]
#                  [STANDARD <17 or 20>] [OPTIONS <flags>... PRECOMPILED <headers>])
#
# An executable of this project: its warnings, and alkn::compiled (TORCH), alkn::alkn (TORCH HEADER_ONLY) or the
# torch-free alkn::kernel. What links alkn::compiled has OPTIONS and headers that were PRECOMPILED with them, by default
# those of programs; OPTIMIZED: neither, the build type's own level. Adds nothing where TORCH is asked for and LibTorch
# is switched off; ask with if(TARGET <name>).
function(alkn_add_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH;HEADER_ONLY;OPTIMIZED" "STANDARD;PRECOMPILED" "SOURCES;LINK;OPTIONS")
  if(arg_TORCH AND NOT TARGET alkn::alkn)
    return()
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE alkn_options ${arg_LINK})
  if(arg_TORCH AND arg_HEADER_ONLY)
    target_link_libraries(${name} PRIVATE alkn::alkn)
  elseif(arg_TORCH)
    target_link_libraries(${name} PRIVATE alkn::compiled)
    if(NOT (arg_PRECOMPILED OR arg_OPTIMIZED))
      set(arg_OPTIONS ${alkn_program_options})
      set(arg_PRECOMPILED alkn_program_headers)
    endif()
    alkn_use_precompiled(${name} "${arg_PRECOMPILED}")
  else()
    target_link_libraries(${name} PRIVATE alkn::kernel Threads::Threads)
  endif()
  target_compile_options(${name} PRIVATE ${arg_OPTIONS})
  if(NOT arg_STANDARD)
    set(arg_STANDARD 20)
  endif()
  set_target_properties(${name} PROPERTIES CXX_STANDARD ${arg_STANDARD} CXX_EXTENSIONS OFF)
endfunction()
