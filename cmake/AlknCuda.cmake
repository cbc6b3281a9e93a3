# alkn::cuda: the CUDA kernels beside alkn::alkn or alkn::compiled; alone it is alkn::alkn with them. Compiles one
# .cu of the library into whatever links it, which
# must be the final program or shared library: in a static library the linker would drop it.
#
# Included at file level, because languages can be enabled only there. Wants ALKN_CUDA_SOURCE, the full path of
# alkn_cuda.cu, and alkn::libtorch; sets alkn_cuda_error to the empty string, or to one sentence that says why
# there is no alkn::cuda.
include(CheckLanguage)

set(alkn_cuda_error "")
if(NOT CMAKE_CUDA_COMPILER)
  check_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER)
  set(alkn_cuda_error "no CUDA compiler was found: install the CUDA toolkit, or set CMAKE_CUDA_COMPILER")
else()
  # The language and its architectures are each directory's own, the target is everybody's. The architectures
  # before the language: its default would be one without our kernels. The last one also as PTX, for GPUs to come.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90")
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit QUIET)
endif()

if(NOT alkn_cuda_error AND NOT TARGET alkn::cuda)
  get_filename_component(alkn_libtorch_lib "${ALKN_LIBTORCH_DIR}/lib" ABSOLUTE)
  if(TARGET c10_cuda)
    set(alkn_cuda_libraries c10_cuda)
  elseif(ALKN_LIBTORCH_DIR AND EXISTS "${alkn_libtorch_lib}/libc10_cuda.so")
    set(alkn_cuda_libraries "${alkn_libtorch_lib}/libc10_cuda.so")
  else()
    set(alkn_cuda_error "this LibTorch was built without CUDA: it has no libc10_cuda.so")
  endif()

  if(NOT alkn_cuda_error)
    # LibTorch has CUDA tensors in programs that load torch_cuda, which nothing refers to by name. An
    # installation that lacks what torch_cuda needs cannot load it, nor use a GPU.
    if(NOT TARGET torch_cuda)
      execute_process(COMMAND ldd "${alkn_libtorch_lib}/libtorch_cuda.so"
                      OUTPUT_VARIABLE alkn_ldd ERROR_QUIET RESULT_VARIABLE alkn_ldd_result)
      if(alkn_ldd_result EQUAL 0 AND NOT alkn_ldd MATCHES "not found")
        list(APPEND alkn_cuda_libraries
             "-Wl,--push-state,--no-as-needed,${alkn_libtorch_lib}/libtorch_cuda.so,--pop-state")
      else()
        message(STATUS "alkn: ${alkn_libtorch_lib}/libtorch_cuda.so lacks libraries that it needs and is not linked: \
programs will find no GPU")
      endif()
    else()
      list(APPEND alkn_cuda_libraries torch_cuda)
    endif()

    add_library(alkn::cuda INTERFACE IMPORTED GLOBAL)
    set_property(TARGET alkn::cuda PROPERTY INTERFACE_SOURCES "${ALKN_CUDA_SOURCE}")
    target_link_libraries(alkn::cuda INTERFACE alkn::base ${alkn_cuda_libraries} CUDA::cudart)
    target_compile_features(alkn::cuda INTERFACE cuda_std_17)
    # The kernels have the bits of the CPU's: no --use_fast_math of the program may change them.
    target_compile_options(alkn::cuda INTERFACE
      $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:--expt-relaxed-constexpr;--ftz=false;--prec-div=true;--prec-sqrt=true>)
  endif()
endif()
