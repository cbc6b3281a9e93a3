// Whether a step's pointers are where the kernels can use them. Host code without CUDA: what knows
// where a pointer points is handed in.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {

/// The place of a pointer that no device owns.
inline constexpr int kHostPlace = -1;

/// Calls f(name, pointer) on every array of a tensor that a step uses.
template <class F>
void for_arrays(const StepTensor& t, const StepArgs& args, F f) {
  if (t.size == 0) return;
  const bool adamw = args.update == Update::adamw;
  const bool localized = args.mask == MaskKind::localized;
  f("gradient", t.grad);
  f("parameter", adamw ? t.param : nullptr);
  f("master", adamw ? t.master : nullptr);
  f("first moment", adamw ? t.exp_avg : nullptr);
  f("second moment", adamw ? t.exp_avg_sq : nullptr);
  f("grad_out", adamw ? nullptr : t.grad_out);
  f("retain gradient", localized ? t.retain : nullptr);
  f("score", localized ? t.score : nullptr);
  f("union mask", localized ? t.used : nullptr);
  f("mask", args.mask != MaskKind::none ? t.mask : nullptr);
}
inline constexpr std::size_t kNumArrays = 10;

/// The pointers of the last step, which are not asked about again.
using KnownPlaces = std::vector<const void*>;

/// Throws std::invalid_argument unless every pointer is on `device`; asks only for those that the
/// last step did not have.
/// @param place_of callable: the device of a pointer, or kHostPlace
template <class PlaceOf>
void check_places(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                  int device, PlaceOf place_of, KnownPlaces& known) {
  known.resize(static_cast<std::size_t>(num_tensors) * kNumArrays, nullptr);
  std::size_t i = 0;
  for (std::int64_t t = 0; t < num_tensors; ++t) {
    i = static_cast<std::size_t>(t) * kNumArrays;
    for_arrays(tensors[t], args, [&](const char* name, const void* p) {
      const std::size_t at = i++;
      if (p == nullptr || known[at] == p) return;
      known[at] = nullptr;
      const int place = place_of(p);
      if (place != device) {
        throw std::invalid_argument(std::string("alkn::kernel::CudaStep: expected a ") + name +
                                    " on cuda:" + std::to_string(device) + ", got " +
                                    (place == kHostPlace ? std::string("a host pointer")
                                                         : "one on cuda:" + std::to_string(place)) +
                                    " (tensor " + std::to_string(t) + ")");
      }
      known[at] = p;
    });
  }
}

}  // namespace alkn::kernel::cuda
