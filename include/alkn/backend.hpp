// Which code takes a step.
#pragma once

#include <cstdint>

namespace alkn {

/// Which code takes the step.
enum class Backend : std::uint8_t {
  automatic,  ///< `cpu` or `cuda` where every parameter is a tensor of float, bfloat16 or half on
              ///< that device, else `aten`
  aten,       ///< plain ATen operations: any device, also double; the readable reference. Needs
              ///< memory in every step: where there is none, some parameters have stepped already
  cpu,        ///< the fused CPU kernels: float, bfloat16 and half
  cuda,       ///< the fused CUDA kernels; the program links alkn::cuda
};

}  // namespace alkn
