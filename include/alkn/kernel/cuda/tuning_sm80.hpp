// Launch numbers for compute capability 8.x (A100). Chosen by counting registers and bytes in
// flight, not yet by measurement.
#pragma once

namespace alkn::kernel::cuda {

struct TuningSm80 {
  static constexpr int kThreads = 256;     ///< of every kernel but the norm
  static constexpr int kUpdateBlocks = 4;  ///< resident blocks a multiprocessor: update
  static constexpr int kScoreBlocks = 4;   ///< score and radix
  static constexpr int kTensorBlocks = 2;  ///< sample and select: one block a tensor
  static constexpr int kNormBlocks = 24;   ///< norm: one warp each
  static constexpr int kTokenBlocks = 4;   ///< token log-probability and its gradient
};

}  // namespace alkn::kernel::cuda
