// What a step asks of its tensors, checked before it writes anything. C++17, host only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include <alkn/kernel/step.hpp>

namespace alkn::kernel {

/// @param name the class that takes the step, which the errors name
/// @throws std::invalid_argument if a pointer is missing that the step needs, for a negative size
/// and for a state of float16
inline void check_step(const char* name, const StepTensor* tensors, std::int64_t num_tensors,
                       const StepArgs& args) {
  for (std::int64_t i = 0; i < num_tensors; ++i) {
    const StepTensor& t = tensors[i];
    const auto refuse = [&](const std::string& expected, const std::string& got) {
      std::string text = "alkn::kernel::";
      text.append(name).append(": expected ").append(expected).append(", got ").append(got);
      throw std::invalid_argument(text.append(" (tensor ").append(std::to_string(i)).append(")"));
    };
    const auto need = [&](bool there, const char* what) {
      if (!there) refuse(what, "null");
    };
    if (t.size < 0) refuse("a size of at least 0", std::to_string(t.size));
    if (t.size == 0) continue;
    if (t.state_type == DType::float16) refuse("a state of float32 or bfloat16", "float16");
    need(t.grad != nullptr, "a gradient");
    if (args.update == Update::adamw) {
      need(t.param != nullptr, "a parameter");
      need(t.type == DType::float32 || t.master != nullptr, "fp32 masters of a 16-bit parameter");
      need(t.exp_avg != nullptr && t.exp_avg_sq != nullptr, "two moments");
    } else {
      need(t.grad_out != nullptr, "grad_out");
    }
    if (args.mask != MaskKind::none) need(t.mask != nullptr, "a mask");
    if (args.mask == MaskKind::localized) {
      need(t.retain != nullptr, "a retain gradient");
      need(t.score != nullptr, "a score");
    }
  }
}

/// Whether a step has to read all gradients for their norm, or for a deviation, before it writes.
inline bool needs_sums(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
  if (args.check_finite || args.max_norm > 0) return true;
  return args.mask == MaskKind::localized &&
         std::any_of(tensors, tensors + num_tensors,
                     [](const StepTensor& t) { return t.used != nullptr; });
}

}  // namespace alkn::kernel
