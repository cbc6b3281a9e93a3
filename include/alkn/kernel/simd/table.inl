// The kernels of this instruction set.

template <bool kCompact>
constexpr StateKernels state_kernels() {
  return {
      score<kCompact>,
      score_select<kCompact>,
      rescan<kCompact>,
      {update_words<Source::all, true, kCompact>, update_words<Source::all, false, false>},
      {update_words<Source::bits, true, kCompact>, update_words<Source::bits, false, false>},
      {update_words<Source::scored, true, kCompact>, update_words<Source::scored, false, kCompact>},
      {update_words<Source::fused, true, kCompact>, update_words<Source::fused, false, kCompact>},
  };
}

inline const Kernels& kernels() {
  static constexpr Kernels kTable = {
      sum_squares,
      sum_products,
      fold,
      state_kernels<false>(),
      state_kernels<true>(),
      widen_bfloat16,
      widen_half,
      round_bfloat16,
      round_half,
      negate,
  };
  return kTable;
}
