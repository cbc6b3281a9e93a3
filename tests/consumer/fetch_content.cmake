# The same by FetchContent.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
set(mode FETCH_CONTENT)
include("${CMAKE_CURRENT_LIST_DIR}/inside_parent.cmake")
