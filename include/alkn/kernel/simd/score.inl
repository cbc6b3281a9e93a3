// The score pass: m grows; what lies inside the brackets is set aside, the rest is counted.

/// Pivots, one in every lane, and the counters that belong to them.
struct SelectLanes {
  F low_a, low_b, high_a, high_b, eta_a, eta_b;
  Counter low_ge_a, low_ge_b, low_gt_b, high_ge_a, high_ge_b, high_gt_b;
};

ALKN_INLINE SelectLanes select_lanes(const Pivots& p) {
  return {set(p.low_a),
          set(p.low_b),
          set(p.high_a),
          set(p.high_b),
          set(p.eta_a),
          set(p.eta_b),
          {},
          {},
          {},
          {},
          {},
          {}};
}

/// Counts one vector of scores; returns which of them lie in a bracket. Sets `on` where score >
/// eta_b.
template <bool kClosed>
ALKN_INLINE M count_scores(SelectLanes& s, F score, M& on) {
  on = greater(score, s.eta_b);
  const M unsure = and_not(greater(score, s.eta_a), on);
  const M low_ge_a = not_less(score, s.low_a);
  const M high_ge_a = not_less(score, s.high_a);
  s.low_ge_a.add(low_ge_a);
  s.high_ge_a.add(high_ge_a);
  if constexpr (kClosed) {
    const M in_low = less_equal_where(low_ge_a, score, s.low_b);
    const M in_high = less_equal_where(high_ge_a, score, s.high_b);
    return either(either(in_low, in_high), unsure);
  } else {
    const M low_gt_b = not_less_equal(score, s.low_b);
    const M high_gt_b = not_less_equal(score, s.high_b);
    const M low_ge_b = not_less(score, s.low_b);
    const M high_ge_b = not_less(score, s.high_b);
    s.low_ge_b.add(low_ge_b);
    s.low_gt_b.add(low_gt_b);
    s.high_ge_b.add(high_ge_b);
    s.high_gt_b.add(high_gt_b);
    const M in_low = and_not(not_less_equal(score, s.low_a), low_ge_b);
    const M in_high = and_not(not_less_equal(score, s.high_a), high_ge_b);
    return either(either(in_low, in_high), unsure);
  }
}

template <bool kClosed>
inline void add_counts(const SelectLanes& s, PivotCounts& counts) {
  counts.low_ge_a += s.low_ge_a.total(), counts.high_ge_a += s.high_ge_a.total();
  if constexpr (kClosed) return;  // the others were not counted
  counts.low_ge_b += s.low_ge_b.total(), counts.low_gt_b += s.low_gt_b.total();
  counts.high_ge_b += s.high_ge_b.total(), counts.high_gt_b += s.high_gt_b.total();
}

/// Prefetches the 64 elements that lie kPrefetch ahead in a moment, a score (kCompact: 2 bytes
/// each) or an fp32 array; past the array's end, the start of the next pass's array in its place.
template <bool kCompact = false>
ALKN_INLINE void prefetch_word(const void* array, const Ahead& ahead, int place, std::int64_t i) {
  constexpr int kBytes = kCompact ? 2 : 4;
  const std::int64_t at = i + tuning::kPrefetch;
  if (at < ahead.size) {
    detail::prefetch<64 * kBytes>(array, at * kBytes);
  } else if (ahead.heads[place] != nullptr) {
    detail::prefetch<64 * kBytes>(ahead.heads[place], (at - ahead.size) * kBytes);
  }
}

inline std::uint64_t word_at(const std::uint64_t* words, std::int64_t i) {
  return words != nullptr ? words[i >> 6U] : 0;
}

/// Elements i and on of a moment or a score.
template <bool kCompact>
ALKN_INLINE F load_state(const void* state, std::int64_t i) {
  if constexpr (kCompact) {
    return widen_bfloat16_at(static_cast<const std::uint16_t*>(state) + i);
  } else {
    return load(static_cast<const float*>(state) + i);
  }
}
/// Rounds a score where the state is compact, and stores it; returns what it has become.
template <bool kCompact>
ALKN_INLINE F store_score(void* state, std::int64_t i, F score, U random) {
  if constexpr (kCompact) {
    const F rounded = rounded_score(score, random);
    store_upper(static_cast<std::uint16_t*>(state) + i, bits_in(rounded));
    return rounded;
  } else {
    store(static_cast<float*>(state) + i, score);
    return score;
  }
}
template <bool kCompact>
inline float state_value(const void* state, std::int64_t i) {
  if constexpr (kCompact) {
    return bfloat16_to_float(static_cast<const std::uint16_t*>(state)[i]);
  } else {
    return static_cast<const float*>(state)[i];
  }
}
/// Moves a pointer to a moment or a score by i elements.
template <bool kCompact, class Void>
inline void advance_state(Void*& state, std::int64_t i) {
  using Bytes = std::conditional_t<std::is_const_v<Void>, const char, char>;
  if (state != nullptr) state = static_cast<Bytes*>(state) + i * (kCompact ? 2 : 4);
}
/// The random numbers of a pass, vector by vector; none where the state is not compact.
template <bool kCompact>
class RandomBits {
 public:
  ALKN_INLINE explicit RandomBits(const Rounding& rounding)
      : lanes_(rounding_lanes(rounding.key, numbers_from(rounding.first))),
        step_(set_bits(kWeyl * static_cast<std::uint32_t>(kWidth))) {}
  ALKN_INLINE U next() {
    if constexpr (!kCompact) return lanes_.weyl;
    const U random = random_bits(lanes_);
    lanes_.weyl = add(lanes_.weyl, step_);
    return random;
  }

 private:
  RoundingLanes lanes_;
  U step_;
};

/// The rest of `pass` from element i on, fewer elements than a vector has; `used` and `mask` hold
/// their bits from bit 0 on.
template <bool kCompact>
inline ScorePass tail_of(const ScorePass& pass, std::int64_t i, const std::uint64_t* used,
                         std::uint64_t* mask) {
  ScorePass tail = pass;
  tail.size -= i;
  tail.ahead = {};
  tail.base += i;
  if (pass.grad != nullptr) tail.grad += i;
  if (pass.retain != nullptr) tail.retain += i;
  advance_state<kCompact>(tail.score_in, i);
  advance_state<kCompact>(tail.score_out, i);
  tail.rounding.first += static_cast<std::uint32_t>(i);
  tail.used = used;
  tail.mask = mask;
  return tail;
}

/// How many elements of the word at i whole vectors cover.
inline int vector_lanes(std::int64_t left) {
  return left >= 64 ? 64 : static_cast<int>(left) / kWidth * kWidth;
}

/// What a score pass selects: nothing, or the scores in open or in closed intervals.
enum class Select { none, open, closed };

/// kGrow: the score grows (else it stands already); kSelect: with counts, candidates and, if it
/// grows, mask bits.
template <bool kGrow, Select kSelected, bool kCompact>
inline void score_words(const ScorePass& given) {
  constexpr bool kSelect = kSelected != Select::none;
  const ScorePass pass = given;  // a copy: no store below can change it
  const ScoreLanes c = score_lanes(pass.numbers);
  RandomBits<kCompact> random(pass.rounding);
  SelectLanes select = select_lanes(pass.pivots);
  Candidates none;
  Candidates& found = kSelect ? *pass.candidates : none;
  float* const values = found.values;
  std::uint16_t* const indices = found.indices;
  const std::int64_t capacity = found.capacity;
  std::int64_t num_found = found.size;
  for (std::int64_t i = 0; i < pass.size; i += 64) {
    const std::uint64_t used = kGrow ? word_at(pass.used, i) : 0;
    const std::int64_t left = pass.size - i;
    const int lanes = vector_lanes(left);
    std::uint64_t word = 0, wanted = 0;
    prefetch_word<kCompact>(pass.score_in, pass.ahead, 0, i);
    if constexpr (kGrow) {
      prefetch_word(pass.grad, pass.ahead, 1, i);
      prefetch_word(pass.retain, pass.ahead, 2, i);
    }
    for (int lane = 0; lane < lanes; lane += kWidth) {
      F score = load_state<kCompact>(pass.score_in, i + lane);
      if constexpr (kGrow) {
        const F grad = clipped(c, load(pass.grad + i + lane));
        score = grown_score(c, grad, load(pass.retain + i + lane), score, mask_at(used, lane));
        score = store_score<kCompact>(pass.score_out, i + lane, score, random.next());
      }
      if constexpr (kSelect) {
        M on;
        const M inside = count_scores<kSelected == Select::closed>(select, score, on);
        word |= bits_of(on) << lane;
        wanted |= bits_of(inside) << lane;
      }
    }
    if constexpr (kSelect) {
      const void* scores = kGrow ? pass.score_out : pass.score_in;
      for (; wanted != 0; wanted &= wanted - 1) {
        const int lane = __builtin_ctzll(wanted);
        values[num_found] = state_value<kCompact>(scores, i + lane);
        indices[num_found++] = static_cast<std::uint16_t>(pass.base + i + lane);
      }
    }
    if constexpr (kWidth > 1) {
      if (lanes < 64 && lanes < left) {
        const std::uint64_t shifted = used >> lanes;
        std::uint64_t tail_word = 0;
        found.size = num_found;
        constexpr auto kSame = static_cast<scalar::Select>(kSelected);
        scalar::score_words<kGrow, kSame, kCompact>(
            tail_of<kCompact>(pass, i + lanes, &shifted, &tail_word));
        num_found = found.size;
        word |= tail_word << lanes;
      }
    }
    if constexpr (kSelect) {
      if constexpr (kGrow) pass.mask[i >> 6U] = word;
      if (num_found > capacity) {  // the slack has room for the candidates of one word
        num_found = capacity;
        found.overflow = true;
      }
    }
  }
  if constexpr (kSelect) {
    found.size = num_found;
    add_counts<kSelected == Select::closed>(select, *pass.counts);
  }
}

template <bool kGrow, bool kCompact>
inline void select_words(const ScorePass& pass) {
  if (pass.pivots.closed) {
    score_words<kGrow, Select::closed, kCompact>(pass);
  } else {
    score_words<kGrow, Select::open, kCompact>(pass);
  }
}

template <bool kCompact>
inline void score(const ScorePass& pass) {
  score_words<true, Select::none, kCompact>(pass);
}
template <bool kCompact>
inline void score_select(const ScorePass& pass) {
  select_words<true, kCompact>(pass);
}
template <bool kCompact>
inline void rescan(const ScorePass& pass) {
  select_words<false, kCompact>(pass);
}
