// Sixteen elements at a time, with AVX-512 F, BW, DQ, VL. See simd/kernels.hpp.

inline constexpr int kWidth = 16;
inline constexpr int kDoubles = 8;
inline constexpr int kSquareVectors = 16;
inline constexpr int kProductVectors = 4;

// Some unmasked intrinsics of g++ 12 warn of their own uninitialised variables; with a full mask
// they do not, and compile to the same instruction.
inline constexpr __mmask8 kAll8 = 0xFF;
inline constexpr __mmask16 kAll16 = 0xFFFF;

struct F {
  __m512 v;
};
struct D {
  __m512d v;
};
struct M {
  __mmask16 v;
};

ALKN_INLINE F set(float x) { return {_mm512_set1_ps(x)}; }
ALKN_INLINE F load(const float* p) { return {_mm512_loadu_ps(p)}; }
ALKN_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
ALKN_INLINE F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
ALKN_INLINE F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
ALKN_INLINE F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
ALKN_INLINE F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
ALKN_INLINE F neg(F a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0F))}; }
ALKN_INLINE F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ALKN_INLINE F operand(F x) { return x; }  // the processor flushes it
ALKN_INLINE F root(F a) { return {_mm512_maskz_sqrt_ps(kAll16, a.v)}; }
ALKN_INLINE F sign_mask(bool keep_sign) {
  return {_mm512_castsi512_ps(_mm512_set1_epi32(keep_sign ? -1 : 0x7FFFFFFF))};
}
ALKN_INLINE F bit_and(F a, F b) { return {_mm512_and_ps(a.v, b.v)}; }

ALKN_INLINE M greater(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
ALKN_INLINE M not_less(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ)}; }
ALKN_INLINE M not_greater_equal(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NGE_UQ)}; }
ALKN_INLINE M not_less_equal(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ)}; }
ALKN_INLINE M less_equal_where(M m, F a, F b) {
  return {_mm512_mask_cmp_ps_mask(m.v, a.v, b.v, _CMP_LE_OQ)};
}
ALKN_INLINE M and_not(M a, M b) { return {_kandn_mask16(b.v, a.v)}; }
ALKN_INLINE M either(M a, M b) { return {_kor_mask16(a.v, b.v)}; }
ALKN_INLINE M all_if(bool on) { return {static_cast<__mmask16>(on ? 0xFFFFU : 0U)}; }
ALKN_INLINE M mask_at(std::uint64_t word, int shift) {
  return {static_cast<__mmask16>(word >> shift)};
}
ALKN_INLINE std::uint64_t bits_of(M m) { return static_cast<std::uint64_t>(m.v); }
ALKN_INLINE F blend(M m, F on, F off) { return {_mm512_mask_blend_ps(m.v, off.v, on.v)}; }
ALKN_INLINE F keep_if(M m, F a) { return {_mm512_maskz_mov_ps(m.v, a.v)}; }

struct Counter {
  __m512i count = _mm512_setzero_si512();
  void add(M m) { count = _mm512_mask_sub_epi32(count, m.v, count, _mm512_set1_epi32(-1)); }
  [[nodiscard]] std::int64_t total() const {
    alignas(64) std::int32_t lanes[16];
    _mm512_store_si512(lanes, count);
    std::int64_t sum = 0;
    for (const std::int32_t lane : lanes) sum += lane;
    return sum;
  }
};

struct U {
  __m512i v;
};  // bits of a lane
ALKN_INLINE U set_bits(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
ALKN_INLINE U bits_in(F x) { return {_mm512_castps_si512(x.v)}; }
ALKN_INLINE F value_of(U x) { return {_mm512_castsi512_ps(x.v)}; }
ALKN_INLINE U add(U a, U b) { return {_mm512_add_epi32(a.v, b.v)}; }
ALKN_INLINE U mul(U a, U b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
ALKN_INLINE U bit_and(U a, U b) { return {_mm512_and_si512(a.v, b.v)}; }
ALKN_INLINE U bit_xor(U a, U b) { return {_mm512_xor_si512(a.v, b.v)}; }
ALKN_INLINE U ones_where(M m, U a) {
  return {_mm512_mask_mov_epi32(a.v, m.v, _mm512_set1_epi32(-1))};
}
template <int kBits>
ALKN_INLINE U shift_right(U a) {
  return {_mm512_maskz_srli_epi32(kAll16, a.v, kBits)};
}
ALKN_INLINE U numbers_from(std::uint32_t first) {
  return {
      _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))};
}
ALKN_INLINE void store_upper(std::uint16_t* p, U x) {
  const __m512i halves = _mm512_maskz_srli_epi32(kAll16, x.v, 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(kAll16, halves));
}

ALKN_INLINE D set_double(double x) { return {_mm512_set1_pd(x)}; }
ALKN_INLINE D load_double(const double* p) { return {_mm512_loadu_pd(p)}; }
ALKN_INLINE void store_double(double* p, D x) { _mm512_storeu_pd(p, x.v); }
ALKN_INLINE D widen(const float* p) { return {_mm512_maskz_cvtps_pd(kAll8, _mm256_loadu_ps(p))}; }
ALKN_INLINE D add(D a, D b) { return {_mm512_add_pd(a.v, b.v)}; }
ALKN_INLINE D mul(D a, D b) { return {_mm512_mul_pd(a.v, b.v)}; }
ALKN_INLINE D fma(D a, D b, D c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
ALKN_INLINE D sign_mask_double(bool keep_sign) {
  return {_mm512_castsi512_pd(_mm512_set1_epi64(keep_sign ? -1 : 0x7FFFFFFFFFFFFFFF))};
}
ALKN_INLINE D bit_and(D a, D b) { return {_mm512_and_pd(a.v, b.v)}; }

ALKN_INLINE F widen_bfloat16_at(const std::uint16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(
      _mm512_maskz_slli_epi32(kAll16, _mm512_maskz_cvtepu16_epi32(kAll16, x), 16))};
}
ALKN_INLINE F widen_half_at(const std::uint16_t* p) {
  return {_mm512_maskz_cvtph_ps(kAll16, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
ALKN_INLINE void round_bfloat16_at(std::uint16_t* p, F x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd =
      _mm512_and_si512(_mm512_maskz_srli_epi32(kAll16, bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
  const __m512i rounded =
      _mm512_mask_mov_epi32(_mm512_maskz_srli_epi32(kAll16, up, 16),
                            _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7FC0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(kAll16, rounded));
}
ALKN_INLINE void round_half_at(std::uint16_t* p, F x) {
  const __m512 nan = _mm512_castsi512_ps(_mm512_set1_epi32(0x7FC00000));
  const __m512 quiet = _mm512_mask_mov_ps(x.v, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), nan);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(kAll16, quiet, _MM_FROUND_TO_NEAREST_INT));
}
