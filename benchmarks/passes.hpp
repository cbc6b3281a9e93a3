// The passes of a step, one by one, each over a span of the arrays of one tensor. No LibTorch in
// here.
#pragma once

#include <alkn/kernel/cpu/arena.hpp>
#include <alkn/kernel/simd/dispatch.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn_bench {

namespace kernel = alkn::kernel;

/// The arrays of a tensor; the passes run over it chunk by chunk.
struct Arrays {
  explicit Arrays(std::int64_t count) : size(count) {
    for (float*& array : arrays) {
      array = arena.allocate_array<float>(size);
      for (std::int64_t i = 0; i < size; ++i) {
        const std::int64_t number = (i * 7919 + (&array - arrays) * 104729) % 4000;
        array[i] = static_cast<float>(2 * number - 3999) * 0.5e-6F;  // never zero
      }
    }
    for (std::int64_t i = 0; i < size; ++i) arrays[3][i] = 1e-6F;  // second moments
    mask = arena.allocate_array<std::uint64_t>((size + 63) / 64);
    for (int k = 0; k < 3; ++k) {
      const float* wide = arrays[k < 2 ? 2 + k : 5];
      narrow[k] = arena.allocate_array<std::uint16_t>(size);
      for (std::int64_t i = 0; i < size; ++i) narrow[k][i] = kernel::float_to_bfloat16(wide[i]);
    }
  }
  [[nodiscard]] kernel::SumPass sums(std::int64_t i, std::int64_t count) const {
    static double lanes[3 * kernel::tuning::kSumLanes];
    kernel::SumPass pass;
    pass.size = pass.ahead.size = count, pass.lanes = lanes;
    pass.grad = arrays[0] + i, pass.retain = arrays[4] + i;
    return pass;
  }
  [[nodiscard]] kernel::UpdatePass update(std::int64_t i, std::int64_t count) const {
    kernel::UpdatePass pass;
    pass.size = pass.ahead.size = count;
    pass.grad = arrays[0] + i, pass.param = arrays[1] + i;
    pass.exp_avg = arrays[2] + i, pass.exp_avg_sq = arrays[3] + i;
    pass.retain = arrays[4] + i, pass.score = arrays[5] + i;
    pass.mask = mask + i / 64;
    pass.threshold = -1;  // all on: the moment of a masked entry would decay to denormal numbers
    return pass;
  }
  kernel::Arena arena;
  std::int64_t size;
  float* arrays[6] = {};          // g, theta, the moments, G_r, m
  std::uint16_t* narrow[3] = {};  // of a compact state: the moments, m
  std::uint64_t* mask = nullptr;
};

inline float values[kernel::tuning::kChunk + kernel::kCandidateSlack];
inline std::uint16_t indices[kernel::tuning::kChunk + kernel::kCandidateSlack];

struct Pass {
  const char* name;
  int bytes;
  void (*run)(const kernel::Kernels& k, const Arrays& a, std::int64_t i, std::int64_t count);
};
inline const Pass kPasses[] = {
    {"sum_squares", 4,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.sum_squares(a.sums(i, n));
     }},
    {"sum_products", 8,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.sum_products(a.sums(i, n));
     }},
    {"score_select", 16,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       kernel::PivotCounts counts;
       kernel::Candidates found{values, indices, kernel::tuning::kChunk, 0, false};
       kernel::ScorePass pass;
       pass.size = pass.ahead.size = n, pass.grad = a.arrays[0] + i, pass.retain = a.arrays[4] + i;
       pass.score_in = pass.score_out = a.arrays[5] + i;
       pass.mask = a.mask + i / 64;
       pass.pivots = {-1e-3F, -0.99e-3F, 0.99e-3F, 1e-3F, -1e-6F, 1e-6F, true};
       pass.counts = &counts, pass.candidates = &found;
       k.fp32.score_select(pass);
     }},
    {"update_all", 28,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.fp32.update_all[0](a.update(i, n));
     }},
    {"update_bits", 28,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.fp32.update_bits[0](a.update(i, n));
     }},
    {"update_fused", 40,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       static_cast<void>(k.fp32.update_fused[0](a.update(i, n)));
     }},
    {"update_fused, compact", 28,
     [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       kernel::UpdatePass pass = a.update(i, n);
       pass.exp_avg = a.narrow[0] + i, pass.exp_avg_sq = a.narrow[1] + i;
       pass.score = a.narrow[2] + i;
       static_cast<void>(k.compact.update_fused[0](pass));
     }},
    {"negate", 12, [](const auto& k, const Arrays& a, std::int64_t i, std::int64_t n) {
       k.negate(a.arrays[1] + i, a.arrays[4] + i, n, 0.5F);
     }}};

}  // namespace alkn_bench
