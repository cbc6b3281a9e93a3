// What the row passes need of an instruction set beyond its vector layer (simd/*.inl). No include
// guard: included by token_log_probability.hpp once for each set, inside its namespace and under
// its target attribute.
//   larger(a, b): a where a > b, else b (so b where either is a NaN)
//   scale_by_power(y, t): y 2^n, by adding to y's exponent; n stands in the low bits of
//                         t = 1.5 2^23 + n
//   write_past(out, y): a store that leaves the caches alone; out is aligned to the vector

#if ALKN_ROW_SET == 512
inline F larger(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F scale_by_power(F y, F t) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(y.v), n))};
}
inline void write_past(float* out, F y) { _mm512_stream_ps(out, y.v); }
#elif ALKN_ROW_SET == 256
inline F larger(F a, F b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F scale_by_power(F y, F t) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y.v), n))};
}
inline void write_past(float* out, F y) { _mm256_stream_ps(out, y.v); }
#else
inline F larger(F a, F b) { return a > b ? a : b; }
inline F scale_by_power(F y, F t) {
  return bit_copy<float>(bit_copy<std::uint32_t>(y) + (bit_copy<std::uint32_t>(t) << 23U));
}
inline void write_past(float* out, F y) { *out = y; }
#endif

inline F read(const float* x) { return load(x); }
inline F read(const BFloat16* x) { return widen_bfloat16_at(&x->bits); }
inline F read(const Half* x) { return widen_half_at(&x->bits); }
inline void write(float* out, F y) { store(out, y); }
inline void write(BFloat16* out, F y) { round_bfloat16_at(&out->bits, y); }
inline void write(Half* out, F y) { round_half_at(&out->bits, y); }
