// The update pass, alone or with the score in one pass.

/// What tells an update which entries are on.
enum class Source { all, bits, scored, fused };

/// The rest of `pass` from element i on, fewer elements than a vector has; `used` and `mask` hold
/// their bits from bit 0 on.
template <bool kCompact>
inline UpdatePass tail_of(const UpdatePass& pass, std::int64_t i, const std::uint64_t* used,
                          std::uint64_t* mask) {
  UpdatePass tail = pass;
  const auto advance = [i](auto*& pointer) {
    if (pointer != nullptr) pointer += i;
  };
  tail.size -= i;
  tail.ahead = {};
  advance(tail.grad), advance(tail.param), advance(tail.grad_out), advance(tail.retain);
  advance_state<kCompact>(tail.exp_avg, i);
  advance_state<kCompact>(tail.exp_avg_sq, i);
  advance_state<kCompact>(tail.score, i);
  tail.rounding.first += static_cast<std::uint32_t>(i);
  tail.used = used;
  tail.mask = mask;
  return tail;
}

/// Which entries are on; grows the score where the source says so. @param random of a compact state
template <Source kSource, bool kCompact>
ALKN_INLINE M entries_on(const UpdatePass& pass, std::int64_t i, int lane, std::uint64_t word,
                         F grad, const ScoreLanes& c, F threshold, M is_used, M all, U random) {
  if constexpr (kSource == Source::all) {
    return all;
  } else if constexpr (kSource == Source::bits) {
    return mask_at(word, lane);
  } else {
    F score = load_state<kCompact>(pass.score, i + lane);
    if constexpr (kSource == Source::fused) {
      score = grown_score(c, grad, load(pass.retain + i + lane), score, is_used);
      score = store_score<kCompact>(pass.score, i + lane, score, random);
    }
    return either(greater(score, threshold), all);
  }
}

template <bool kAdamW, bool kCompact>
ALKN_INLINE void move_entries(const UpdatePass& pass, std::int64_t i, const AdamWLanes<F>& adamw,
                              F grad, M is_used, M moves, U random) {
  if constexpr (kAdamW) {
    const AdamWState old{load(pass.param + i), load_state<kCompact>(pass.exp_avg, i),
                         load_state<kCompact>(pass.exp_avg_sq, i)};
    const AdamWState now = adamw_step(adamw, grad, is_used, old);
    store(pass.param + i, blend(moves, now.param, old.param));
    if constexpr (kCompact) {  // rounded before the blend: what does not move keeps its bits, also
                               // of a NaN
      const F exp_avg = value_of(rounded_exp_avg(now.exp_avg, random));
      const F exp_avg_sq = value_of(rounded_exp_avg_sq(now.exp_avg_sq, random));
      store_upper(static_cast<std::uint16_t*>(pass.exp_avg) + i,
                  bits_in(blend(moves, exp_avg, old.exp_avg)));
      store_upper(static_cast<std::uint16_t*>(pass.exp_avg_sq) + i,
                  bits_in(blend(moves, exp_avg_sq, old.exp_avg_sq)));
    } else {
      store(static_cast<float*>(pass.exp_avg) + i, blend(moves, now.exp_avg, old.exp_avg));
      store(static_cast<float*>(pass.exp_avg_sq) + i, blend(moves, now.exp_avg_sq, old.exp_avg_sq));
    }
  } else {
    store(pass.grad_out + i, grad);
  }
}

template <Source kSource, bool kAdamW, bool kCompact>
ALKN_INLINE void prefetch_update(const UpdatePass& pass, std::int64_t i) {
  prefetch_word(pass.grad, pass.ahead, 0, i);
  if constexpr (kAdamW) {
    prefetch_word(pass.param, pass.ahead, 1, i);
    prefetch_word<kCompact>(pass.exp_avg, pass.ahead, 2, i);
    prefetch_word<kCompact>(pass.exp_avg_sq, pass.ahead, 3, i);
  }
  if constexpr (kSource == Source::fused) prefetch_word(pass.retain, pass.ahead, 4, i);
  if constexpr (kSource == Source::fused || kSource == Source::scored) {
    prefetch_word<kCompact>(pass.score, pass.ahead, 5, i);
  }
}

/// Returns how many entries are on; 0 for Source::all.
template <Source kSource, bool kAdamW, bool kCompact>
inline std::int64_t update_words(const UpdatePass& given_pass) {
  const UpdatePass pass = given_pass;  // a copy: no store below can change it
  constexpr bool kWrites = kSource == Source::scored || kSource == Source::fused;
  const ScoreLanes c = score_lanes(pass.numbers);
  const AdamWLanes<F> adamw = adamw_lanes(pass.adamw);
  RandomBits<kCompact> random(pass.rounding);
  const F threshold = set(pass.threshold);
  const M all = all_if(kSource == Source::all || pass.all_on);
  const M thawed = all_if(!pass.freeze);
  std::int64_t num_trained = 0;
  for (std::int64_t i = 0; i < pass.size; i += 64) {
    const std::uint64_t used = word_at(pass.used, i);
    const std::uint64_t given = kSource == Source::bits ? pass.mask[i >> 6U] : 0;
    const std::int64_t left = pass.size - i;
    const int lanes = vector_lanes(left);
    std::uint64_t word = 0;
    prefetch_update<kSource, kAdamW, kCompact>(pass, i);
    for (int lane = 0; lane < lanes; lane += kWidth) {
      const F grad = clipped(c, load(pass.grad + i + lane));
      const M is_used = mask_at(used, lane);
      const U bits = random.next();
      const M on = entries_on<kSource, kCompact>(pass, i, lane, given, grad, c, threshold, is_used,
                                                 all, bits);
      if constexpr (kWrites) word |= bits_of(on) << lane;
      const F masked = kSource == Source::all ? grad : keep_if(on, grad);
      move_entries<kAdamW, kCompact>(pass, i + lane, adamw, masked, is_used, either(on, thawed),
                                     bits);
    }
    if constexpr (kWidth > 1) {
      if (lanes < 64 && lanes < left) {
        const std::uint64_t shifted = used >> lanes;
        std::uint64_t tail_word = given >> lanes;
        constexpr auto kSame = static_cast<scalar::Source>(kSource);
        scalar::update_words<kSame, kAdamW, kCompact>(
            tail_of<kCompact>(pass, i + lanes, &shifted, &tail_word));
        word |= tail_word << lanes;
      }
    }
    if constexpr (kWrites) pass.mask[i >> 6U] = word;
    num_trained += __builtin_popcountll(kWrites ? word : given);
  }
  return num_trained;
}
