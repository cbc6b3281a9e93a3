# alkn::compiled from an install tree that was moved: the same program with the same numbers, from an
# object without the library's code in it.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
install_and_move()
set(hint "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}")
configure("${SOURCE}/tests/consumer/compiled_library" ARGS "${hint}" "-DALKN_FOLDER=${SOURCE}")
build_and_run("forget set, unlearned +0\\.[0-9]+ +ok")

file(GLOB_RECURSE object "${WORK}/build/CMakeFiles/app.dir/*main.cpp.o")
execute_process(COMMAND nm -C --defined-only "${object}" OUTPUT_VARIABLE symbols RESULT_VARIABLE result)
need("nm")
foreach(name IN ITEMS "alkn::kernel::CpuStep::run" "alkn::detail::UnlearnerCore::step("
                      "alkn::AdamW::step(")
  string(FIND "${symbols}" "${name}" position)
  if(NOT position EQUAL -1)
    message(FATAL_ERROR "main.cpp.o has ${name}, which is alkn::compiled's")
  endif()
endforeach()

# A target that links both forms.
cmake_call(CALL -S "${SOURCE}/tests/consumer/compiled_library" -B "${WORK}/both" -G "${GENERATOR}"
           "-DCMAKE_CXX_COMPILER=${COMPILER}" "${hint}" "-DALKN_FOLDER=${SOURCE}" -DBOTH=ON)
if(result EQUAL 0 OR NOT output MATCHES "alkn_form")
  message(FATAL_ERROR "expected an error of CMake's for a target with both forms, got ${result}:\n${output}")
endif()
