# alkn::nccl: what alkn/dist/nccl.hpp needs beside alkn::dist, NCCL's headers, the CUDA runtime and
# LibTorch's CUDA part, which has the code. Wants alkn_dist_error of AlknDist.cmake; sets
# alkn_nccl_error to the empty string, or to one sentence that says why there is no alkn::nccl.
set(alkn_nccl_error "${alkn_dist_error}")
if(NOT alkn_nccl_error)
  find_package(CUDAToolkit QUIET)  # its targets are each directory's own, alkn::nccl is everybody's
endif()
if(NOT alkn_nccl_error AND NOT TARGET alkn::nccl)
  # Those of LibTorch's own NCCL first: the version is a part of the ABI.
  file(GLOB alkn_nccl_hints "${ALKN_LIBTORCH_DIR}/../nvidia/*/include")
  find_path(ALKN_NCCL_INCLUDE_DIR nccl.h HINTS ${alkn_nccl_hints} ${CUDAToolkit_INCLUDE_DIRS}
            DOC "Folder of NCCL's headers")
  mark_as_advanced(ALKN_NCCL_INCLUDE_DIR)
  set(alkn_torch_cuda "")
  if(TARGET torch_cuda)
    set(alkn_torch_cuda torch_cuda)
  elseif(ALKN_LIBTORCH_DIR AND EXISTS "${ALKN_LIBTORCH_DIR}/lib/libtorch_cuda.so")
    get_filename_component(alkn_torch_cuda "${ALKN_LIBTORCH_DIR}/lib/libtorch_cuda.so" ABSOLUTE)
  endif()
  if(NOT TARGET CUDA::cudart)
    set(alkn_nccl_error "alkn::nccl needs a CUDA toolkit, and none was found: set CUDAToolkit_ROOT to its folder")
  elseif(NOT ALKN_NCCL_INCLUDE_DIR)
    set(alkn_nccl_error "alkn::nccl needs NCCL's headers (nccl.h): install libnccl-dev, or set \
ALKN_NCCL_INCLUDE_DIR to their folder")
  elseif(NOT alkn_torch_cuda)
    set(alkn_nccl_error "this LibTorch was built without CUDA: it has no libtorch_cuda.so")
  else()
    add_library(alkn::nccl INTERFACE IMPORTED GLOBAL)
    target_link_libraries(alkn::nccl INTERFACE alkn::dist ${alkn_torch_cuda} CUDA::cudart)
    target_include_directories(alkn::nccl SYSTEM INTERFACE "${ALKN_NCCL_INCLUDE_DIR}")
    target_compile_definitions(alkn::nccl INTERFACE USE_C10D_NCCL)
  endif()
endif()
