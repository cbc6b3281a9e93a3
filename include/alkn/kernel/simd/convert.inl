// Conversions to and from 16-bit floats; negation at the end of a task.

template <F (*kWiden)(const std::uint16_t*), float (*kWidenOne)(std::uint16_t)>
inline void widen_all(const std::uint16_t* in, float* out, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) store(out + i, kWiden(in + i));
  for (; i < size; ++i) out[i] = kWidenOne(in[i]);
}
inline void widen_bfloat16(const std::uint16_t* in, float* out, std::int64_t size) {
  widen_all<widen_bfloat16_at, bfloat16_to_float>(in, out, size);
}
inline void widen_half(const std::uint16_t* in, float* out, std::int64_t size) {
  widen_all<widen_half_at, half_to_float>(in, out, size);
}

template <void (*kRound)(std::uint16_t*, F), std::uint16_t (*kRoundOne)(float)>
inline void round_all(const float* in, std::uint16_t* out, std::int64_t size) {
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) kRound(out + i, load(in + i));
  for (; i < size; ++i) out[i] = kRoundOne(in[i]);
}
inline void round_bfloat16(const float* in, std::uint16_t* out, std::int64_t size) {
  round_all<round_bfloat16_at, float_to_bfloat16>(in, out, size);
}
inline void round_half(const float* in, std::uint16_t* out, std::int64_t size) {
  round_all<round_half_at, float_to_half>(in, out, size);
}

inline void negate(float* param, const float* start, std::int64_t size, float lambda) {
  const F minus_lambda = set(-lambda);
  std::int64_t i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    detail::prefetch<64>(param + i, tuning::kPrefetch * 4);
    detail::prefetch<64>(start + i, tuning::kPrefetch * 4);
    store(param + i, negated(minus_lambda, load(param + i), load(start + i)));
  }
  for (; i < size; ++i) {
    param[i] = scalar::negated(-lambda, param[i], start[i]);
  }
}
