// Row passes of the token log-probability for one instruction set. No include guard: included by
// token_log_probability.hpp once for each set, after the set's vector operations.
//
// Every sum follows one tree, so that all sets give the same bits: element i of a block goes to
// accumulator i mod 64, the 64 are folded in halves, the blocks are added in order in double. Every
// product that meets a sum is a written-out fma.

inline constexpr int kVectors = rows::kGroup / kWidth;  // vectors to a group of 64

#define ALKN_EXPONENTIAL inline
#include <alkn/kernel/simd/exponential.inl>
#undef ALKN_EXPONENTIAL

/// Room for the last, incomplete group of a row: the loop over groups is compiled once.
template <class T>
struct LastGroup {
  T values[rows::kGroup];

  /// The group at x, of which `left` elements or more are in the row: the rest is minus infinity.
  const T* whole(const T* x, std::int64_t left) {
    if (left >= rows::kGroup) return x;
    for (int i = 0; i < rows::kGroup; ++i) values[i] = i < left ? x[i] : rows::kLowest<T>;
    return values;
  }
};

/// The sum of 64 accumulators.
inline float fold(F (&sum)[kVectors]) {
  for (int half = kVectors / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sum[i] = add(sum[i], sum[i + half]);
  }
  float lane[kWidth];
  store(lane, sum[0]);
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

template <class T>
inline void max_group(const T* x, F (&most)[kVectors]) {
  for (int k = 0; k < kVectors; ++k) most[k] = larger(read(x + k * kWidth), most[k]);
}

/// The largest of `size` elements that is not NaN; minus infinity if there is none.
template <class T>
inline float block_max(const T* x, std::int64_t size) {
  F most[kVectors];
  for (F& m : most) m = set(-std::numeric_limits<float>::infinity());
  std::int64_t i = 0;
  for (; i + rows::kGroup <= size; i += rows::kGroup) max_group(x + i, most);
  for (int half = kVectors / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) most[k] = larger(most[k], most[k + half]);
  }
  float lane[kWidth];
  store(lane, most[0]);
  for (int k = 1; k < kWidth; ++k) lane[0] = lane[k] > lane[0] ? lane[k] : lane[0];
  if (i == size) return lane[0];
  LastGroup<T> last;
  const float rest = block_max(last.whole(x + i, size - i), rows::kGroup);
  return rest > lane[0] ? rest : lane[0];
}

template <class T>
inline void sum_exp_group(const T* x, F shift, F (&sum)[kVectors]) {
  for (int k = 0; k < kVectors; ++k) {
    sum[k] = add(sum[k], exp_of_negative(sub(read(x + k * kWidth), shift)));
  }
}

/// Sum of e^(x - shift) over `size` elements.
template <class T>
inline float block_sum_exp(const T* x, std::int64_t size, float shift) {
  F sum[kVectors];
  for (F& s : sum) s = set(0);
  LastGroup<T> last;
  for (std::int64_t i = 0; i < size; i += rows::kGroup) {
    sum_exp_group(last.whole(x + i, size - i), set(shift), sum);
  }
  return fold(sum);
}

/// One read of the row from memory: maximum and sum block by block, the sum rescaled where the
/// maximum grows.
template <class T>
inline LogSumExp log_sum_exp(const T* x, std::int64_t size) {
  float most = -std::numeric_limits<float>::infinity();
  double sum = 0;
  for (std::int64_t start = 0; start < size; start += rows::kBlock) {
    const std::int64_t length = size - start < rows::kBlock ? size - start : rows::kBlock;
    const float block = block_max(x + start, length);
    double rescale = 1;
    if (block > most) {
      rescale = std::exp(static_cast<double>(most) - static_cast<double>(block));
      most = block;
    }
    const bool none = most == -std::numeric_limits<float>::infinity();  // the sum then shows a NaN,
                                                                        // which the maximum skips
    const float more = block_sum_exp(x + start, length, none ? 0.0F : most);
    sum = std::fma(sum, rescale, static_cast<double>(more));
  }
  return {static_cast<double>(most), std::log(sum)};
}

template <bool kPast, class T>
inline void gradient_group(const T* x, F shift, F scale, T* out) {
  for (int k = 0; k < kVectors; ++k) {
    const F y = mul(exp_of_negative(sub(read(x + k * kWidth), shift)), scale);
    if constexpr (kPast) {
      write_past(out + k * kWidth, y);
    } else {
      write(out + k * kWidth, y);
    }
  }
}

template <bool kPast, class T>
void gradient_groups(const T* x, std::int64_t size, F shift, F scale, T* out) {
  std::int64_t i = 0;
  for (; i + rows::kGroup <= size; i += rows::kGroup) {
    gradient_group<kPast>(x + i, shift, scale, out + i);
  }
  if (i < size) {
    LastGroup<T> last;
    gradient_groups<false>(last.whole(x + i, size - i), rows::kGroup, shift, scale, last.values);
    for (std::int64_t k = 0; i + k < size; ++k) out[i + k] = last.values[k];
  }
}

/// out = e^(x - max) scale. `bypass`: out will not be read soon, so write it past the caches if it
/// is aligned.
template <class T>
inline void scaled_softmax(const T* x, std::int64_t size, double max, double scale, T* out,
                           bool bypass) {
  const F shift = set(static_cast<float>(max));
  const F factor = set(flushed_float(scale));
  if constexpr (std::is_same_v<T, float>) {  // a vector of 16-bit numbers is half a cache line: no
                                             // gain
    if (bypass && reinterpret_cast<std::uintptr_t>(out) % sizeof(F) == 0) {
      gradient_groups<true>(x, size, shift, factor, out);
      return;
    }
  }
  gradient_groups<false>(x, size, shift, factor, out);
}

template <class T>
inline void divergence_group(const T* ref, const T* x, F ref_shift, F shift, F (&sum)[kVectors]) {
  for (int k = 0; k < kVectors; ++k) {
    const F a = sub(read(ref + k * kWidth), ref_shift);
    const F e = exp_of_negative(a);
    const F difference = sub(a, sub(read(x + k * kWidth), shift));
    sum[k] = fma(e, keep_if(not_less_equal(e, set(0)), difference), sum[k]);
  }
}

/// Sum of e^(ref - ref_max) ((ref - ref_max) - (x - max)); a term whose first factor is 0 is 0.
template <class T>
inline double divergence(const T* ref, const T* x, std::int64_t size, double ref_max, double max) {
  const F ref_shift = set(static_cast<float>(ref_max));
  const F shift = set(static_cast<float>(max));
  LastGroup<T> ref_last, last;
  double total = 0;
  for (std::int64_t start = 0; start < size; start += rows::kBlock) {
    const std::int64_t end = start + rows::kBlock < size ? start + rows::kBlock : size;
    F sum[kVectors];
    for (F& s : sum) s = set(0);
    for (std::int64_t i = start; i < end; i += rows::kGroup) {
      divergence_group(ref_last.whole(ref + i, end - i), last.whole(x + i, end - i), ref_shift,
                       shift, sum);
    }
    total += static_cast<double>(fold(sum));
  }
  return total;
}

template <class T>
inline void difference_group(const T* ref, const T* x, F ref_shift, F shift, F ref_scale, F scale,
                             T* out) {
  for (int k = 0; k < kVectors; ++k) {
    const F p_ref = mul(exp_of_negative(sub(read(ref + k * kWidth), ref_shift)), ref_scale);
    const F e = exp_of_negative(sub(read(x + k * kWidth), shift));
    write(out + k * kWidth, fma(e, scale, p_ref));
  }
}

/// out = e^(x - max) scale + e^(ref - ref_max) ref_scale
template <class T>
inline void softmax_difference(const T* ref, const T* x, std::int64_t size, double ref_max,
                               double max, double ref_scale, double scale, T* out) {
  const F ref_shift = set(static_cast<float>(ref_max));
  const F shift = set(static_cast<float>(max));
  const F ref_factor = set(flushed_float(ref_scale));
  const F factor = set(flushed_float(scale));
  std::int64_t i = 0;
  for (; i + rows::kGroup <= size; i += rows::kGroup) {
    difference_group(ref + i, x + i, ref_shift, shift, ref_factor, factor, out + i);
  }
  if (i < size) {
    LastGroup<T> ref_last, last;
    softmax_difference(ref_last.whole(ref + i, size - i), last.whole(x + i, size - i), rows::kGroup,
                       ref_max, max, ref_scale, scale, last.values);
    for (std::int64_t k = 0; i + k < size; ++k) out[i + k] = last.values[k];
  }
}

template <class T>
inline constexpr RowFunctions<T> kRowFunctions{log_sum_exp<T>, scaled_softmax<T>};
template <class T>
inline constexpr DivergenceFunctions<T> kDivergenceFunctions{divergence<T>, softmax_difference<T>};
