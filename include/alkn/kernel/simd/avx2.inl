// Eight elements at a time, with AVX2, FMA and F16C. See simd/kernels.hpp.

inline constexpr int kWidth = 8;
inline constexpr int kDoubles = 4;
inline constexpr int kSquareVectors = 8;
inline constexpr int kProductVectors = 4;

struct F {
  __m256 v;
};
struct D {
  __m256d v;
};
struct M {
  __m256 v;
};  // all bits of a lane, or none

ALKN_INLINE F set(float x) { return {_mm256_set1_ps(x)}; }
ALKN_INLINE F load(const float* p) { return {_mm256_loadu_ps(p)}; }
ALKN_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x.v); }
ALKN_INLINE F add(F a, F b) { return {_mm256_add_ps(a.v, b.v)}; }
ALKN_INLINE F sub(F a, F b) { return {_mm256_sub_ps(a.v, b.v)}; }
ALKN_INLINE F mul(F a, F b) { return {_mm256_mul_ps(a.v, b.v)}; }
ALKN_INLINE F div(F a, F b) { return {_mm256_div_ps(a.v, b.v)}; }
ALKN_INLINE F neg(F a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0F))}; }
ALKN_INLINE F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
ALKN_INLINE F operand(F x) { return x; }  // the processor flushes it
ALKN_INLINE F root(F a) { return {_mm256_sqrt_ps(a.v)}; }
ALKN_INLINE F sign_mask(bool keep_sign) {
  return {_mm256_castsi256_ps(_mm256_set1_epi32(keep_sign ? -1 : 0x7FFFFFFF))};
}
ALKN_INLINE F bit_and(F a, F b) { return {_mm256_and_ps(a.v, b.v)}; }

ALKN_INLINE M greater(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
ALKN_INLINE M not_less(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NLT_UQ)}; }
ALKN_INLINE M not_greater_equal(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NGE_UQ)}; }
ALKN_INLINE M not_less_equal(F a, F b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NLE_UQ)}; }
ALKN_INLINE M less_equal_where(M m, F a, F b) {
  return {_mm256_and_ps(m.v, _mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ))};
}
ALKN_INLINE M and_not(M a, M b) { return {_mm256_andnot_ps(b.v, a.v)}; }
ALKN_INLINE M either(M a, M b) { return {_mm256_or_ps(a.v, b.v)}; }
ALKN_INLINE M all_if(bool on) { return {_mm256_castsi256_ps(_mm256_set1_epi32(on ? -1 : 0))}; }
ALKN_INLINE M mask_at(std::uint64_t word, int shift) {
  const __m256i lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i byte = _mm256_set1_epi32(static_cast<int>((word >> shift) & 0xFFU));
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(byte, lane_bits), lane_bits))};
}
ALKN_INLINE std::uint64_t bits_of(M m) { return static_cast<unsigned>(_mm256_movemask_ps(m.v)); }
ALKN_INLINE F blend(M m, F on, F off) { return {_mm256_blendv_ps(off.v, on.v, m.v)}; }
ALKN_INLINE F keep_if(M m, F a) { return {_mm256_and_ps(m.v, a.v)}; }

struct Counter {
  __m256i count = _mm256_setzero_si256();  // a lane counts at most 2^31: a span has 2^16 elements
  void add(M m) { count = _mm256_sub_epi32(count, _mm256_castps_si256(m.v)); }
  [[nodiscard]] std::int64_t total() const {
    alignas(32) std::int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), count);
    std::int64_t sum = 0;
    for (const std::int32_t lane : lanes) sum += lane;
    return sum;
  }
};

struct U {
  __m256i v;
};  // bits of a lane
ALKN_INLINE U set_bits(std::uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x))}; }
ALKN_INLINE U bits_in(F x) { return {_mm256_castps_si256(x.v)}; }
ALKN_INLINE F value_of(U x) { return {_mm256_castsi256_ps(x.v)}; }
ALKN_INLINE U add(U a, U b) { return {_mm256_add_epi32(a.v, b.v)}; }
ALKN_INLINE U mul(U a, U b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
ALKN_INLINE U bit_and(U a, U b) { return {_mm256_and_si256(a.v, b.v)}; }
ALKN_INLINE U bit_xor(U a, U b) { return {_mm256_xor_si256(a.v, b.v)}; }
ALKN_INLINE U ones_where(M m, U a) { return {_mm256_or_si256(_mm256_castps_si256(m.v), a.v)}; }
template <int kBits>
ALKN_INLINE U shift_right(U a) {
  return {_mm256_srli_epi32(a.v, kBits)};
}
ALKN_INLINE U numbers_from(std::uint32_t first) {
  return {_mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)),
                           _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))};
}
ALKN_INLINE void store_upper(std::uint16_t* p, U x) {
  const __m256i halves = _mm256_srli_epi32(x.v, 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}

ALKN_INLINE D set_double(double x) { return {_mm256_set1_pd(x)}; }
ALKN_INLINE D load_double(const double* p) { return {_mm256_loadu_pd(p)}; }
ALKN_INLINE void store_double(double* p, D x) { _mm256_storeu_pd(p, x.v); }
ALKN_INLINE D widen(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
ALKN_INLINE D add(D a, D b) { return {_mm256_add_pd(a.v, b.v)}; }
ALKN_INLINE D mul(D a, D b) { return {_mm256_mul_pd(a.v, b.v)}; }
ALKN_INLINE D fma(D a, D b, D c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
ALKN_INLINE D sign_mask_double(bool keep_sign) {
  return {_mm256_castsi256_pd(_mm256_set1_epi64x(keep_sign ? -1 : 0x7FFFFFFFFFFFFFFF))};
}
ALKN_INLINE D bit_and(D a, D b) { return {_mm256_and_pd(a.v, b.v)}; }

ALKN_INLINE F widen_bfloat16_at(const std::uint16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
}
ALKN_INLINE F widen_half_at(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
ALKN_INLINE __m256 quiet_nan(__m256 x) {
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
  return _mm256_blendv_ps(x, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
ALKN_INLINE void round_bfloat16_at(std::uint16_t* p, F x) {
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  const __m256i rounded =
      _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_set1_epi32(0x7FC0), is_nan);
  const __m128i low = _mm256_castsi256_si128(rounded);
  const __m128i high = _mm256_extracti128_si256(rounded, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
}
ALKN_INLINE void round_half_at(std::uint16_t* p, F x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(quiet_nan(x.v), _MM_FROUND_TO_NEAREST_INT));
}
