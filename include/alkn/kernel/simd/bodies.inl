// All bodies, in the order of their use of each other.
// clang-format off
#include <alkn/kernel/simd/formula.inl>
#include <alkn/kernel/simd/sums.inl>
#include <alkn/kernel/simd/score.inl>
#include <alkn/kernel/simd/update.inl>
#include <alkn/kernel/simd/convert.inl>
#include <alkn/kernel/simd/table.inl>
// clang-format on
