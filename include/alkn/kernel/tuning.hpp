// Every number that was chosen by measurement, and nothing else.
#pragma once

#include <cstdint>

namespace alkn::kernel::tuning {

/// Elements of one chunk, the unit of work and of summation. A multiple of 64, at most 65536
/// (16-bit indices).
inline constexpr std::int64_t kChunk = 65536;
/// Accumulators of a chunk's sums: element i is added to accumulator i mod kSumLanes.
inline constexpr std::int64_t kSumLanes = 128;
/// Elements that are converted to fp32 at a time where the parameter or the retain gradient is
/// narrower.
inline constexpr std::int64_t kBlock = 2048;

/// How many elements ahead the score and update passes ask for their cache lines, and the sums for
/// theirs. The hardware's own prefetchers stop at every page of 4 KiB, which is what LibTorch's
/// arrays lie on, and lose track of seven streams: 10 % of an AdamW step, 20 % of a later task's.
inline constexpr std::int64_t kPrefetch = 512;
inline constexpr std::int64_t kSumPrefetch = 2048;

/// Up to this many elements are selected directly, without brackets.
inline constexpr std::int64_t kDirectSelect = 256;
/// Candidates a chunk of a tensor of several chunks may set aside, as a share of its elements.
inline constexpr double kCandidateShare = 0.0625;
/// The share of a sample in the threshold's own bracket from which on it gets none.
inline constexpr double kUnsureShare = 0.02;
/// Elements sampled for a cold bracket: size / kSampleShare, between the two bounds.
inline constexpr std::int64_t kSampleShare = 64;
inline constexpr std::int64_t kSampleMin = 256;
inline constexpr std::int64_t kSampleMax = 32768;
/// Consecutive elements of a sample: one cache line.
inline constexpr std::int64_t kSampleLine = 16;
/// Half width of a sampled bracket, in standard deviations of the sample's rank.
inline constexpr double kSampleSigmas = 3.5;
/// Half width of a warm bracket, in largest recent errors of its prediction: of a tensor of several
/// chunks, whose scores a miss reads again from memory, and of one whose scores are in the cache.
inline constexpr double kWarmErrors = 3.0;
inline constexpr double kOwnWarmErrors = 2.0;
/// How much wider they are after a miss.
inline constexpr float kWidening = 4.0F;
/// How fast an old error of the prediction is forgotten.
inline constexpr float kErrorDecay = 0.7F;
/// More candidates of one bracket than this are binned before they are selected from.
inline constexpr std::int64_t kBinnedSelect = 2048;
inline constexpr int kBins = 1024;
/// Tensors of several chunks pass through score, select and update in groups of at least this many
/// elements a thread, so that what the score pass read is still in the last-level cache.
inline constexpr std::int64_t kGroupElements = 16 * kChunk;

}  // namespace alkn::kernel::tuning
