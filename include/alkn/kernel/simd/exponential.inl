// The exponential of the softmax, once for every instruction set and for CUDA. No include guard:
// included after the vector operations of a set, with ALKN_EXPONENTIAL as the functions'
// specifiers.

/// e^x for x <= 0, below 1 ulp (all 1.1e9 floats tried); 0 below -87, NaN for NaN.
ALKN_EXPONENTIAL F exp_of_negative(F x) {
  const F t =
      fma(x, set(0x1.715476p+0F), set(0x1.8p23F));  // the low bits of t: n = round(x / ln 2)
  const F n = sub(t, set(0x1.8p23F));
  F r = fma(n, set(-0x1.62e43p-1F), x);
  r = fma(n, set(0x1.05c61p-29F), r);
  F y = set(0x1.6d110ap-10F);  // (e^r - 1 - r) / r^2, interpolated at Chebyshev points
  y = fma(y, r, set(0x1.120b6ep-7F));
  y = fma(y, r, set(0x1.55551ap-5F));
  y = fma(y, r, set(0x1.5554dcp-3F));
  y = fma(y, r, set(0.5F));
  y = fma(y, r, set(1.0F));
  y = fma(y, r, set(1.0F));
  return keep_if(not_less(x, set(-87.0F)), scale_by_power(y, t));
}
