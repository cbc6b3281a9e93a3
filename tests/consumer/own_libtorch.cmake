# A project that has LibTorch's targets already: alkn uses them and defines none beside them.
include("${CMAKE_CURRENT_LIST_DIR}/common.cmake")
install_and_move()
configure("${SOURCE}/tests/consumer/own_libtorch" ARGS
          "-DCMAKE_PREFIX_PATH=${WORK}/moved" "-DLIBTORCH=${LIBTORCH}" "-DALKN_FOLDER=${SOURCE}")
build_and_run("mean NLL 2\\.7725")
