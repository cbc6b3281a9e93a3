# What the consumer tests share. Each gets SOURCE and BUILD (alkn's folders), WORK (a folder of its
# own), LIBTORCH, GENERATOR, COMPILER and VERSION.
cmake_minimum_required(VERSION 3.24)

file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
# LibTorch comes by CMAKE_PREFIX_PATH of the command line, and from nowhere else.
unset(ENV{CMAKE_PREFIX_PATH})

# cmake_call(<cmake's arguments>...): sets `result`, and `output` to all of its words. PARSE_ARGV
# keeps lists like a;b in one argument.
function(cmake_call)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "CALL")
  execute_process(COMMAND "${CMAKE_COMMAND}" ${arg_CALL}
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(result "${result}" PARENT_SCOPE)
  set(output "${output}" PARENT_SCOPE)
endfunction()

# need(<what>): the last call must have succeeded.
function(need what)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${what} failed (${result}):\n${output}")
  endif()
endfunction()

# configure(<project's folder> ARGS <arguments>...), into WORK/build; as Release, unless without_build_type is set, but
# without the optimiser, which takes half of the time and changes no bit
function(configure folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "ARGS")
  if(NOT without_build_type)
    list(APPEND arg_ARGS -DCMAKE_BUILD_TYPE=Release "-DCMAKE_CXX_FLAGS_RELEASE=-O0 -DNDEBUG")
  endif()
  cmake_call(CALL -S "${folder}" -B "${WORK}/build" -G "${GENERATOR}"
             "-DCMAKE_CXX_COMPILER=${COMPILER}" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON ${arg_ARGS})
  need("configuring ${folder}")
endfunction()

# Builds WORK/build and runs its program `app`, which judges its own numbers and prints `words`.
function(build_and_run words)
  cmake_call(CALL --build "${WORK}/build")
  need("building")
  if(output MATCHES "warning:")
    message(FATAL_ERROR "the build warns:\n${output}")
  endif()
  execute_process(COMMAND "${WORK}/build/app"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  need("running the program")
  if(NOT output MATCHES "${words}")
    message(FATAL_ERROR "expected the program to print ${words}, got:\n${output}")
  endif()
endfunction()

# Installs alkn and moves the tree; it is then in WORK/moved.
function(install_and_move)
  cmake_call(CALL --install "${BUILD}" --prefix "${WORK}/installed")
  need("installing")
  file(RENAME "${WORK}/installed" "${WORK}/moved")
endfunction()

# expect_configures(ARGS <arguments>...): tests/consumer/probe must configure.
# expect_error(<words> ARGS <arguments>...): it must not, and say these words.
function(expect_configures)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "ARGS")
  file(REMOVE_RECURSE "${WORK}/probe")
  cmake_call(CALL -S "${SOURCE}/tests/consumer/probe" -B "${WORK}/probe" -G "${GENERATOR}"
             "-DCMAKE_CXX_COMPILER=${COMPILER}" ${arg_ARGS})
  need("configuring with ${arg_ARGS}")
endfunction()

function(expect_error words)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "ARGS")
  file(REMOVE_RECURSE "${WORK}/probe")
  cmake_call(CALL -S "${SOURCE}/tests/consumer/probe" -B "${WORK}/probe" -G "${GENERATOR}"
             "-DCMAKE_CXX_COMPILER=${COMPILER}" ${arg_ARGS})
  if(result EQUAL 0)
    message(FATAL_ERROR "configured with ${arg_ARGS}; expected the error: ${words}")
  endif()
  string(REGEX REPLACE "[ \n]+" " " line "${output}")
  string(FIND "${line}" "${words}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "with ${arg_ARGS}: expected the error\n  ${words}\ngot\n${output}")
  endif()
endfunction()

# Configures tests/consumer/<project> without a build type, unless ARGS have one, and wants a warning
# of it or none.
function(expect_build_type_warning wanted project)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "ARGS")
  file(REMOVE_RECURSE "${WORK}/untyped")
  unset(ENV{CMAKE_BUILD_TYPE})
  cmake_call(CALL -S "${SOURCE}/tests/consumer/${project}" -B "${WORK}/untyped" -G "${GENERATOR}"
             "-DCMAKE_CXX_COMPILER=${COMPILER}" ${arg_ARGS})
  need("configuring ${project} with ${arg_ARGS}")
  string(REGEX REPLACE "[ \n]+" " " line "${output}")
  string(FIND "${line}" "alkn: this project has no build type, so that its compiler does not optimise: \
a step takes five times as long. Configure with -DCMAKE_BUILD_TYPE=Release, or let the project set a \
default before it looks for alkn" position)
  if(wanted AND position EQUAL -1)
    message(FATAL_ERROR "with ${arg_ARGS}: expected a warning of the build type, got\n${output}")
  elseif(NOT wanted AND NOT position EQUAL -1)
    message(FATAL_ERROR "with ${arg_ARGS}: expected no warning of the build type, got\n${output}")
  endif()
endfunction()

# configure_two_folders(<component> <source> ARGS <arguments>...): several folders of one project ask
# for alkn, two of them for a component with a target of its name; a function may be the first.
function(configure_two_folders component source)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "ARGS")
  file(WRITE "${WORK}/folders/CMakeLists.txt" [[
cmake_minimum_required(VERSION 3.24)
project(folders LANGUAGES CXX)
function(find)
  find_package(alkn REQUIRED)
endfunction()
find()
add_subdirectory(a)
add_subdirectory(b)
]])
  foreach(folder IN ITEMS a b)
    file(WRITE "${WORK}/folders/${folder}/CMakeLists.txt" "
find_package(alkn REQUIRED COMPONENTS ${component})
add_executable(app_${folder} \"${source}\")
target_link_libraries(app_${folder} PRIVATE alkn::${component})
")
  endforeach()
  cmake_call(CALL -S "${WORK}/folders" -B "${WORK}/folders/build" -G "${GENERATOR}"
             "-DCMAKE_CXX_COMPILER=${COMPILER}" ${arg_ARGS})
  need("configuring a project that asks for alkn::${component} in two folders")
endfunction()
