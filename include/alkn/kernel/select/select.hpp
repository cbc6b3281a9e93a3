// Exact order statistics from counts and candidates: where a value must lie is predicted, what lies
// there is set aside while the scores are written, and the value is selected from those few.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include <alkn/kernel/math.hpp>
#include <alkn/kernel/parallel.hpp>
#include <alkn/kernel/select/candidates.hpp>
#include <alkn/kernel/select/quickselect.hpp>
#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel {

/// Selects both order statistics from a list, in parallel where it is long. Allocates at its first
/// use, and when threads are added.
class PairSelect {
 public:
  void reserve(std::int64_t num_threads) {
    if (static_cast<std::int64_t>(parts_.size()) < num_threads) {
      parts_.resize(static_cast<std::size_t>(num_threads));
    }
  }

  SelectedPair run(const CandidateList& list, const Pivots& p, const PivotCounts& counts,
                   const Ranks& ranks, const ParallelFor& parallel) {
    const Bracket brackets[2] = {
        {p.low_a, p.low_b, counts.low_ge_a, counts.low_ge_b, counts.low_gt_b, p.closed},
        {p.high_a, p.high_b, counts.high_ge_a, counts.high_ge_b, counts.high_gt_b, p.closed}};
    const std::int64_t rank[2] = {ranks.low, ranks.high};
    const bool lost = list.overflow();
    Selected results[2];
    for (int t = 0; t < 2; ++t) targets_[t] = keys_inside(brackets[t]);
    const bool few = list.size() <= tuning::kBinnedSelect;
    split(list, few ? 1 : parallel.num_threads());
    scan(list, parallel, few);
    for (int t = 0; t < 2; ++t) {
      results[t] = resolve(targets_[t], brackets[t], rank[t], lost);
    }
    while (targets_[0].open || targets_[1].open) {
      if (!few) {
        narrow();
        const bool gather = targets_[0].inside <= tuning::kBinnedSelect &&
                            targets_[1].inside <= tuning::kBinnedSelect;
        if (targets_[0].open || targets_[1].open) scan(list, parallel, gather);
        if (!gather) continue;
      }
      for (int t = 0; t < 2; ++t) {
        if (targets_[t].open) pick(t);
      }
    }
    for (int t = 0; t < 2; ++t) {
      if (targets_[t].selected) results[t].value = targets_[t].value;
    }
    return {results[0], results[1]};
  }

 private:
  /// The keys low <= key <= high that are left, of which the rank-th largest is wanted.
  struct Target {
    std::uint32_t low = 0, high = 0;
    std::int64_t rank = 0, inside = 0;
    int shift = 0;          ///< log2 of the keys of one bin
    bool open = false;      ///< its value is among the candidates and not found yet
    bool selected = false;  ///< it was found there
    float value = 0;

    void close() {  // no listed key is NaN's
      low = high = 0xFFFFFFFFU;
      inside = 0;
      open = false;
    }
    void found(float x) {
      value = x;
      selected = true;
      close();
    }
  };
  struct Part {
    std::int64_t begin = 0, end = 0;                               ///< chunks
    std::array<std::uint32_t, tuning::kBins + 1> bins[2];          // the last: of keys that are out
    std::array<std::uint32_t, tuning::kBinnedSelect + 1> keys[2];  // one more is written
    std::size_t num_keys[2] = {0, 0};
  };

  static Target keys_inside(const Bracket& in) {
    Target target;
    target.low = order_key(in.a) + (in.closed ? 0 : 1);
    target.high = order_key(in.b) - (in.closed ? 0 : 1);
    if (target.low > target.high) target.close();
    return target;
  }

  void split(const CandidateList& list, std::int64_t num_parts) {
    reserve(num_parts);
    num_parts_ = num_parts;
    for (std::int64_t i = 0; i < num_parts; ++i) {
      Part& part = parts_[static_cast<std::size_t>(i)];
      part.begin = i * list.num_chunks / num_parts;
      part.end = (i + 1) * list.num_chunks / num_parts;
    }
  }

  /// Reads the list once: gathers the keys that are left, or counts them in bins.
  void scan(const CandidateList& list, const ParallelFor& parallel, bool gather) {
    for (Target& target : targets_) {
      target.shift = 0;
      while (((target.high - target.low) >> target.shift) >= tuning::kBins) ++target.shift;
    }
    const auto scan_parts = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        Part& part = parts_[static_cast<std::size_t>(i)];
        if (gather) {
          gather_part(list, part);
        } else {
          count_part(list, part);
        }
      }
    };
    if (num_parts_ == 1) {
      scan_parts(0, 1);
    } else {
      parallel(num_parts_, scan_parts);
    }
    for (int t = 0; t < 2; ++t) {
      targets_[t].inside = 0;
      for (std::int64_t i = 0; i < num_parts_; ++i) {
        const Part& part = parts_[static_cast<std::size_t>(i)];
        targets_[t].inside += static_cast<std::int64_t>(part.num_keys[t]);
      }
    }
  }

  void gather_part(const CandidateList& list, Part& part) const {
    const std::uint32_t low[2] = {targets_[0].low, targets_[1].low};
    const std::uint32_t span[2] = {targets_[0].high - low[0], targets_[1].high - low[1]};
    std::size_t found[2] = {0, 0};
    for (std::int64_t c = part.begin; c < part.end; ++c) {
      for (std::int64_t i = 0; i < list.chunks[c].size; ++i) {
        const std::uint32_t key = order_key(list.chunks[c].values[i]);
        for (int t = 0; t < 2; ++t) {
          part.keys[t][found[t]] = key;  // kept if the next one does not overwrite it
          found[t] += key - low[t] <= span[t] ? 1 : 0;
        }
      }
    }
    part.num_keys[0] = found[0], part.num_keys[1] = found[1];
  }

  void count_part(const CandidateList& list, Part& part) const {
    const std::uint32_t low[2] = {targets_[0].low, targets_[1].low};
    const std::uint32_t span[2] = {targets_[0].high - low[0], targets_[1].high - low[1]};
    const int shift[2] = {targets_[0].shift, targets_[1].shift};
    part.bins[0].fill(0), part.bins[1].fill(0);
    for (std::int64_t c = part.begin; c < part.end; ++c) {
      for (std::int64_t i = 0; i < list.chunks[c].size; ++i) {
        const std::uint32_t key = order_key(list.chunks[c].values[i]);
        for (int t = 0; t < 2; ++t) {
          const std::uint32_t above = key - low[t];
          ++part.bins[t][above <= span[t] ? above >> shift[t] : tuning::kBins];
        }
      }
    }
    for (int t = 0; t < 2; ++t) {
      part.num_keys[t] = 0;
      for (std::size_t bin = 0; bin < tuning::kBins; ++bin) part.num_keys[t] += part.bins[t][bin];
    }
  }

  /// What the counts at the ends decide; opens the target if its value lies among the candidates.
  static Selected resolve(Target& target, const Bracket& in, std::int64_t rank, bool lost) {
    const std::int64_t inside = target.inside;
    const std::int64_t above = in.closed ? in.ge_a - inside : in.ge_b;
    if (!in.closed && rank <= in.gt_b) {
      if (in.b < std::numeric_limits<float>::infinity()) return {};
      return {Outcome::found, std::numeric_limits<float>::quiet_NaN(), true,
              inside};  // NaN is above
    }
    if (!in.closed && rank <= in.ge_b)
      return {Outcome::found, in.b == 0 ? 0.0F : in.b, true, inside};
    if (rank > in.ge_a || lost || rank <= above) return {};
    if (rank > above + inside) return {Outcome::found, in.a == 0 ? 0.0F : in.a, true, inside};
    target.rank = rank - above;
    target.open = true;
    return {Outcome::found, 0, false, inside};
  }

  /// Leaves of each open target the bin of the last scan that holds the wanted key.
  void narrow() {
    for (int t = 0; t < 2; ++t) {
      Target& target = targets_[t];
      if (!target.open) {
        target.close();
        continue;
      }
      std::uint32_t bin = (target.high - target.low) >> target.shift;
      while (target.rank > in_bin(t, bin)) target.rank -= in_bin(t, bin--);
      target.inside = in_bin(t, bin);
      target.low += bin << target.shift;
      target.high = std::min(target.high, target.low + ((1U << target.shift) - 1U));
      if (target.low == target.high) target.found(key_value(target.low));
    }
  }
  [[nodiscard]] std::int64_t in_bin(int t, std::uint32_t bin) const {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < num_parts_; ++i) {
      sum += parts_[static_cast<std::size_t>(i)].bins[t][bin];
    }
    return sum;
  }

  void pick(int t) {
    Part& all = parts_[0];
    std::size_t count = all.num_keys[t];
    for (std::int64_t i = 1; i < num_parts_; ++i) {
      const Part& part = parts_[static_cast<std::size_t>(i)];
      std::copy_n(part.keys[t].data(), part.num_keys[t], all.keys[t].data() + count);
      count += part.num_keys[t];
    }
    const std::size_t place = count - static_cast<std::size_t>(targets_[t].rank);
    targets_[t].found(key_value(select_key(all.keys[t].data(), spare_.data(), count, place)));
  }

  Target targets_[2];
  std::array<std::uint32_t, tuning::kBinnedSelect + 1> spare_;
  std::vector<Part> parts_;
  std::int64_t num_parts_ = 1;
};

}  // namespace alkn::kernel
