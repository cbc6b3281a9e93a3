// Sums in double: element i of a chunk goes to accumulator i mod kSumLanes. A block of rows of
// kSumLanes elements stays in the first-level cache while groups of columns pass over it, each with
// its accumulators in registers.

inline constexpr std::int64_t kRows = 16;

/// The address kSumPrefetch elements after element i: in the array, or past its end in the next
/// pass's array in its place; 0: there is none.
inline std::uintptr_t soon(const float* array, const Ahead& ahead, int place, std::int64_t i) {
  const std::int64_t at = i + tuning::kSumPrefetch;
  const bool goes_on = at < ahead.size;
  const void* from = goes_on ? array : ahead.heads[place];
  if (from == nullptr) return 0;
  const std::int64_t elements = goes_on ? at : at - ahead.size;
  return reinterpret_cast<std::uintptr_t>(from) + static_cast<std::uintptr_t>(elements) * 4;
}

/// Prefetches kVectors vectors of a later row.
template <int kVectors>
ALKN_INLINE void prefetch_row(std::uintptr_t row) {
  constexpr int kBytes = kVectors * kDoubles * 4;
  if (kVectors > 1 && row != 0) detail::prefetch_address<kBytes>(row);
}

ALKN_INLINE std::uintptr_t later_column(std::uintptr_t later, std::int64_t column) {
  return later == 0 ? 0 : later + static_cast<std::uintptr_t>(column) * 4;
}
ALKN_INLINE std::uintptr_t later_row(std::uintptr_t later, std::int64_t row) {
  return later_column(later, row * tuning::kSumLanes);
}

template <int kVectors>
ALKN_INLINE void square_columns(const float* grad, std::uintptr_t later, std::int64_t rows,
                                double* lanes) {
  D sum[kVectors];
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) sum[v] = load_double(lanes + v * kDoubles);
  for (std::int64_t row = 0; row < rows; ++row) {
    prefetch_row<kVectors>(later_row(later, row));
    ALKN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const D g = widen(grad + row * tuning::kSumLanes + v * kDoubles);
      sum[v] = fma(g, g, sum[v]);
    }
  }
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) store_double(lanes + v * kDoubles, sum[v]);
}

inline void sum_squares(const SumPass& pass) {
  constexpr std::int64_t kColumns = kSquareVectors * kDoubles;
  const float* grad = pass.grad;
  double* lanes = pass.lanes;
  std::int64_t i = 0;
  while (pass.size - i >= tuning::kSumLanes) {
    const std::int64_t rows = std::min((pass.size - i) / tuning::kSumLanes, kRows);
    const std::uintptr_t later = soon(grad, pass.ahead, 0, i);
    for (std::int64_t column = 0; column < tuning::kSumLanes; column += kColumns) {
      square_columns<kSquareVectors>(grad + i + column, later_column(later, column), rows,
                                     lanes + column);
    }
    i += rows * tuning::kSumLanes;
  }
  std::int64_t lane = 0;
  for (; i + kDoubles <= pass.size; i += kDoubles, lane += kDoubles) {
    square_columns<1>(grad + i, 0, 1, lanes + lane);
  }
  for (; i < pass.size; ++i, ++lane) {
    const auto g = static_cast<double>(grad[i]);
    lanes[lane] = std::fma(g, g, lanes[lane]);
  }
}

template <int kVectors, bool kRetain>
ALKN_INLINE void product_columns(const float* grad, const float* retain, std::uintptr_t later_grad,
                                 std::uintptr_t later_retain, const ProductLanes<D>& product,
                                 std::int64_t rows, double* lanes) {
  D square[kVectors], sum[kVectors], product_square[kVectors];
  ALKN_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    double* at = lanes + v * kDoubles;
    square[v] = load_double(at);
    sum[v] = load_double(at + tuning::kSumLanes);
    product_square[v] = load_double(at + 2 * tuning::kSumLanes);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    prefetch_row<kVectors>(later_row(later_grad, row));
    if constexpr (kRetain) prefetch_row<kVectors>(later_row(later_retain, row));
    ALKN_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = row * tuning::kSumLanes + v * kDoubles;
      const D g = widen(grad + at);
      square[v] = fma(g, g, square[v]);
      D d = g;
      if constexpr (kRetain) d = score_product(product, g, widen(retain + at));
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
inline void sum_products_of(const SumPass& pass) {
  constexpr std::int64_t kColumns = kProductVectors * kDoubles;
  const float *grad = pass.grad, *retain = pass.retain;
  double* lanes = pass.lanes;
  const ProductLanes<D> product = product_lanes<D>(pass.formula);
  const auto at = [&](std::int64_t i) { return kRetain ? retain + i : nullptr; };
  std::int64_t i = 0;
  while (pass.size - i >= tuning::kSumLanes) {
    const std::int64_t rows = std::min((pass.size - i) / tuning::kSumLanes, kRows);
    const std::uintptr_t later_grad = soon(grad, pass.ahead, 0, i);
    const std::uintptr_t later_retain = kRetain ? soon(retain, pass.ahead, 1, i) : 0;
    for (std::int64_t column = 0; column < tuning::kSumLanes; column += kColumns) {
      product_columns<kProductVectors, kRetain>(
          grad + i + column, at(i + column), later_column(later_grad, column),
          later_column(later_retain, column), product, rows, lanes + column);
    }
    i += rows * tuning::kSumLanes;
  }
  std::int64_t lane = 0;
  for (; i + kDoubles <= pass.size; i += kDoubles, lane += kDoubles) {
    product_columns<1, kRetain>(grad + i, at(i), 0, 0, product, 1, lanes + lane);
  }
  const auto one = scalar::product_lanes<double>(pass.formula);
  for (; i < pass.size; ++i, ++lane) {
    const auto g = static_cast<double>(grad[i]);
    double d = g;
    if constexpr (kRetain) d = scalar::score_product(one, g, static_cast<double>(retain[i]));
    double* sums = lanes + lane;
    sums[0] = std::fma(g, g, sums[0]);
    sums[tuning::kSumLanes] += d;
    sums[2 * tuning::kSumLanes] = std::fma(d, d, sums[2 * tuning::kSumLanes]);
  }
}

inline void sum_products(const SumPass& pass) {
  if (pass.retain != nullptr) {
    sum_products_of<true>(pass);
  } else {
    sum_products_of<false>(pass);
  }
}

/// The wide part of the tree in vectors.
inline double fold(double* lanes) {
  std::int64_t width = tuning::kSumLanes / 2;
  for (; width >= kDoubles; width /= 2) {
    for (std::int64_t i = 0; i < width; i += kDoubles) {
      store_double(lanes + i, add(load_double(lanes + i), load_double(lanes + i + width)));
    }
  }
  for (; width > 0; width /= 2) {
    for (std::int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}
