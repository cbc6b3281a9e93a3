# alkn::dist: what alkn/dist/gloo.hpp needs beside the library, Gloo's headers. Its code is in
# LibTorch. Sets alkn_dist_error where they are missing.
set(alkn_dist_error "")
if(NOT TARGET alkn::dist)
  find_path(ALKN_GLOO_INCLUDE_DIR gloo/algorithm.h DOC "Folder of Gloo's headers")
  mark_as_advanced(ALKN_GLOO_INCLUDE_DIR)
  if(ALKN_GLOO_INCLUDE_DIR)
    add_library(alkn::dist INTERFACE IMPORTED GLOBAL)
    target_link_libraries(alkn::dist INTERFACE alkn::base)
    target_include_directories(alkn::dist SYSTEM INTERFACE "${ALKN_GLOO_INCLUDE_DIR}")
    target_compile_definitions(alkn::dist INTERFACE USE_C10D_GLOO)
  else()
    set(alkn_dist_error "alkn::dist needs Gloo's headers (gloo/algorithm.h): install libgloo-dev, \
or set ALKN_GLOO_INCLUDE_DIR to their folder")
  endif()
endif()
