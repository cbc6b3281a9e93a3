// What lies in device memory for a step: what the host writes each step, and what the kernels keep
// to themselves.
#pragma once

#include <cstdint>

#include <alkn/kernel/cuda/tuning.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {

/// The step as the host describes it. Written each step, with the tensors behind it, by one copy.
struct Header {
  StepArgs args;
  std::int64_t num_tensors = 0;
  std::int64_t num_chunks = 0;
  bool sums = true;     ///< the step needs the sums over all gradients
  bool waits = false;   ///< the sums of others are to be added: combine_kernel finishes the norm
  int num_devices = 1;  ///< of this process, whose gradients the norm is of
  int device = 0;       ///< this one's number among them
};

/// How a tensor gets its threshold in a step.
enum class Way : std::uint8_t {
  given,      ///< it is known before the step, or there is none
  direct,     ///< few elements: from all scores to come, before they are written
  bracketed,  ///< score, select, and, if the brackets missed, radix
};

struct Tensor {
  StepTensor t;
  Way way = Way::given;
  std::int64_t first_chunk = 0, num_chunks = 0;
  std::int64_t candidates = 0,
               capacity = 0;   ///< bracketed: capacity keys for each of two brackets, from there on
  std::int64_t histogram = 0;  ///< bracketed: its number among them
};

struct Chunk {
  std::int64_t tensor = 0;
  std::int64_t begin = 0;
  std::int64_t size = 0;
};

/// One order statistic while it is looked for, as keys that order as the floats (order_key).
struct Target {
  std::uint32_t a = 0, b = 0;  ///< the bracket's ends; neither is stored as a candidate
  std::uint32_t prefix = 0;    ///< radix: the digits that are known
  std::uint32_t missed = 0;
  std::uint64_t rank = 0;  ///< from the largest, 1-based; radix: among those with the prefix
  std::uint64_t above = 0, equal_b = 0, inside = 0, equal_a = 0;  ///< counted by the score pass
};

/// What the kernels keep of one tensor.
struct TensorState {
  Target targets[2];  ///< low, high
  std::uint64_t chunks_done = 0;
  std::uint64_t num_trained = 0;
  float threshold = 0;
  float deviation = 0;
};

/// What the kernels keep of the step.
struct Control {
  double grad_norm = 0, clip_scale = 1;
  float scale = 1;
  std::uint32_t skip = 0;
  std::uint64_t num_missed = 0;   ///< tensors that need the radix passes
  std::uint64_t blocks_done = 0;  ///< of the norm kernel
  std::uint64_t step = 0;         ///< steps begun; varies the sample
};

/// The argument of every kernel.
struct Table {
  const Header* header = nullptr;
  const Tensor* tensors = nullptr;      ///< [num_tensors]
  const Chunk* chunks = nullptr;        ///< [num_chunks]
  Control* control = nullptr;           ///< zero at first
  TensorState* states = nullptr;        ///< [num_tensors], zero at first
  double* sums = nullptr;               ///< [3][num_chunks]: g^2, d, d^2
  std::uint32_t* candidates = nullptr;  ///< keys
  std::uint64_t* histograms = nullptr;  ///< [bracketed tensors][2][kRadixBins], zero between steps
  double* squares = nullptr;            ///< [num_devices] where the step waits: sum g^2 of each
};

}  // namespace alkn::kernel::cuda
