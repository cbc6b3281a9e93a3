// GPT-2: layer norms, learned positions, one matrix for queries, keys and values; weights are
// stored as [in, out], and names have `transformer.` before them or not.
#pragma once

#include <ATen/ops/gelu.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string_view>

#include "models/causal_model.hpp"

namespace models {

class Gpt2Attention : public torch::nn::Module {
 public:
  Gpt2Attention(const Config& c, std::int64_t layer, at::ScalarType type)
      : head_size_(c.head_size),
        scale_(1 / std::sqrt(static_cast<double>(c.head_size)) /
               (c.per_layer_scale ? static_cast<double>(layer + 1) : 1.0)),
        qkv_(register_module("c_attn", std::make_shared<Conv1D>(c.hidden, 3 * c.hidden, type))),
        out_(register_module("c_proj", std::make_shared<Conv1D>(c.hidden, c.hidden, type))) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) const {
    const auto parts = qkv_->forward(x).chunk(3, -1);
    const auto heads = [&](const Tensor& part) { return layout.heads(part, head_size_); };
    return out_->forward(
        layout.rows(attend(heads(parts[0]), heads(parts[1]), heads(parts[2]), cached, scale_)));
  }

 private:
  std::int64_t head_size_;
  double scale_;
  std::shared_ptr<Conv1D> qkv_, out_;
};

class Gpt2Mlp : public torch::nn::Module {
 public:
  Gpt2Mlp(const Config& c, at::ScalarType type)
      : up_(register_module("c_fc", std::make_shared<Conv1D>(c.hidden, c.intermediate, type))),
        down_(register_module("c_proj", std::make_shared<Conv1D>(c.intermediate, c.hidden, type))) {
  }

  Tensor forward(const Tensor& x) const {
    return down_->forward(at::gelu(up_->forward(x), "tanh"));
  }

 private:
  std::shared_ptr<Conv1D> up_, down_;
};

class Gpt2Block : public Block {
 public:
  Gpt2Block(const Config& c, std::int64_t layer, at::ScalarType type)
      : norm1_(
            register_module("ln_1", std::make_shared<LayerNorm>(c.hidden, c.norm_epsilon, type))),
        attention_(register_module("attn", std::make_shared<Gpt2Attention>(c, layer, type))),
        norm2_(
            register_module("ln_2", std::make_shared<LayerNorm>(c.hidden, c.norm_epsilon, type))),
        mlp_(register_module("mlp", std::make_shared<Gpt2Mlp>(c, type))) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) override {
    const Tensor h = x + attention_->forward(norm1_->forward(x), layout, cached);
    return h + mlp_->forward(norm2_->forward(h));
  }

 private:
  std::shared_ptr<LayerNorm> norm1_;
  std::shared_ptr<Gpt2Attention> attention_;
  std::shared_ptr<LayerNorm> norm2_;
  std::shared_ptr<Gpt2Mlp> mlp_;
};

class Gpt2 : public CausalModel {
 public:
  /// `prefixed`: names are `transformer.wte.weight` and so on, not `wte.weight`.
  Gpt2(const Config& c, bool prefixed, at::ScalarType type = at::kFloat) : CausalModel(c) {
    Module* body = this;
    if (prefixed) {
      body = register_module("transformer", std::make_shared<torch::nn::Module>()).get();
    }
    tokens_ =
        body->register_module("wte", std::make_shared<Embedding>(c.vocabulary, c.hidden, type));
    positions_ =
        body->register_module("wpe", std::make_shared<Embedding>(c.context, c.hidden, type));
    make_blocks<Gpt2Block>(*body, "h", type);
    norm_ =
        body->register_module("ln_f", std::make_shared<LayerNorm>(c.hidden, c.norm_epsilon, type));
    head_ = register_module("lm_head",
                            c.tied ? std::make_shared<Linear>(tokens_->weight)
                                   : std::make_shared<Linear>(c.hidden, c.vocabulary, false, type));
  }

  Tensor head(const Tensor& hidden) override { return head_->forward(hidden); }

  /// The causal mask and its number, which older versions of transformers stored.
  [[nodiscard]] bool is_kept_buffer(std::string_view name) const override {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias");
  }

 protected:
  Tensor embed(const Tensor& tokens, std::int64_t past) override {
    const Tensor places = at::arange(past, past + tokens.size(1), tokens.options());
    return tokens_->forward(tokens) + positions_->forward(places);
  }
  Tensor norm(const Tensor& x) override { return norm_->forward(x); }

 private:
  std::shared_ptr<Embedding> tokens_, positions_;
  std::shared_ptr<LayerNorm> norm_;
  std::shared_ptr<Linear> head_;
};

}  // namespace models
