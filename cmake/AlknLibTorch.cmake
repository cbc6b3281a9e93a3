# alkn_find_libtorch(<error>): defines alkn::libtorch, LibTorch's CPU part (torch_cpu and c10).
#
# Where the project already has LibTorch's targets (its own find_package(Torch)), they are used.
# Else imported targets are made from the folder of TorchConfig.cmake, which itself is not run: it
# asks for a CUDA toolkit and changes flags, architectures and languages of whoever calls it.
# <error> is set to the empty string, or to one sentence that says why there is no alkn::libtorch.
#
# Also sets ALKN_LIBTORCH_DIR, the folder with LibTorch's lib/ and include/, where it was found
# here.
include_guard(GLOBAL)

# at::parallel_for is inlined into the including file and silently serial where that was compiled
# without OpenMP. OpenMP::OpenMP_CXX would name a second libgomp beside the one that the pip wheel
# brings.
function(_alkn_add_openmp target)
  target_compile_options(${target} INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  target_link_options(${target} INTERFACE $<$<LINK_LANGUAGE:CXX>:-fopenmp>
                                          $<$<LINK_LANGUAGE:CUDA>:-Xcompiler=-fopenmp>)
endfunction()

# Sets <result> to the full path of a TorchConfig.cmake, or to nothing.
function(_alkn_find_torch_config result)
  set(prefixes ${Torch_DIR} ${Torch_ROOT} $ENV{Torch_ROOT} ${CMAKE_PREFIX_PATH})
  string(REPLACE ":" ";" environment_prefixes "$ENV{CMAKE_PREFIX_PATH}")
  list(APPEND prefixes ${environment_prefixes})
  if(ALKN_LIBTORCH_FALLBACK_PREFIX)
    list(APPEND prefixes ${ALKN_LIBTORCH_FALLBACK_PREFIX})
  endif()
  set(${result} "" PARENT_SCOPE)
  foreach(prefix IN LISTS prefixes)
    file(GLOB configs
         "${prefix}/TorchConfig.cmake"
         "${prefix}/Torch/TorchConfig.cmake"
         "${prefix}/share/cmake/Torch/TorchConfig.cmake"
         "${prefix}/torch/share/cmake/Torch/TorchConfig.cmake"
         "${prefix}/lib/python3*/site-packages/torch/share/cmake/Torch/TorchConfig.cmake"
         "${prefix}/lib/cmake/Torch/TorchConfig.cmake")
    if(configs)
      list(GET configs 0 config)
      set(${result} "${config}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# LibTorch's targets of the project around us: those of find_package(Torch), or its own by these
# names.
function(_alkn_use_libtorch_of_project)
  add_library(alkn::libtorch INTERFACE IMPORTED GLOBAL)
  if(TARGET torch_cpu_library)  # torch_cpu without the linker's as-needed
    target_link_libraries(alkn::libtorch INTERFACE torch_cpu_library c10)
  elseif(TARGET torch_cpu)
    target_link_libraries(alkn::libtorch INTERFACE torch_cpu $<TARGET_NAME_IF_EXISTS:c10>)
  else()
    target_link_libraries(alkn::libtorch INTERFACE torch)
  endif()
  if(TARGET torch)  # torch_cpu_library knows no include folders
    target_include_directories(alkn::libtorch SYSTEM INTERFACE
                               $<TARGET_PROPERTY:torch,INTERFACE_INCLUDE_DIRECTORIES>)
  endif()
  _alkn_add_openmp(alkn::libtorch)
endfunction()

function(alkn_find_libtorch error)
  set(${error} "" PARENT_SCOPE)
  if(TARGET alkn::libtorch)  # by an earlier call, maybe in another directory
    get_property(folder GLOBAL PROPERTY ALKN_LIBTORCH_DIR)
    set(ALKN_LIBTORCH_DIR "${folder}" PARENT_SCOPE)
    return()
  endif()
  if(TARGET torch OR TARGET torch_cpu)
    _alkn_use_libtorch_of_project()
    return()
  endif()

  _alkn_find_torch_config(config)
  if(NOT config)
    set(${error} "LibTorch was not found: add the folder that holds it (libtorch/, or the torch/ \
of a Python environment) to CMAKE_PREFIX_PATH" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(folder "${config}/../../../.." ABSOLUTE)
  foreach(file IN ITEMS lib/libtorch_cpu.so lib/libc10.so include/ATen/core/Tensor.h
                        include/torch/csrc/api/include/torch/optim/optimizer.h)
    if(NOT EXISTS "${folder}/${file}")
      set(${error} "${folder} holds a TorchConfig.cmake but no ${file}: not a complete LibTorch"
          PARENT_SCOPE)
      return()
    endif()
  endforeach()

  foreach(name IN ITEMS c10 torch_cpu)
    add_library(alkn::${name} SHARED IMPORTED GLOBAL)
    set_target_properties(alkn::${name} PROPERTIES IMPORTED_LOCATION "${folder}/lib/lib${name}.so")
  endforeach()
  set_target_properties(alkn::torch_cpu PROPERTIES INTERFACE_LINK_LIBRARIES alkn::c10)

  add_library(alkn::libtorch INTERFACE IMPORTED GLOBAL)
  target_include_directories(alkn::libtorch SYSTEM INTERFACE
                             "${folder}/include" "${folder}/include/torch/csrc/api/include")
  target_link_libraries(alkn::libtorch INTERFACE alkn::torch_cpu alkn::c10)
  _alkn_add_openmp(alkn::libtorch)
  # What torch_cpu itself needs (the CUDA runtime, from wheels beside it or from a toolkit): the
  # loader finds it by torch_cpu's own search path, the linker has to be told.
  file(GLOB neighbours "${folder}/../nvidia/*/lib")
  foreach(neighbour IN LISTS neighbours ITEMS "${folder}/lib")
    get_filename_component(neighbour "${neighbour}" ABSOLUTE)
    target_link_options(alkn::libtorch INTERFACE "LINKER:-rpath-link,${neighbour}")
  endforeach()

  set(ALKN_LIBTORCH_DIR "${folder}" PARENT_SCOPE)
  set_property(GLOBAL PROPERTY ALKN_LIBTORCH_DIR "${folder}")
  if(NOT alkn_FIND_QUIETLY)
    message(STATUS "alkn: LibTorch in ${folder}")
  endif()
endfunction()
