// One element at a time: the reference, and the tail of the wider ones. See simd/kernels.hpp.

inline constexpr int kWidth = 1;
inline constexpr int kDoubles = 1;
inline constexpr int kSquareVectors = 8;   // accumulators in registers: sum g^2 alone
inline constexpr int kProductVectors = 4;  // for each of the three sums

using F = float;
using D = double;
using M = bool;

ALKN_INLINE F set(float x) { return x; }
ALKN_INLINE F load(const float* p) { return *p; }
ALKN_INLINE void store(float* p, F x) { *p = x; }
#if defined(ALKN_X86)  // the passes run with the processor's flags, see kernel/flush.hpp
ALKN_INLINE F add(F a, F b) { return a + b; }
ALKN_INLINE F sub(F a, F b) { return a - b; }
ALKN_INLINE F mul(F a, F b) { return a * b; }
ALKN_INLINE F div(F a, F b) { return a / b; }
ALKN_INLINE F fma(F a, F b, F c) { return exact_fma(a, b, c); }
ALKN_INLINE F operand(F x) { return x; }
ALKN_INLINE D widen(const float* p) { return static_cast<double>(*p); }
#else
struct Ieee {
  static float mul(float a, float b) noexcept { return a * b; }
  static float fma(float a, float b, float c) noexcept { return exact_fma(a, b, c); }
  static float div(float a, float b) noexcept { return a / b; }
};
ALKN_INLINE F add(F a, F b) { return flushed(a + b); }
ALKN_INLINE F sub(F a, F b) { return flushed(a - b); }
ALKN_INLINE F mul(F a, F b) { return Settled<Ieee>::mul(a, b); }
ALKN_INLINE F div(F a, F b) { return Settled<Ieee>::div(a, b); }
ALKN_INLINE F fma(F a, F b, F c) { return Settled<Ieee>::fma(a, b, c); }
ALKN_INLINE F operand(F x) { return flushed(x); }
ALKN_INLINE D widen(const float* p) { return static_cast<double>(flushed(*p)); }
#endif
ALKN_INLINE F neg(F a) { return -a; }
#if defined(__SSE__)
ALKN_INLINE F root(F a) {
  return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a)));
}  // std::sqrt would set errno
#elif defined(__aarch64__)
ALKN_INLINE F root(F a) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(a)), 0); }
#else
ALKN_INLINE F root(F a) { return std::sqrt(a); }
#endif
ALKN_INLINE F sign_mask(bool keep_sign) {
  return bit_copy<float>(keep_sign ? 0xFFFFFFFFU : 0x7FFFFFFFU);
}
ALKN_INLINE F bit_and(F a, F b) {
  return bit_copy<float>(bit_copy<std::uint32_t>(a) & bit_copy<std::uint32_t>(b));
}

ALKN_INLINE M greater(F a, F b) { return a > b; }
ALKN_INLINE M not_less(F a, F b) { return !(a < b); }
ALKN_INLINE M not_greater_equal(F a, F b) { return !(a >= b); }
ALKN_INLINE M not_less_equal(F a, F b) { return !(a <= b); }
ALKN_INLINE M less_equal_where(M m, F a, F b) { return m && a <= b; }
ALKN_INLINE M and_not(M a, M b) { return a && !b; }
ALKN_INLINE M either(M a, M b) { return a || b; }
ALKN_INLINE M all_if(bool on) { return on; }
ALKN_INLINE M mask_at(std::uint64_t word, int shift) { return ((word >> shift) & 1U) != 0; }
ALKN_INLINE std::uint64_t bits_of(M m) { return m ? 1U : 0U; }
ALKN_INLINE F blend(M m, F on, F off) { return m ? on : off; }
ALKN_INLINE F keep_if(M m, F a) { return m ? a : 0.0F; }

struct Counter {
  std::int64_t count = 0;
  void add(M m) { count += m ? 1 : 0; }
  [[nodiscard]] std::int64_t total() const { return count; }
};

using U = std::uint32_t;  // bits of a lane
ALKN_INLINE U set_bits(std::uint32_t x) { return x; }
ALKN_INLINE U bits_in(F x) { return bit_copy<std::uint32_t>(x); }
ALKN_INLINE F value_of(U x) { return bit_copy<float>(x); }
ALKN_INLINE U add(U a, U b) { return a + b; }
ALKN_INLINE U mul(U a, U b) { return a * b; }
ALKN_INLINE U bit_and(U a, U b) { return a & b; }
ALKN_INLINE U bit_xor(U a, U b) { return a ^ b; }
ALKN_INLINE U ones_where(M m, U a) { return m ? 0xFFFFFFFFU : a; }
template <int kBits>
ALKN_INLINE U shift_right(U a) {
  return a >> kBits;
}
ALKN_INLINE U numbers_from(std::uint32_t first) { return first; }
ALKN_INLINE void store_upper(std::uint16_t* p, U x) { *p = static_cast<std::uint16_t>(x >> 16U); }

ALKN_INLINE D set_double(double x) { return x; }
ALKN_INLINE D load_double(const double* p) { return *p; }
ALKN_INLINE void store_double(double* p, D x) { *p = x; }
ALKN_INLINE D add(D a, D b) { return a + b; }
ALKN_INLINE D mul(D a, D b) { return a * b; }
ALKN_INLINE D fma(D a, D b, D c) { return std::fma(a, b, c); }
ALKN_INLINE D sign_mask_double(bool keep_sign) {
  return bit_copy<double>(keep_sign ? ~std::uint64_t{0} : ~std::uint64_t{0} >> 1U);
}
ALKN_INLINE D bit_and(D a, D b) {
  return bit_copy<double>(bit_copy<std::uint64_t>(a) & bit_copy<std::uint64_t>(b));
}

ALKN_INLINE F widen_bfloat16_at(const std::uint16_t* p) { return bfloat16_to_float(*p); }
ALKN_INLINE F widen_half_at(const std::uint16_t* p) { return half_to_float(*p); }
ALKN_INLINE void round_bfloat16_at(std::uint16_t* p, F x) { *p = float_to_bfloat16(x); }
ALKN_INLINE void round_half_at(std::uint16_t* p, F x) { *p = float_to_half(x); }
