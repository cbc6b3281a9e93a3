# The program that scripts/gpu_check.sh runs on one GPU or two, as a project that asks an installed
# alkn for its components cuda and nccl: it compiles and links without a GPU.
include("${CMAKE_CURRENT_LIST_DIR}/../consumer/common.cmake")
install_and_move()
set(prefix "-DCMAKE_PREFIX_PATH=${WORK}/moved;${LIBTORCH}")
set(nvcc "-DCMAKE_CUDA_COMPILER=${NVCC}")

cmake_call(CALL -S "${SOURCE}/tests/cuda/consumer_nccl" -B "${WORK}/without" -G "${GENERATOR}"
           "-DCMAKE_CXX_COMPILER=${COMPILER}" "${prefix}" "${nvcc}" -DALKN_NCCL_INCLUDE_DIR=)
string(REGEX REPLACE "[ \n]+" " " line "${output}")
if(result EQUAL 0 OR NOT line MATCHES "alkn::nccl needs NCCL's headers")
  message(FATAL_ERROR "expected an error of CMake's without NCCL's headers, got ${result}:\n${output}")
endif()

configure("${SOURCE}/tests/cuda/consumer_nccl" ARGS "${prefix}" "${nvcc}")
cmake_call(CALL --build "${WORK}/build")
need("building")
execute_process(COMMAND nm -C --undefined-only "${WORK}/build/app" OUTPUT_VARIABLE symbols)
if(NOT symbols MATCHES "c10d::ProcessGroupNCCL::ProcessGroupNCCL")
  message(FATAL_ERROR "expected a program that makes an NCCL group, got one with the symbols\n${symbols}")
endif()

configure_two_folders(nccl "${SOURCE}/tests/cuda/gpu/processes.cpp" ARGS "${prefix}" "${nvcc}")
