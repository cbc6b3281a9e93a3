// Exact order statistics, whatever the input: brackets, warm and cold, ties, NaN, infinities,
// denormals, overflow.
#include <cstring>
#include <limits>

#include "catch.hpp"
#include "reference.hpp"

using namespace alkn_test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();

/// The rank-th largest by sorting, NaN largest, both zeros +0.
float by_sort(std::vector<float> v, std::int64_t rank) {
  std::sort(v.begin(), v.end(), nan_last_less);
  const float x = v[v.size() - static_cast<std::size_t>(rank)];
  return x == 0 ? 0.0F : x;
}

bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : std::memcmp(&a, &b, sizeof a) == 0;
}

enum class Ties { none, half, nearly_all, all };

std::vector<float> values_with(std::int64_t n, Ties ties, bool special, Numbers& numbers) {
  std::vector<float> v;
  const float tied = numbers.below(2) == 0 ? 0.0F : numbers.normal(1.0F);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t draw = numbers.below(100);
    const std::int64_t share = ties == Ties::none         ? 0
                               : ties == Ties::half       ? 50
                               : ties == Ties::nearly_all ? 99
                                                          : 100;
    float x = draw < share ? tied : numbers.normal(1.0F);
    if (special && numbers.below(5) == 0) {
      const float odd[] = {kNaN, kInf,  -kInf,   kTiny,    -kTiny,
                           0.0F, -0.0F, 3.4e38F, -3.4e38F, 1e-39F};
      x = odd[numbers.below(10)];
    }
    v.push_back(x);
  }
  return v;
}

/// A tensor whose score becomes `target` in one step, whatever it was.
struct Scores {
  OwnedTensor t;
  CpuStep cpu;
  StepArgs args;

  explicit Scores(std::int64_t n) : t(n, DType::float32, DType::float32) {
    args.mask = MaskKind::localized;
    args.threshold_due = true;
    args.update = Update::gradient;
    for (std::int64_t i = 0; i < n; ++i) t.set_retain(i, 1.0F);
  }

  /// Takes a step with a zero gradient over the given scores; checks threshold, mask and count.
  template <class Pool>
  bool step(const std::vector<float>& target, Pool& pool, std::int64_t threads) {
    t.score = target;
    StepTensor view = t.view();
    cpu.run(&view, 1, args, ParallelFor(pool, threads));
    std::vector<float> counted = target;
    for (float& x : counted) x = without_denormal(x);
    const float eta = reference_threshold(counted, args.unmask_ratio, args.trim_ratio);
    bool good = same(view.threshold, eta) || (view.threshold == 0 && eta == 0);  // of any sign
    std::int64_t num_trained = 0;
    for (std::int64_t i = 0; i < t.size; ++i) {
      const bool on = counted[static_cast<std::size_t>(i)] > eta;
      good = good && on == OwnedTensor::bit(t.mask, i);
      num_trained += on ? 1 : 0;
    }
    return good && num_trained == view.num_trained;
  }
};

const auto kSerial = [](std::int64_t num_items, RangeBody body) { body(0, num_items); };

}  // namespace

TEST_CASE("keys order as floats do") {
  const std::vector<float> rising = {-kInf, -3.4e38F, -1.0F, -1e-39F, -kTiny, 0.0F,
                                     kTiny, 1e-39F,   1.0F,  3.4e38F, kInf,   kNaN};
  for (std::size_t i = 0; i + 1 < rising.size(); ++i) {
    CHECK(order_key(rising[i]) < order_key(rising[i + 1]));
    CHECK(same(key_value(order_key(rising[i])), rising[i]));
  }
  CHECK(order_key(-0.0F) == order_key(0.0F));
  CHECK(order_key(-kNaN) == order_key(kNaN));
}

TEST_CASE("every order statistic of up to 300 numbers") {
  Numbers numbers(1);
  RadixSelect radix;
  std::int64_t wrong = 0;
  for (std::int64_t n = 1; n <= 300; ++n) {
    for (const Ties ties : {Ties::none, Ties::half, Ties::nearly_all, Ties::all}) {
      const std::vector<float> v = values_with(n, ties, n % 2 == 0, numbers);
      std::vector<float> sorted = v;
      std::sort(sorted.begin(), sorted.end(), nan_last_less);
      std::vector<std::uint32_t> sample;
      for (const float x : v) sample.push_back(order_key(x));
      std::vector<std::uint32_t> spare(static_cast<std::size_t>(num_spare_keys(n)));
      SampledKeys sampled(sample.data(), n, spare.data());
      for (std::int64_t rank = 1; rank <= n; rank += 1 + n / 16) {
        const float right = by_sort(v, rank);
        wrong += !same(key_value(sampled.at(n - rank)), right);
        std::vector<std::uint32_t> keys = sample;
        wrong += !same(select_direct(keys.data(), n, rank), right);
        float low = 0, high = 0;
        radix.select(v.data(), n, {rank, n - rank + 1}, ParallelFor::serial(), low, high);
        wrong += !same(low, right) || !same(high, by_sort(v, n - rank + 1));
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("an order statistic from counts and candidates is right or missed") {
  Numbers numbers(2);
  std::int64_t wrong = 0, found = 0, missed = 0;
  PairSelect select;
  for (int round = 0; round < 4000; ++round) {
    const std::int64_t n = 1 + numbers.below(round % 20 == 0 ? 20000 : 200);
    const std::vector<float> v =
        values_with(n, static_cast<Ties>(numbers.below(4)), numbers.below(2) == 0, numbers);
    // ends taken from the data, or anywhere
    const auto end = [&] {
      float x = numbers.below(2) == 0 ? v[static_cast<std::size_t>(numbers.below(n))]
                                      : numbers.normal(2.0F);
      if (numbers.below(10) == 0) x = numbers.below(2) == 0 ? kInf : -kInf;
      return std::isnan(x) ? kInf : x;
    };
    Pivots p;
    float ends[4] = {end(), end(), end(), end()};
    p.low_a = std::min(ends[0], ends[1]), p.low_b = std::max(ends[0], ends[1]);
    p.high_a = std::min(ends[2], ends[3]), p.high_b = std::max(ends[2], ends[3]);
    p.eta_a = std::min(ends[1], ends[2]), p.eta_b = std::max(ends[1], ends[2]);
    p.closed = numbers.below(2) == 0;
    const std::int64_t capacity = numbers.below(4) == 0 ? n / 8 : n;
    std::vector<float> values(static_cast<std::size_t>(capacity + kCandidateSlack));
    std::vector<std::uint16_t> indices(values.size());
    for (const SimdLevel level : simd_levels()) {
      Candidates list{values.data(), indices.data(), capacity, 0, false};
      PivotCounts counts;
      ScorePass pass;
      pass.size = n, pass.score_in = v.data(), pass.pivots = p;
      pass.counts = &counts, pass.candidates = &list;
      kernels(level).fp32.rescan(pass);
      for (std::int64_t i = 0; i < list.size && !list.overflow; ++i) {
        wrong +=
            !same(values[static_cast<std::size_t>(i)], v[indices[static_cast<std::size_t>(i)]]);
      }
      const Ranks ranks{1 + numbers.below(n), 1 + numbers.below(n)};
      const SelectedPair pair = select.run({&list, 1}, p, counts, ranks, ParallelFor::serial());
      const auto judge = [&](const Selected& s, float a, float b, std::int64_t rank) {
        const float right = by_sort(v, rank);
        if (s.outcome == Outcome::found) {
          ++found;
          wrong += !same(s.value, right);
        } else {
          ++missed;
          wrong += !list.overflow && right >= a && right <= b;  // it lay there, nothing was lost
        }
      };
      judge(pair.low, p.low_a, p.low_b, ranks.low);
      judge(pair.high, p.high_a, p.high_b, ranks.high);
    }
  }
  CHECK(wrong == 0);
  CHECK(found > 1000);
  CHECK(missed > 1000);
}

TEST_CASE("thresholds of every small size, with ties and special values") {
  Numbers numbers(3);
  std::int64_t wrong = 0;
  for (std::int64_t n = 10; n <= 300; ++n) {
    for (const Ties ties : {Ties::none, Ties::half, Ties::nearly_all, Ties::all}) {
      Scores scores(n);
      for (int step = 0; step < 4; ++step) {
        scores.args.unmask_ratio = 0.4 + 0.2 * step;  // the last one is 1
        wrong += !scores.step(values_with(n, ties, step == 2, numbers), kSerial, 1);
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("adversarial scores stay exact, step after step") {
  const std::int64_t n = GENERATE(300, 5000, 65536, 65537, 400001);
  const SimdLevel level = GENERATE(SimdLevel::scalar, SimdLevel::avx2, SimdLevel::avx512);
  if (!simd_supported(level)) return;
  const WithSimd with(level);
  Numbers numbers(4);
  const auto size = static_cast<std::size_t>(n);
  struct Shape {
    const char* name;
    float (*at)(std::int64_t i, std::int64_t n, int step, Numbers& numbers);
  };
  const Shape shapes[] = {
      {"normal", [](std::int64_t, std::int64_t, int step,
                    Numbers& r) { return r.normal(std::sqrt(1.0F + static_cast<float>(step))); }},
      {"all equal", [](std::int64_t, std::int64_t, int, Numbers&) { return 0.25F; }},
      {"two heavy values",
       [](std::int64_t i, std::int64_t, int, Numbers&) { return i % 2 == 0 ? 1.0F : -1.0F; }},
      {"99 % zeros", [](std::int64_t, std::int64_t, int,
                        Numbers& r) { return r.below(100) == 0 ? r.normal(1.0F) : 0.0F; }},
      {"80 % zeros that move",
       [](std::int64_t, std::int64_t, int step, Numbers& r) {
         return r.below(5) == 0 ? r.normal(1.0F) : 0.1F * static_cast<float>(step % 3);
       }},
      {"sorted",
       [](std::int64_t i, std::int64_t size_, int step, Numbers&) {
         return static_cast<float>(i - size_ / 2) * (1.0F + static_cast<float>(step));
       }},
      {"alternating", [](std::int64_t i, std::int64_t, int,
                         Numbers&) { return (i % 2 == 0 ? 1.0F : -1.0F) * static_cast<float>(i); }},
      {"misses every step",
       [](std::int64_t, std::int64_t, int step, Numbers& r) {
         return r.normal(step % 2 == 0 ? 1.0F : 1000.0F) + static_cast<float>((step * 7919) % 13);
       }},
      {"NaN, infinities, denormals",
       [](std::int64_t i, std::int64_t, int step, Numbers& r) {
         const float odd[] = {kNaN, kInf, -kInf, kTiny, -kTiny};
         return r.below(5) == 0 ? odd[(i + step) % 5] : r.normal(1e-38F);
       }},
      {"half NaN", [](std::int64_t, std::int64_t, int,
                      Numbers& r) { return r.below(2) == 0 ? kNaN : r.normal(1.0F); }},
      {"all NaN", [](std::int64_t, std::int64_t, int, Numbers&) { return kNaN; }},
      {"all infinite",
       [](std::int64_t, std::int64_t, int step, Numbers&) { return step % 2 == 0 ? kInf : -kInf; }},
      {"rows of zeros", [](std::int64_t i, std::int64_t, int,
                           Numbers& r) { return (i / 768) % 4 == 0 ? r.normal(1.0F) : 0.0F; }},
  };
  Threads pool{2};
  for (const Shape& shape : shapes) {
    INFO(shape.name << ", " << n << " scores, " << simd_name(level));
    Scores scores(n);
    int wrong = 0;
    for (int step = 0; step < 7; ++step) {
      std::vector<float> v(size);
      for (std::size_t i = 0; i < size; ++i)
        v[i] = shape.at(static_cast<std::int64_t>(i), n, step, numbers);
      wrong += !scores.step(v, pool, 2);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("heavy tails, as of real scores, do not fill the lists of candidates") {
  for (const std::int64_t n : {std::int64_t{110592}, std::int64_t{884736}}) {
    Numbers numbers(6);
    Scores scores(n);
    std::vector<float> v(static_cast<std::size_t>(n), 0.0F);
    bool right = true;
    for (int step = 0; step < 10; ++step) {
      for (float& x : v) x += std::pow(numbers.normal(1.0F), 11.0F) * 1e-12F;
      right = scores.step(v, kSerial, 1) && right;
    }
    CHECK(right);
    const PredictionCounts counts = scores.cpu.predictions();
    INFO(n << " scores, " << counts.hits << " predicted, " << counts.sampled_hits << " sampled");
    CHECK(counts.misses + counts.sampled_misses <= 1);
  }
}
