// Chooses the code that takes a step, by where the parameters are and what the program links.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>
#include <alkn/backend.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/tensor/cuda_table.hpp>

#include <string_view>

namespace alkn::detail {

/// The kernels for a CUDA device; throws where the program has none.
inline const CudaTable& need_cuda_table(int device, std::string_view owner, std::string_view name) {
  TORCH_CHECK_VALUE(
      has_cuda_table(), "alkn::", owner,
      ": expected the program to link alkn::cuda for CUDA tensors, or Backend::aten, got "
      "neither (parameter \"",
      name, "\")");
  const CudaTable* table = find_cuda_table(device);
  TORCH_CHECK_VALUE(table != nullptr, "alkn::", owner,
                    ": expected alkn::cuda to be compiled for the architecture of cuda:", device,
                    " (CMAKE_CUDA_ARCHITECTURES), or Backend::aten, got neither (parameter \"",
                    name, "\")");
  return *table;
}

/// The backend that will step `param`; throws where the asked one cannot.
/// @param owner, name for the error's text
inline Backend resolve_backend(Backend asked, const Tensor& param, std::string_view owner,
                               std::string_view name) {
  if (asked == Backend::aten) return Backend::aten;
  if (asked == Backend::cpu) {
    TORCH_CHECK_VALUE(fused_on_cpu(param), "alkn::", owner,
                      ": expected CPU tensors of float, bfloat16 or half for Backend::cpu, got ",
                      param.scalar_type(), " on ", param.device(), " (parameter \"", name, "\")");
    return Backend::cpu;
  }
  if (asked == Backend::cuda) {
    TORCH_CHECK_VALUE(fused_on_cuda(param), "alkn::", owner,
                      ": expected CUDA tensors of float, bfloat16 or half for Backend::cuda, got ",
                      param.scalar_type(), " on ", param.device(), " (parameter \"", name, "\")");
  }
  if (fused_on_cuda(param)) {
    need_cuda_table(param.device().index(), owner, name);
    return Backend::cuda;
  }
  return fused_on_cpu(param) ? Backend::cpu : Backend::aten;
}

/// The one backend of a step over several parameters: that of each, or `aten` where one needs it.
class CommonBackend {
 public:
  CommonBackend(Backend asked, std::string_view owner) : asked_(asked), owner_(owner) {}

  /// Throws where the fused kernels would have to be on the CPU and on CUDA.
  void add(const Tensor& param, std::string_view name) {
    const Backend backend = resolve_backend(asked_, param, owner_, name);
    if (common_ == Backend::automatic) {
      common_ = backend;
      device_ = param.device();
    } else if (backend == Backend::aten || common_ == Backend::aten) {
      common_ = Backend::aten;
    } else {
      TORCH_CHECK_VALUE(backend == common_, "alkn::", owner_,
                        ": expected parameters on CUDA devices or on the CPU, or Backend::aten, "
                        "got some on ",
                        device_, " and on ", param.device(), " (parameter \"", name, "\")");
    }
  }
  [[nodiscard]] Backend get() const {
    return common_ == Backend::automatic ? Backend::cpu : common_;
  }

 private:
  Backend asked_;
  std::string_view owner_;
  Backend common_ = Backend::automatic;
  c10::Device device_{c10::DeviceType::CPU};
};

}  // namespace alkn::detail
