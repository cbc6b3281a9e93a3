// The kernels of this instruction set.

inline const Kernels& kernels() {
  static constexpr Kernels kTable = {
      sum_squares,
      sum_products,
      score,
      score_select,
      rescan,
      {update_all<true>, update_all<false>},
      {update_bits<true>, update_bits<false>},
      {update_words<Source::scored, true>, update_words<Source::scored, false>},
      {update_words<Source::fused, true>, update_words<Source::fused, false>},
      widen_bfloat16,
      widen_half,
      round_bfloat16,
      round_half,
      negate,
  };
  return kTable;
}
