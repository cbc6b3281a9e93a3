# A project that asks an installed alkn for its component cuda: five lines of CMake, no flag, no trap. Without a GPU
# its program ends with a clear message.
include("${CMAKE_CURRENT_LIST_DIR}/../consumer/common.cmake")
install_and_move()

file(COPY "${SOURCE}/tests/cuda/consumer" DESTINATION "${WORK}")
configure("${WORK}/consumer" ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}" "-DCMAKE_CUDA_COMPILER=${NVCC}")
build_and_run("no CUDA device|a CUDA device: the bits of the CPU")

# A program with --use_fast_math keeps the kernels' arithmetic: our flags come last.
file(STRINGS "${WORK}/build/compile_commands.json" commands REGEX "alkn_cuda\\.cu")
foreach(flag IN ITEMS "--ftz=false" "--prec-div=true" "--prec-sqrt=true" "sm_80" "sm_90")
  string(FIND "${commands}" "${flag}" position)
  if(position EQUAL -1)
    message(FATAL_ERROR "expected ${flag} where alkn_cuda.cu is compiled, got:\n${commands}")
  endif()
endforeach()

configure_two_folders(cuda "${WORK}/consumer/main.cpp" ARGS "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}"
                      "-DCMAKE_CUDA_COMPILER=${NVCC}")
