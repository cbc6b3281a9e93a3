// The parameters of the score's formula, from the option to the lane (spec: section 3). C++17, host
// and device.
#pragma once

#include <cstdint>

namespace alkn::kernel {

/// How the score m grows.
enum class ScoreKind : std::uint8_t {
  product,  ///< d = g G_r,            m += a d;  `StepTensor::retain` holds G_r
  ratio,    ///< d = |g| r,            m += d;    it holds r = 1 / (|G_r| + mean|G_r| + 1e-30)
};

/// The deviation mu of the penalty m -= mu k M.
enum class PenaltyScale : std::uint8_t {
  product,   ///< mu = unbiased standard deviation of d over the tensor
  gradient,  ///< mu = unbiased standard deviation of the clipped g over the tensor
};

/// What a user sets of the formula, rounded to fp32 where it is computed; simd/formula.inl computes
/// it, step/aten.hpp once more as the reference.
struct ScoreFormula {
  ScoreKind kind = ScoreKind::product;
  PenaltyScale penalty_scale = PenaltyScale::product;
  double alignment = 1;  ///< a; ScoreKind::ratio has none
  double penalty = 0;    ///< k
};

/// The formula for one tensor and step.
struct ScoreNumbers {
  float scale = 1;       ///< clip scale
  float penalty = 0;     ///< mu k
  ScoreFormula formula;  ///< alignment: 1 for ScoreKind::ratio
};

}  // namespace alkn::kernel
