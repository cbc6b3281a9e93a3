# examples/consumer, copied to a place of its own, against an install tree that was moved.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
install_and_move()

# The tree knows no folder of this machine, and holds every header.
file(GLOB_RECURSE files "${WORK}/moved/share/*")
foreach(file IN LISTS files)
  file(READ "${file}" text)
  foreach(folder IN ITEMS "${SOURCE}/" "${BUILD}/" "${WORK}/" "${LIBTORCH}/")
    string(FIND "${text}" "${folder}" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${file} names ${folder}: the tree cannot be moved")
    endif()
  endforeach()
endforeach()
file(GLOB_RECURSE ours RELATIVE "${SOURCE}" "${SOURCE}/include/alkn/*")
file(GLOB_RECURSE installed RELATIVE "${WORK}/moved" "${WORK}/moved/include/alkn/*")
if(NOT ours STREQUAL installed)
  message(FATAL_ERROR "installed headers differ from the project's:\n${installed}\n${ours}")
endif()

# A consumer's whole CMake: three lines besides cmake_minimum_required, project and a default build
# type.
file(STRINGS "${SOURCE}/examples/consumer/CMakeLists.txt" lines REGEX "[^ ]")
list(LENGTH lines count)
if(NOT count EQUAL 8)
  message(FATAL_ERROR "examples/consumer/CMakeLists.txt has ${count} lines, not 8")
endif()

file(COPY "${SOURCE}/examples/consumer" DESTINATION "${WORK}")
set(without_build_type TRUE)
configure("${WORK}/consumer" ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}")
file(READ "${WORK}/build/compile_commands.json" commands)
if(NOT commands MATCHES " -O3 ")
  message(FATAL_ERROR "examples/consumer is not optimised by default:\n${commands}")
endif()
build_and_run("forget set, unlearned +0\\.[0-9]+ +ok")

# LibTorch is found where its users point CMAKE_PREFIX_PATH: its folder, the one that
# torch.utils.cmake_prefix_path names, and an environment of Python.
get_filename_component(environment "${LIBTORCH}/../../../.." ABSOLUTE)
set(hints "${LIBTORCH}" "${LIBTORCH}/share/cmake")
if(EXISTS "${environment}/pyvenv.cfg")
  list(APPEND hints "${environment}")
endif()
foreach(hint IN LISTS hints)
  expect_configures(ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${hint}" -DEXPECT_TARGET=alkn::alkn)
endforeach()

set(moved "-DCMAKE_PREFIX_PATH=${WORK}/moved")
expect_error("LibTorch was not found: add the folder that holds it" ARGS "${moved}")
expect_error("holds a TorchConfig.cmake but no lib/libtorch_cpu.so: not a complete LibTorch"
             ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${SOURCE}/tests/consumer/half_libtorch")
expect_error("alkn has no component \"gpu\"; its components are alkn, compiled, cuda, dist, kernel and nccl" ARGS "${moved}" -DCOMPONENTS=gpu)
expect_configures(ARGS "${moved}" -DCOMPONENTS=kernel -DEXPECT_TARGET=alkn::kernel)
expect_configures(ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}" "-DCOMPONENTS=alkn;kernel"
                  -DEXPECT_TARGET=alkn::alkn)
expect_configures(ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}" -DCOMPONENTS=dist -DEXPECT_TARGET=alkn::dist)
expect_error("alkn::dist needs Gloo's headers (gloo/algorithm.h): install libgloo-dev"
             ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}" -DCOMPONENTS=dist -DALKN_GLOO_INCLUDE_DIR=)
expect_configures(ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}" -DOWN_FMT=ON -DEXPECT_TARGET=alkn::alkn)

# Of a build without optimisation it warns, once, and only where nothing says otherwise.
expect_build_type_warning(TRUE probe ARGS "${moved}" -DCOMPONENTS=kernel -DEXPECT_TARGET=alkn::kernel)
foreach(flag IN ITEMS -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O2)
  expect_build_type_warning(FALSE probe ARGS "${moved}" -DCOMPONENTS=kernel -DEXPECT_TARGET=alkn::kernel
                            ${flag})
endforeach()

string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" minor "${VERSION}")
math(EXPR next "${CMAKE_MATCH_2} + 1")
set(next "${CMAKE_MATCH_1}.${next}")
expect_configures(ARGS "${moved}" -DCOMPONENTS=kernel "-DVERSION=${minor}" -DEXPECT_TARGET=alkn::kernel)
expect_error("compatible with requested version \"${next}\"" ARGS "${moved}" -DCOMPONENTS=kernel "-DVERSION=${next}")
