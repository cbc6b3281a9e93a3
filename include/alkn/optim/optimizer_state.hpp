// The state of an optimizer as LibTorch keeps it.
#pragma once

#include <c10/util/flat_hash_map.h>
#include <torch/optim/optimizer.h>

#include <memory>

namespace alkn::detail {

/// Exchanged by its swap() alone: its moves allocate, and end the program where there is no memory.
using OptimizerState =
    ska::flat_hash_map<void*, std::unique_ptr<torch::optim::OptimizerParamState>>;

}  // namespace alkn::detail
