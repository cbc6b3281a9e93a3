# alkn inside another project: nothing of ours may show in it.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
set(mode ADD_SUBDIRECTORY)
include("${CMAKE_CURRENT_LIST_DIR}/inside_parent.cmake")

expect_build_type_warning(TRUE parent ARGS "-DCMAKE_PREFIX_PATH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}"
                          "-DMODE=${mode}")
expect_build_type_warning(FALSE parent ARGS "-DCMAKE_PREFIX_PATH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}"
                          "-DMODE=${mode}" -DCMAKE_BUILD_TYPE=Release)
