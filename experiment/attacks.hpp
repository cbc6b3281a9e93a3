// What a sceptic does to an unlearned model: teach it again, round its weights.
#pragma once

#include <cstdint>
#include <vector>

#include "continual/json.hpp"
#include "continual/model.hpp"
#include "experiment/measure.hpp"

namespace experiment {

struct RelearnSettings {
  double lr = 5e-4;  ///< of AdamW; no schedule
  std::int64_t batch = 32;
  std::vector<std::int64_t> steps{1, 2, 5, 10, 20, 50};  ///< after which it is measured
};

/// The schema's `relearning`: on half of the questions of every forgotten author, and on kept
/// authors alone; measured on the other half. The model's weights are put back.
continual::Json relearn(continual::Transformer& net, const Measure& measure,
                        const continual::Tokenizer& tokenizer, const RelearnSettings& settings,
                        std::uint64_t seed);

/// The 4-bit codes of the linear weights, without the head, in the order of the parameters.
using Codes = std::vector<std::vector<std::uint8_t>>;

/// The codes of a model as it is.
Codes nf4_codes(continual::Transformer& net);

/// The schema's `quantization`: after a round trip through NF4; codes against `original`. The
/// model's weights are put back.
continual::Json quantize(continual::Transformer& net, const Measure& measure,
                         const Codes& original);

}  // namespace experiment
