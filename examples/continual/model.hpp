// What the loop needs of a model, and a small decoder-only transformer: pre-norm, learned
// positions, GELU, untied head.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/util/Exception.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "continual/batch.hpp"

namespace continual {

/// A model as training and measurement see it.
class Model : public torch::nn::Module {
 public:
  /// What the losses take beside the batch's labels: logits [B, T, V], or those of
  /// alkn::answer_rows(labels) alone, [N, V].
  virtual at::Tensor logits(const Batch& batch) = 0;

  /// Samples at once where no gradient is needed.
  [[nodiscard]] virtual std::int64_t evaluation_batch() const { return 64; }

  /// Which samples of a pass go together. Padding costs a large model more than it does a small
  /// one.
  [[nodiscard]] virtual Lengths lengths() const { return Lengths::mixed; }
};

struct ModelConfig {
  std::int64_t vocabulary = 0;
  std::int64_t layers = 3, width = 128, heads = 4;
  std::int64_t context = 256;  ///< tokens at most
};

/// The parameters that are to change; frozen ones are left out, and take no memory of a method.
inline std::vector<std::pair<std::string, at::Tensor>> trainable(const Model& model) {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  for (const auto& item : model.named_parameters()) {
    if (item.value().requires_grad()) {
      parameters.emplace_back(item.key(), item.value());
    }
  }
  return parameters;
}

/// Keys and values of the tokens so far, one pair of [B, heads, t, width / heads] a layer.
/// Empty: nothing was fed yet.
struct KeyValueCache {
  std::vector<std::pair<at::Tensor, at::Tensor>> layers;

  [[nodiscard]] std::int64_t length() const {
    return layers.empty() ? 0 : layers.front().first.size(2);
  }
};

class Block : public torch::nn::Module {
 public:
  Block(std::int64_t width, std::int64_t heads)
      : heads_(heads),
        norm1_(register_module("norm1", torch::nn::LayerNorm(norm_options(width)))),
        qkv_(register_module("qkv", torch::nn::Linear(width, 3 * width))),
        out_(register_module("out", torch::nn::Linear(width, width))),
        norm2_(register_module("norm2", torch::nn::LayerNorm(norm_options(width)))),
        up_(register_module("up", torch::nn::Linear(width, 4 * width))),
        down_(register_module("down", torch::nn::Linear(4 * width, width))) {}

  /// x [B, t, width] -> the same; `cached` (may be null) is prolonged by t tokens.
  at::Tensor forward(const at::Tensor& x, std::pair<at::Tensor, at::Tensor>* cached) {
    const at::Tensor h = x + out_(attention(qkv_(norm1_(x)), cached));
    return h + down_(at::gelu(up_(norm2_(h)), "tanh"));
  }

 private:
  static torch::nn::LayerNormOptions norm_options(std::int64_t width) {
    return torch::nn::LayerNormOptions(std::vector<std::int64_t>{width});
  }

  at::Tensor attention(const at::Tensor& qkv, std::pair<at::Tensor, at::Tensor>* cached) const {
    const std::int64_t batch = qkv.size(0), length = qkv.size(1), width = qkv.size(2) / 3;
    const auto parts =
        qkv.view({batch, length, 3, heads_, width / heads_}).permute({2, 0, 3, 1, 4});
    at::Tensor keys = parts[1], values = parts[2];
    if (cached != nullptr) {
      if (cached->first.defined()) {
        keys = at::cat({cached->first, keys}, 2);
        values = at::cat({cached->second, values}, 2);
      }
      *cached = {keys, values};
    }
    // With a cache one token sees all: no mask. Without one the mask is causal, and since padding
    // comes last no token ever sees it.
    const at::Tensor mixed =
        at::scaled_dot_product_attention(parts[0], keys, values, {}, 0.0, length > 1);
    return mixed.transpose(1, 2).reshape({batch, length, width});
  }

  std::int64_t heads_;
  torch::nn::LayerNorm norm1_;
  torch::nn::Linear qkv_, out_;
  torch::nn::LayerNorm norm2_;
  torch::nn::Linear up_, down_;
};

class Transformer : public Model {
 public:
  /// Weights are drawn from LibTorch's CPU generator: seed it before.
  explicit Transformer(const ModelConfig& config)
      : config_(config),
        tokens_(register_module("tokens", torch::nn::Embedding(config.vocabulary, config.width))),
        positions_(
            register_module("positions", torch::nn::Embedding(config.context, config.width))) {
    for (std::int64_t i = 0; i < config.layers; ++i) {
      blocks_.push_back(register_module("block" + std::to_string(i),
                                        std::make_shared<Block>(config.width, config.heads)));
    }
    norm_ = register_module(
        "norm",
        torch::nn::LayerNorm(torch::nn::LayerNormOptions(std::vector<std::int64_t>{config.width})));
    head_ = register_module(
        "head",
        torch::nn::Linear(torch::nn::LinearOptions(config.width, config.vocabulary).bias(false)));
    initialise();
  }

  /// Logits [B, t, V] of tokens [B, t] (int64, padding at the end of a row).
  ///
  /// With a cache the tokens continue those fed before: any number at first, then one at a time;
  /// all rows are then of one length, without padding.
  at::Tensor forward(const at::Tensor& tokens, KeyValueCache* cache = nullptr) {
    const std::int64_t past = cache == nullptr ? 0 : cache->length();
    const std::int64_t length = tokens.size(1);
    TORCH_CHECK_VALUE(past == 0 || length == 1,
                      "continual::Transformer: expected one token after the first, got ", length);
    TORCH_CHECK_VALUE(past + length <= config_.context, "continual::Transformer: expected at most ",
                      config_.context, " tokens, got ", past + length);
    at::Tensor x = tokens_(tokens) + positions_(at::arange(past, past + length, tokens.options()));
    if (cache != nullptr && cache->layers.empty()) {
      cache->layers.resize(blocks_.size());
    }
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      x = blocks_[i]->forward(x, cache == nullptr ? nullptr : &cache->layers[i]);
    }
    return head_(norm_(x));
  }

  at::Tensor logits(const Batch& batch) override { return forward(batch.tokens); }

  [[nodiscard]] const ModelConfig& config() const { return config_; }

  [[nodiscard]] std::int64_t num_parameters() const {
    std::int64_t count = 0;
    for (const auto& parameter : parameters()) {
      count += parameter.numel();
    }
    return count;
  }

 private:
  void initialise() {
    const at::NoGradGuard no_grad;
    constexpr double kDeviation = 0.02;
    // What adds to the residual stream starts smaller, so that its size does not grow with depth.
    const double residual = kDeviation / std::sqrt(2.0 * static_cast<double>(config_.layers));
    for (const auto& item : named_parameters()) {
      at::Tensor parameter = item.value();
      const std::string& name = item.key();
      if (parameter.dim() == 2) {
        const bool adds =
            name.find(".out.") != std::string::npos || name.find(".down.") != std::string::npos;
        parameter.normal_(0.0, adds ? residual : kDeviation);
      } else if (name.find("bias") != std::string::npos) {
        parameter.zero_();
      }
    }
  }

  ModelConfig config_;
  torch::nn::Embedding tokens_, positions_;
  std::vector<std::shared_ptr<Block>> blocks_;
  torch::nn::LayerNorm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};

}  // namespace continual
