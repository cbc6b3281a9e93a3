# Warns a project whose compiler will not optimise: alkn is headers, its kernels are compiled there.
function(alkn_warn_if_not_optimised)
  if(CMAKE_CONFIGURATION_TYPES OR CMAKE_BUILD_TYPE OR CMAKE_CXX_FLAGS MATCHES "(^| )-O[^0]")
    return()
  endif()
  message(WARNING "alkn: this project has no build type, so that its compiler does not optimise: a \
step takes five times as long. Configure with -DCMAKE_BUILD_TYPE=Release, or let the project set a \
default before it looks for alkn")
endfunction()
