# The functions by which the folders under tests/ add their tests.

find_package(Catch2 QUIET)
if(NOT Catch2_FOUND)
  message(FATAL_ERROR "alkn's tests need Catch2: install it (scripts/setup does so on Debian), \
or set ALKN_BUILD_TESTS=OFF")
endif()

# Material that is not part of the project (the TOFU data set, the oracle); tests that want it say
# so and skip where it is absent.
set(ALKN_SHARED_DIR "${PROJECT_SOURCE_DIR}/../shared"
    CACHE PATH "Folder of the shared test material")

# catch.hpp for both versions of Catch2, and the one main.
if(TARGET Catch2::Catch2WithMain)
  add_library(alkn_catch INTERFACE)
  target_link_libraries(alkn_catch INTERFACE Catch2::Catch2WithMain)
  target_include_directories(alkn_catch INTERFACE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(alkn_catch INTERFACE ALKN_SHARED_DIR="${ALKN_SHARED_DIR}")
else()
  add_library(alkn_catch STATIC "${PROJECT_SOURCE_DIR}/tests/catch_main.cpp")
  target_link_libraries(alkn_catch PUBLIC Catch2::Catch2)
  target_include_directories(alkn_catch PUBLIC "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(alkn_catch INTERFACE ALKN_SHARED_DIR="${ALKN_SHARED_DIR}")
endif()

# Three quarters of the time that a test with LibTorch takes to compile are LibTorch's headers and the
# optimiser's. The kernels in them have tests without LibTorch, which are optimised, and the same
# bits at every level.
set(alkn_torch_test_options $<$<AND:$<CXX_COMPILER_ID:GNU,Clang>,$<CONFIG:Release>>:-O0> ${alkn_uninitialised})
alkn_precompile(alkn_torch_test_headers OPTIONS ${alkn_torch_test_options}
                HEADERS "${PROJECT_SOURCE_DIR}/tests/catch.hpp")
if(TARGET alkn_torch_test_headers)
  target_link_libraries(alkn_torch_test_headers PRIVATE alkn_catch)
endif()

# alkn_add_test(<name> SOURCES <files>... [TORCH [HEADER_ONLY] | OPTIMIZED] [LINK <targets>...] [LABELS <labels>...]
#               [STANDARD <17 or 20>] [TIMEOUT <seconds>])
#
# One executable with Catch2's main, and one test of that name. See alkn_add_program for the rest.
# Tests with LibTorch have the label `torch`, the others `torch-free`, which spend their time in the compiler too,
# but for those of kernels; OPTIMIZED: compiled at the build type's own level.
function(alkn_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH;HEADER_ONLY;OPTIMIZED" "STANDARD;TIMEOUT" "SOURCES;LINK;LABELS")
  set(options "")
  if(arg_TORCH)
    list(APPEND options TORCH PRECOMPILED alkn_torch_test_headers OPTIONS ${alkn_torch_test_options})
    if(arg_HEADER_ONLY)
      list(APPEND options HEADER_ONLY)
    endif()
  elseif(NOT arg_OPTIMIZED)
    list(APPEND options OPTIONS ${alkn_hardly_optimised})
  endif()
  if(arg_STANDARD)
    list(APPEND options STANDARD ${arg_STANDARD})
  endif()
  alkn_add_program(${name} SOURCES ${arg_SOURCES} LINK alkn_catch ${arg_LINK} ${options})
  if(NOT TARGET ${name})
    return()
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 900)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT}
                       ENVIRONMENT "ALKN_SHARED_DIR=${ALKN_SHARED_DIR}")
  if(arg_TORCH)
    # LibTorch's threads wait actively: two such tests at once on few cores slow each other far
    # down.
    set_tests_properties(${name} PROPERTIES LABELS "torch;${arg_LABELS}" PROCESSORS 2)
  else()
    set_tests_properties(${name} PROPERTIES LABELS "torch-free;${arg_LABELS}")
  endif()
endfunction()

# Two files with nothing in them: their entries in compile_commands.json say how a test is compiled,
# which the compile-fail tests, scripts/check_headers and scripts/compile_time go by.
foreach(kind IN ITEMS torch kernel)
  if(kind STREQUAL kernel OR TARGET alkn::alkn)
    file(WRITE "${PROJECT_BINARY_DIR}/probe_${kind}.cpp" "")
    add_library(alkn_probe_${kind} OBJECT EXCLUDE_FROM_ALL
                "${PROJECT_BINARY_DIR}/probe_${kind}.cpp")
    target_include_directories(alkn_probe_${kind} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
    target_link_libraries(alkn_probe_${kind} PRIVATE alkn_options)
    set_target_properties(alkn_probe_${kind} PROPERTIES
                          EXPORT_COMPILE_COMMANDS ON CXX_EXTENSIONS OFF)
  endif()
endforeach()
target_link_libraries(alkn_probe_kernel PRIVATE alkn::kernel)
set_target_properties(alkn_probe_kernel PROPERTIES CXX_STANDARD 17)
if(TARGET alkn_probe_torch)
  target_link_libraries(alkn_probe_torch PRIVATE alkn::alkn)
  set_target_properties(alkn_probe_torch PROPERTIES CXX_STANDARD 20)
endif()

# alkn_add_compile_fail_test(<name> SOURCE <file> MESSAGE <regex> [MACRO <macro>] [FLAG <flag>] [TORCH])
#
# <file> must compile as it is (a test of its own, <file's name>_compiles), and must not with
# <macro> defined (default: ALKN_COMPILE_FAIL): then the compiler's words have to match <regex>.
# Several tests may share a file, each with its macro. FLAG: a compiler's flag beside the macro.
function(alkn_add_compile_fail_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "SOURCE;MESSAGE;MACRO;FLAG" "")
  foreach(required IN ITEMS SOURCE MESSAGE)
    if("${arg_${required}}" STREQUAL "")
      message(FATAL_ERROR "alkn_add_compile_fail_test(${name}): ${required} is missing")
    endif()
  endforeach()
  if(arg_TORCH AND NOT TARGET alkn::alkn)
    return()
  endif()
  if(NOT arg_MACRO)
    set(arg_MACRO ALKN_COMPILE_FAIL)
  endif()
  set(label torch-free)
  set(probe probe_kernel.cpp)
  if(arg_TORCH)
    set(label torch)
    set(probe probe_torch.cpp)
    if(TARGET alkn_torch_test_headers AND NOT arg_FLAG)  # another flag, another precompiled header
      set(probe alkn_torch_test_headers.cpp)
    endif()
  endif()
  get_filename_component(source "${arg_SOURCE}" ABSOLUTE)
  get_filename_component(twin "${arg_SOURCE}" NAME_WE)
  set(compile "${CMAKE_COMMAND}" -D "DATABASE=${PROJECT_BINARY_DIR}/compile_commands.json"
              -D "PROBE=${probe}" -D "SOURCE=${source}")
  set(script "${PROJECT_SOURCE_DIR}/cmake/compile_check.cmake")
  if(NOT TEST ${twin}_compiles)
    add_test(NAME ${twin}_compiles COMMAND ${compile} -P "${script}")
    set_tests_properties(${twin}_compiles PROPERTIES LABELS "compile;${label}" TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND ${compile} -D "MACRO=${arg_MACRO}" -D "MESSAGE=${arg_MESSAGE}"
                                -D "FLAG=${arg_FLAG}"
                                -P "${script}")
  set_tests_properties(${name} PROPERTIES LABELS "compile;${label}" TIMEOUT 300)
endfunction()
