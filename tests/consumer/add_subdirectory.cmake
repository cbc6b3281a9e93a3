# alkn inside another project: nothing of ours may show in it.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
set(mode ADD_SUBDIRECTORY)
include("${CMAKE_CURRENT_LIST_DIR}/inside_parent.cmake")
