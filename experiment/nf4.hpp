// 4-bit NormalFloat: what is left of a model after its linear weights went through 4 bits.
//
// Source: Dettmers et al., "QLoRA: Efficient finetuning of quantized LLMs" (2023), appendix E: the
// sixteen values, and blocks of 64 weights that are scaled by their largest magnitude.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace experiment {

inline constexpr std::array<float, 16> kNf4Values{-1.0F,
                                                  -0.6961928009986877F,
                                                  -0.5250730514526367F,
                                                  -0.39491748809814453F,
                                                  -0.28444138169288635F,
                                                  -0.18477343022823334F,
                                                  -0.09105003625154495F,
                                                  0.0F,
                                                  0.07958029955625534F,
                                                  0.16093020141124725F,
                                                  0.24611230194568634F,
                                                  0.33791524171829224F,
                                                  0.44070982933044434F,
                                                  0.5626170039176941F,
                                                  0.7229568362236023F,
                                                  1.0F};
inline constexpr std::size_t kNf4Block = 64;

/// Replaces weights, in blocks of 64 in their order, by their nearest 4-bit values.
/// @returns the codes, 0 to 15, one a weight
inline std::vector<std::uint8_t> nf4_round_trip(std::span<float> weights) {
  std::vector<std::uint8_t> codes(weights.size());
  for (std::size_t begin = 0; begin < weights.size(); begin += kNf4Block) {
    const std::size_t end = std::min(begin + kNf4Block, weights.size());
    float scale = 0;
    for (std::size_t i = begin; i < end; ++i) {
      scale = std::max(scale, std::abs(weights[i]));
    }
    for (std::size_t i = begin; i < end; ++i) {
      const float value = scale > 0 ? weights[i] / scale : 0.0F;
      std::size_t best = 0;
      for (std::size_t code = 1; code < kNf4Values.size(); ++code) {
        if (std::abs(kNf4Values[code] - value) < std::abs(kNf4Values[best] - value)) {
          best = code;
        }
      }
      codes[i] = static_cast<std::uint8_t>(best);
      weights[i] = kNf4Values[best] * scale;
    }
  }
  return codes;
}

}  // namespace experiment
