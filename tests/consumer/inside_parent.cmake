# Builds tests/consumer/parent with alkn in it by `mode`; strict warnings there must not reach
# alkn's headers.
set(flags "-Wall -Wextra -Wpedantic -Wsign-conversion -Wold-style-cast -Wcast-align -Werror")
configure("${SOURCE}/tests/consumer/parent" ARGS
          "-DCMAKE_PREFIX_PATH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}" "-DMODE=${mode}" "-DCMAKE_CXX_FLAGS=${flags}")
build_and_run("mean NLL 2\\.7725")

# The parent's own file is compiled with the parent's flags, and what LibTorch and fmt need.
file(READ "${WORK}/build/compile_commands.json" commands)
string(JSON count LENGTH "${commands}")
math(EXPR last "${count} - 1")
foreach(index RANGE ${last})
  string(JSON command GET "${commands}" ${index} command)
  if(NOT command MATCHES "small\\.cpp$")
    continue()
  endif()
  set(file_seen TRUE)
  string(REPLACE "${flags}" "" command "${command}")
  string(REGEX REPLACE "(-isystem|-o|-c) [^ ]+" "" command "${command}")
  string(REGEX MATCHALL " -[^ ]+" options "${command}")
  foreach(option IN LISTS options)
    if(NOT option MATCHES "^ (-O0|-DNDEBUG|-DFMT_HEADER_ONLY=1|-DALKN_COMPILED|-fopenmp|-std=(gnu|c)\\+\\+20)$")
      message(FATAL_ERROR "the parent's file is compiled with${option}, which it did not ask for")
    endif()
  endforeach()
endforeach()
if(NOT file_seen)
  message(FATAL_ERROR "no small.cpp in the parent's compilation database")
endif()

# Installing the parent installs nothing of alkn.
cmake_call(CALL --install "${WORK}/build" --prefix "${WORK}/installed")
need("installing the parent")
file(GLOB_RECURSE installed RELATIVE "${WORK}/installed" "${WORK}/installed/*")
if(installed MATCHES "alkn")
  message(FATAL_ERROR "the parent's install tree has parts of alkn: ${installed}")
endif()
