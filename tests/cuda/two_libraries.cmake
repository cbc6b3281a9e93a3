# alkn_cuda.cu in two shared libraries for different architectures: they share no kernel by name, and live in one
# process. Gets SOURCE, WORK, LIBTORCH, NVCC and COMPILER.
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(output "${output}" PARENT_SCOPE)
  if(NOT result EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "${command} failed (${result}):\n${output}")
  endif()
endfunction()

file(GLOB folders "${LIBTORCH}/../nvidia/*/lib")
set(paths "-Xlinker=-rpath,${LIBTORCH}/lib")
foreach(folder IN LISTS folders)
  list(APPEND paths "-Xlinker=-rpath,${folder}" "-Xlinker=-rpath-link,${folder}")
endforeach()
foreach(arch IN ITEMS 80 90)
  run("${NVCC}" -ccbin "${COMPILER}" -std=c++17 -O1 -shared -Xcompiler=-fPIC --expt-relaxed-constexpr
      -gencode=arch=compute_${arch},code=sm_${arch} "-I${SOURCE}/include" -isystem "${LIBTORCH}/include"
      "${SOURCE}/include/alkn/cuda/alkn_cuda.cu" -o "${WORK}/libkernels_${arch}.so"
      "-L${LIBTORCH}/lib" -lc10_cuda -lc10 ${paths})
  run(nm -C "${WORK}/libkernels_${arch}.so")
  string(REGEX MATCHALL "archs_[0-9_]+::[^\n]*_launch" kernels "${output}")
  list(REMOVE_DUPLICATES kernels)
  list(LENGTH kernels count)
  if(count LESS 10)
    message(FATAL_ERROR "expected the kernels' names to carry archs_${arch}0, got:\n${kernels}")
  endif()
  set(kernels_${arch} "${kernels}")
endforeach()
foreach(kernel IN LISTS kernels_80)
  if(kernel IN_LIST kernels_90)
    message(FATAL_ERROR "both libraries have ${kernel}")
  endif()
endforeach()
run("${COMPILER}" -std=c++17 -O1 "-I${SOURCE}/include" "${SOURCE}/tests/cuda/two_libraries.cpp"
    -o "${WORK}/two_libraries" -rdynamic -ldl)
run("${WORK}/two_libraries" "${WORK}/libkernels_80.so" "${WORK}/libkernels_90.so")
message("${output}")
