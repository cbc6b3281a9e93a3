// Sums in double: element i of a chunk goes to accumulator i mod kSumLanes. A block of rows of
// kSumLanes elements stays in the first-level cache while groups of columns pass over it, each with
// its accumulators in registers.

inline constexpr std::int64_t kRows = 16;

/// Asks for the part of a later row that lies under kVectors vectors of this one.
template <int kVectors>
ALKN_INLINE void prefetch_row(const float* row) {
  constexpr int kBytes = kVectors * kDoubles * 4;
  if constexpr (kVectors > 1) detail::prefetch<kBytes>(row, tuning::kSumPrefetch * 4);
}

template <int kVectors>
ALKN_INLINE void square_columns(const float* grad, std::int64_t rows, double* lanes) {
  D sum[kVectors];
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) sum[v] = load_double(lanes + v * kDoubles);
  for (std::int64_t row = 0; row < rows; ++row) {
    prefetch_row<kVectors>(grad + row * tuning::kSumLanes);
    ALKN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const D g = widen(grad + row * tuning::kSumLanes + v * kDoubles);
      sum[v] = fma(g, g, sum[v]);
    }
  }
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) store_double(lanes + v * kDoubles, sum[v]);
}

inline void sum_squares(const float* grad, std::int64_t size, double* lanes) {
  constexpr std::int64_t kColumns = kSquareVectors * kDoubles;
  std::int64_t i = 0;
  while (size - i >= tuning::kSumLanes) {
    const std::int64_t left = (size - i) / tuning::kSumLanes;
    const std::int64_t rows = kColumns == tuning::kSumLanes || left < kRows ? left : kRows;
    for (std::int64_t column = 0; column < tuning::kSumLanes; column += kColumns) {
      square_columns<kSquareVectors>(grad + i + column, rows, lanes + column);
    }
    i += rows * tuning::kSumLanes;
  }
  std::int64_t lane = 0;
  for (; i + kDoubles <= size; i += kDoubles, lane += kDoubles) {
    square_columns<1>(grad + i, 1, lanes + lane);
  }
  for (; i < size; ++i, ++lane) {
    const auto g = static_cast<double>(grad[i]);
    lanes[lane] = std::fma(g, g, lanes[lane]);
  }
}

template <int kVectors, bool kRetain>
ALKN_INLINE void product_columns(const float* grad, const float* retain, D signs, std::int64_t rows,
                                 double* lanes) {
  D square[kVectors], sum[kVectors], product_square[kVectors];
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    double* at = lanes + v * kDoubles;
    square[v] = load_double(at);
    sum[v] = load_double(at + tuning::kSumLanes);
    product_square[v] = load_double(at + 2 * tuning::kSumLanes);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    prefetch_row<kVectors>(grad + row * tuning::kSumLanes);
    if constexpr (kRetain) prefetch_row<kVectors>(retain + row * tuning::kSumLanes);
    ALKN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = row * tuning::kSumLanes + v * kDoubles;
      const D g = widen(grad + at);
      square[v] = fma(g, g, square[v]);
      D d = g;
      if constexpr (kRetain) d = mul(bit_and(g, signs), widen(retain + at));  // exact
      sum[v] = add(sum[v], d);
      product_square[v] = fma(d, d, product_square[v]);
    }
  }
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    double* at = lanes + v * kDoubles;
    store_double(at, square[v]);
    store_double(at + tuning::kSumLanes, sum[v]);
    store_double(at + 2 * tuning::kSumLanes, product_square[v]);
  }
}

template <bool kRetain>
inline void sum_products_of(const float* grad, const float* retain, bool absolute,
                            std::int64_t size, double* lanes) {
  constexpr std::int64_t kColumns = kProductVectors * kDoubles;
  const D signs = sign_mask_double(!absolute);
  const auto at = [&](std::int64_t i) { return kRetain ? retain + i : nullptr; };
  std::int64_t i = 0;
  while (size - i >= tuning::kSumLanes) {
    const std::int64_t left = (size - i) / tuning::kSumLanes;
    const std::int64_t rows = left < kRows ? left : kRows;
    for (std::int64_t column = 0; column < tuning::kSumLanes; column += kColumns) {
      product_columns<kProductVectors, kRetain>(grad + i + column, at(i + column), signs, rows,
                                                lanes + column);
    }
    i += rows * tuning::kSumLanes;
  }
  std::int64_t lane = 0;
  for (; i + kDoubles <= size; i += kDoubles, lane += kDoubles) {
    product_columns<1, kRetain>(grad + i, at(i), signs, 1, lanes + lane);
  }
  for (; i < size; ++i, ++lane) {
    const auto g = static_cast<double>(grad[i]);
    double d = g;
    if constexpr (kRetain) d = (absolute ? std::fabs(g) : g) * static_cast<double>(retain[i]);
    double* sums = lanes + lane;
    sums[0] = std::fma(g, g, sums[0]);
    sums[tuning::kSumLanes] += d;
    sums[2 * tuning::kSumLanes] = std::fma(d, d, sums[2 * tuning::kSumLanes]);
  }
}

inline void sum_products(const float* grad, const float* retain, bool absolute, std::int64_t size,
                         double* lanes) {
  if (retain != nullptr) {
    sum_products_of<true>(grad, retain, absolute, size, lanes);
  } else {
    sum_products_of<false>(grad, nullptr, absolute, size, lanes);
  }
}
