// The example's model and its way of asking, as the library's harness wants them.
#pragma once

#include <alkn/eval/harness.hpp>

#include <cstdint>
#include <functional>
#include <utility>

#include "continual/model.hpp"
#include "continual/tokenizer.hpp"

namespace experiment {

/// Tokens to logits, with the model's key-value cache for decoding.
struct LanguageModel {
  using Cache = continual::KeyValueCache;

  continual::Transformer& net;

  at::Tensor operator()(const at::Tensor& tokens) const { return net.forward(tokens); }
  at::Tensor operator()(const at::Tensor& tokens, Cache& cache) const {
    return net.forward(tokens, &cache);
  }
};

/// begin question <answer> answer end, as the model has learned it.
inline alkn::eval::HarnessOptions prompt_options(const continual::Transformer& net) {
  using continual::Tokenizer;
  alkn::eval::HarnessOptions options;
  options.before = {Tokenizer::kBegin};
  options.between = {Tokenizer::kAnswer};
  options.end = Tokenizer::kEnd;
  options.pad = Tokenizer::kPad;
  options.context = net.config().context;
  options.batch = 64;
  return options;
}

using ModelHarness = alkn::eval::Harness<const LanguageModel, continual::Tokenizer>;

}  // namespace experiment
