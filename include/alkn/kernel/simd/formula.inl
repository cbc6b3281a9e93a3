// The elementwise formulas of a step, once for every instruction set. Each product that meets a sum
// is a written fma. What comes from memory goes through operand(), which takes a denormal for a
// zero where the processor does not do so by itself; see kernel/flush.hpp.

/// A number, rounded to fp32, in every lane of T: F, or D where sums are taken in double.
template <class T>
ALKN_INLINE T all_lanes(double x) {
  const auto rounded = static_cast<float>(x);
  if constexpr (std::is_same_v<T, F>) {
    return set(rounded);
  } else {
    return set_double(static_cast<double>(rounded));
  }
}
/// The bits that bit_and() keeps of a number: all, or all but the sign.
template <class T>
ALKN_INLINE T sign_lanes(bool keep_sign) {
  if constexpr (std::is_same_v<T, F>) {
    return sign_mask(keep_sign);
  } else {
    return sign_mask_double(keep_sign);
  }
}

/// What the product d is made of beside g and the retain gradient.
template <class T>
struct ProductLanes {
  T signs;
};
template <class T>
ALKN_INLINE ProductLanes<T> product_lanes(const ScoreFormula& s) {
  return {sign_lanes<T>(s.kind == ScoreKind::product)};
}
/// d = g r, or |g| r for the ratio score (spec: section 3). The score takes it in F, the sums
/// behind its deviation in D, where it is exact.
template <class T>
ALKN_INLINE T score_product(const ProductLanes<T>& c, T grad, T retain) {
  return mul(bit_and(grad, c.signs), retain);
}

/// The numbers of a score, one in every lane.
struct ScoreLanes {
  F scale, alignment, penalty;
  ProductLanes<F> product;
};
ALKN_INLINE ScoreLanes score_lanes(const ScoreNumbers& n) {
  return {set(n.scale), all_lanes<F>(n.formula.alignment), set(n.penalty),
          product_lanes<F>(n.formula)};
}

/// The clipped gradient.
ALKN_INLINE F clipped(const ScoreLanes& c, F grad) { return mul(operand(grad), c.scale); }

/// m + a d - mu k M; g is clipped already (spec: section 3).
ALKN_INLINE F grown_score(const ScoreLanes& c, F grad, F retain, F score, M is_used) {
  const F d = score_product(c.product, grad, operand(retain));
  return sub(fma(c.alignment, d, operand(score)), keep_if(is_used, c.penalty));
}

ALKN_INLINE AdamWLanes<F> adamw_lanes(const AdamWLanes<float>& n) {
  return {set(n.decay),      set(n.decay_used),
          set(n.step_size),  set(n.step_size_used),
          set(n.beta1),      set(n.one_minus_beta1),
          set(n.beta2),      set(n.one_minus_beta2),
          set(n.bias2_sqrt), set(n.eps)};
}

struct AdamWState {
  F param, exp_avg, exp_avg_sq;
};
/// One AdamW step of one entry (spec: section 6), in the operation order of torch::optim::AdamW.
ALKN_INLINE AdamWState adamw_step(const AdamWLanes<F>& c, F grad, M is_used,
                                  const AdamWState& old) {
  AdamWState now;
  now.exp_avg = fma(grad, c.one_minus_beta1, mul(c.beta1, operand(old.exp_avg)));
  now.exp_avg_sq = fma(mul(c.one_minus_beta2, grad), grad, mul(c.beta2, operand(old.exp_avg_sq)));
  const F denominator = add(div(root(now.exp_avg_sq), c.bias2_sqrt), c.eps);
  const F step_size = blend(is_used, c.step_size_used, c.step_size);
  const F step = div(mul(step_size, now.exp_avg), denominator);
  // fma(x, y, +0) is the rounded product, and no compiler may contract it with the subtraction
  const F decayed = fma(operand(old.param), blend(is_used, c.decay_used, c.decay), set(0.0F));
  now.param = sub(decayed, step);
  return now;
}

/// theta = start - lambda (theta - start) (spec: section 1).
ALKN_INLINE F negated(F minus_lambda, F param, F start) {
  const F from = operand(start);
  return fma(minus_lambda, sub(operand(param), from), from);
}

// --- stochastic rounding of the compact state; see kernel/math.hpp -----------------------------

/// What the random numbers of some elements are made of.
struct RoundingLanes {
  U weyl, second;
};
/// Of the elements with these numbers in their rounding block.
ALKN_INLINE RoundingLanes rounding_lanes(const RoundingKey& key, U numbers) {
  return {add(mul(numbers, set_bits(kWeyl)), set_bits(key.first)), set_bits(key.second)};
}
/// 32 random bits of an element: a Weyl sequence, mixed once. The low 16 round exp_avg, the high 16
/// exp_avg_sq, those in the middle the score: no sum ever meets a moment's and a score's rounding.
ALKN_INLINE U random_bits(const RoundingLanes& lanes) {
  U x = bit_xor(bit_xor(lanes.weyl, shift_right<16>(lanes.weyl)), lanes.second);
  x = mul(x, set_bits(0x7FEB352DU));
  return bit_xor(x, shift_right<15>(x));
}

/// The bits of x, to which a random number below 2^16 has been added: their upper half is x rounded
/// up in magnitude with the probability of what it cuts off. Infinity stays; NaN becomes 0xFFFF.
ALKN_INLINE U rounded_by(F x, U random) {
  return ones_where(not_greater_equal(x, x), add(bits_in(x), random));
}
ALKN_INLINE U rounded_exp_avg(F x, U random) {
  return rounded_by(x, bit_and(random, set_bits(0xFFFFU)));
}
ALKN_INLINE U rounded_exp_avg_sq(F x, U random) { return rounded_by(x, shift_right<16>(random)); }
/// As the fp32 value that the bfloat16 has.
ALKN_INLINE F rounded_score(F x, U random) {
  const U middle = bit_and(shift_right<8>(random), set_bits(0xFFFFU));
  return value_of(bit_and(rounded_by(x, middle), set_bits(0xFFFF0000U)));
}
