# alkn::kernel: the headers alone, C++17, nothing but the standard library.
# alkn::alkn:   the whole library, C++20, with LibTorch, Eigen, fmt and nlohmann/json.
# alkn::compiled: the same, whose own code is compiled once, in a static library.

# A project that adds this folder must not see the warnings of its own flags in headers that are not
# its own.
set(system "")
if(NOT PROJECT_IS_TOP_LEVEL)
  set(system SYSTEM)
endif()

add_library(alkn_kernel INTERFACE)
add_library(alkn::kernel ALIAS alkn_kernel)
target_include_directories(alkn_kernel ${system} INTERFACE
                           $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>)
target_compile_features(alkn_kernel INTERFACE cxx_std_17)
set_target_properties(alkn_kernel PROPERTIES EXPORT_NAME kernel)
unset(system)

if(ALKN_LIBTORCH)
  foreach(target IN ITEMS Eigen3::Eigen fmt::fmt-header-only nlohmann_json::nlohmann_json)
    if(TARGET ${target})  # the project's own
      continue()
    endif()
    string(REGEX REPLACE "::.*" "" package "${target}")
    find_package(${package} QUIET)
    if(NOT ${package}_FOUND)
      message(FATAL_ERROR "alkn needs ${package}: install it (scripts/setup does so on Debian), \
or add the folder that holds it to CMAKE_PREFIX_PATH")
    endif()
  endforeach()

  include(AlknLibTorch)
  file(GLOB ALKN_LIBTORCH_FALLBACK_PREFIX "${PROJECT_SOURCE_DIR}/.venv")
  alkn_find_libtorch(alkn_libtorch_error)
  if(alkn_libtorch_error)
    message(FATAL_ERROR "alkn: ${alkn_libtorch_error}; in a clone of alkn, `scripts/setup` \
installs one")
  endif()

  # fmt stays header-only: LibTorch's own headers of another fmt may come first, a linked libfmt
  # would then lack their symbols.
  add_library(alkn_base INTERFACE)
  add_library(alkn::base ALIAS alkn_base)
  target_link_libraries(alkn_base INTERFACE alkn_kernel fmt::fmt-header-only Eigen3::Eigen
                                            nlohmann_json::nlohmann_json alkn::libtorch)
  target_compile_features(alkn_base INTERFACE cxx_std_20)
  set_target_properties(alkn_base PROPERTIES EXPORT_NAME base)

  # A target that links this and alkn::compiled does not configure: one file of it would have both.
  add_library(alkn_alkn INTERFACE)
  add_library(alkn::alkn ALIAS alkn_alkn)
  target_link_libraries(alkn_alkn INTERFACE alkn_base)
  set_target_properties(alkn_alkn PROPERTIES EXPORT_NAME alkn
    INTERFACE_alkn_form header-only COMPATIBLE_INTERFACE_STRING alkn_form)

  set(ALKN_COMPILED_SOURCE "${PROJECT_SOURCE_DIR}/include/alkn/compiled/alkn.cpp")
  include(AlknCompiled)
endif()
