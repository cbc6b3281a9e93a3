#include "experiment/attacks.hpp"

#include <ATen/core/grad_mode.h>
#include <alkn/objective/losses.hpp>
#include <alkn/optim/adamw.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "continual/batch.hpp"
#include "experiment/nf4.hpp"

namespace experiment {
namespace {

using continual::Json;
using continual::Transformer;

/// Puts the weights back when it goes.
class KeptWeights {
 public:
  explicit KeptWeights(Transformer& net) : parameters_(net.parameters()) {
    for (const at::Tensor& parameter : parameters_) {
      weights_.push_back(parameter.detach().clone());
    }
  }
  ~KeptWeights() {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      parameters_[i].copy_(weights_[i]);
      parameters_[i].mutable_grad().reset();
    }
  }
  KeptWeights(const KeptWeights&) = delete;
  KeptWeights& operator=(const KeptWeights&) = delete;

 private:
  std::vector<at::Tensor> parameters_, weights_;
};

/// Every second question of each author: the trained half is the even ones.
Questions half(const QuestionSet& set, std::size_t parity) {
  Questions result;
  for (std::size_t i = parity; i < set.asked.size(); i += 2) {
    result.push_back(set.asked[i]);
  }
  return result;
}

continual::Samples encode(const Questions& questions, const continual::Tokenizer& tokenizer,
                          std::int64_t context) {
  std::vector<continual::Pair> pairs;
  for (const Question& q : questions) {
    pairs.push_back({q.question, q.answer});
  }
  return continual::encode_pairs(tokenizer, pairs, context);
}

Json relearn_on(const char* on, const Questions& taught, Transformer& net, const Measure& measure,
                const continual::Tokenizer& tokenizer, const RelearnSettings& settings,
                std::uint64_t seed) {
  const KeptWeights kept(net);
  const Questions other = half(measure.forgotten(), 1);
  const continual::Samples samples = encode(taught, tokenizer, net.config().context);
  alkn::AdamW optimizer(net.parameters(), alkn::AdamWOptions(settings.lr));
  Json steps = Json::array({0});
  Json probability = Json::array({continual::number(measure.probability(net, other))});
  std::vector<continual::Batch> batches;
  const std::int64_t per_pass = continual::num_batches(samples, settings.batch);
  for (std::int64_t step = 0; step < settings.steps.back(); ++step) {
    if (step % per_pass == 0) {
      batches = continual::shuffled_batches(
          samples, settings.batch,
          continual::Random{seed, 0x4E1EA4, static_cast<std::uint64_t>(step / per_pass)});
    }
    const continual::Batch& batch = batches[static_cast<std::size_t>(step % per_pass)];
    optimizer.zero_grad();
    alkn::mean_nll(net.forward(batch.tokens), batch.labels).backward();
    optimizer.step();
    if (std::find(settings.steps.begin(), settings.steps.end(), step + 1) != settings.steps.end()) {
      steps.push_back(step + 1);
      probability.push_back(continual::number(measure.probability(net, other)));
    }
  }
  return {{"on", on}, {"steps", std::move(steps)}, {"probability", std::move(probability)}};
}

/// Rounds the linear weights but the head's. @returns their codes
Codes round_weights(Transformer& net) {
  const at::NoGradGuard no_grad;
  Codes codes;
  for (const auto& item : net.named_parameters()) {
    const at::Tensor& weight = item.value();
    const bool linear = weight.dim() == 2 && item.key().rfind("block", 0) == 0;
    if (linear) {
      codes.push_back(nf4_round_trip(
          {weight.mutable_data_ptr<float>(), static_cast<std::size_t>(weight.numel())}));
    }
  }
  return codes;
}

}  // namespace

Json relearn(Transformer& net, const Measure& measure, const continual::Tokenizer& tokenizer,
             const RelearnSettings& settings, std::uint64_t seed) {
  Json result = Json::array();
  result.push_back(relearn_on("forgotten", half(measure.forgotten(), 0), net, measure, tokenizer,
                              settings, seed));
  result.push_back(
      relearn_on("kept", measure.world().shown.asked, net, measure, tokenizer, settings, seed));
  return result;
}

Codes nf4_codes(Transformer& net) {
  const KeptWeights kept(net);
  return round_weights(net);
}

Json quantize(Transformer& net, const Measure& measure, const Codes& original) {
  const KeptWeights kept(net);
  const Codes codes = round_weights(net);
  std::size_t changed = 0, all = 0;
  for (std::size_t t = 0; t < codes.size(); ++t) {
    for (std::size_t i = 0; i < codes[t].size(); ++i) {
      changed += codes[t][i] != original[t][i] ? 1U : 0U;
    }
    all += codes[t].size();
  }
  return {{"probability", measure.probabilities(net)},
          {"codes_changed", static_cast<double>(changed) / static_cast<double>(all)}};
}

}  // namespace experiment
