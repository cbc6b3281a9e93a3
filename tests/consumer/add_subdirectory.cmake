# alkn inside another project: nothing of ours may show in it.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
set(mode ADD_SUBDIRECTORY)
include("${CMAKE_CURRENT_LIST_DIR}/inside_parent.cmake")

execute_process(COMMAND "${WORK}/build/compiled_app"
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
need("running the program with alkn::compiled")
file(GLOB_RECURSE object "${WORK}/build/CMakeFiles/compiled_app.dir/*small.cpp.o")
execute_process(COMMAND nm -C "${object}" OUTPUT_VARIABLE symbols RESULT_VARIABLE result)
need("nm")
if(NOT symbols MATCHES "U alkn::token_log_probability")
  message(FATAL_ERROR "the object of a program with alkn::compiled does not refer to its functions:\n${symbols}")
endif()

expect_build_type_warning(TRUE parent ARGS "-DCMAKE_PREFIX_PATH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}"
                          "-DMODE=${mode}")
expect_build_type_warning(FALSE parent ARGS "-DCMAKE_PREFIX_PATH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}"
                          "-DMODE=${mode}" -DCMAKE_BUILD_TYPE=Release)
