// The shape of the CUDA kernels' work. None of these numbers changes a result. Launch numbers were
// chosen by counting registers and bytes in flight, not by measurement, and serve all
// architectures.
#pragma once

#include <cstdint>

#include <alkn/kernel/tuning.hpp>

namespace alkn::kernel::cuda::tuning {

using namespace alkn::kernel::tuning;

/// Threads of the norm kernel's blocks: each has 4 of the kSumLanes accumulators.
inline constexpr int kNormThreads = static_cast<int>(kSumLanes / 4);
/// Rows of kSumLanes elements that a norm thread loads before it adds them.
inline constexpr int kNormRows = 4;
/// Chunk sums that each thread of the norm's last block loads at a time.
inline constexpr int kFinishLoads = 8;
/// Threads of all other kernels' blocks.
inline constexpr int kThreads = 256;
/// Resident blocks a multiprocessor: of the norm (one warp each), of the update, of score and
/// radix, of sample and select (one block a tensor), of the token log-probability and its gradient.
inline constexpr int kNormBlocks = 24;
inline constexpr int kUpdateBlocks = 4;
inline constexpr int kScoreBlocks = 4;
inline constexpr int kTensorBlocks = 2;
inline constexpr int kTokenBlocks = 4;
/// Elements that one block of score and update handles before it takes the next; divides kChunk.
inline constexpr std::int64_t kUnit = 16384;
inline constexpr std::int64_t kUnits = kChunk / kUnit;

/// Scores of a sample. A tensor of at most so many elements gets its threshold from all of them.
inline constexpr std::int64_t kSample = 8192;
/// Candidates of one bracket that a block collects before it writes them.
inline constexpr std::uint32_t kStaged = 2048;
/// Room for the candidates of one bracket: a share of the tensor, and some.
inline constexpr std::int64_t kCandidatePart = 24;
inline constexpr std::int64_t kCandidateMin = 1024;
/// Bins of a radix digit.
inline constexpr int kRadixBins = 2048;

/// Threads of the token kernels' blocks, and elements of a row that are summed in float: the CPU's
/// block (kernel::rows::kBlock), so that both have the same bits.
inline constexpr int kTokenThreads = 256;
inline constexpr int kTokenBlock = 4096;
inline constexpr int kTokenGroup = 64;  ///< accumulators of a block's sum
inline constexpr int kTokenLoads = kTokenBlock / (4 * kTokenThreads);

/// Words of a mask that one block of the history kernels handles before it takes the next.
inline constexpr std::int64_t kWordUnit = 8192;

}  // namespace alkn::kernel::cuda::tuning
