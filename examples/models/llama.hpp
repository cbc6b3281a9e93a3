// Llama 2 and 3, SmolLM2, Mistral, Qwen2: RMS norms, rotary positions, grouped heads, SwiGLU.
#pragma once

#include <ATen/ops/silu.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "models/causal_model.hpp"

namespace models {

class LlamaAttention : public torch::nn::Module {
 public:
  LlamaAttention(const Config& c, at::ScalarType type)
      : head_size_(c.head_size),
        q_(linear("q_proj", c.hidden, c.heads * c.head_size, c.query_bias, type)),
        k_(linear("k_proj", c.hidden, c.key_value_heads * c.head_size, c.query_bias, type)),
        v_(linear("v_proj", c.hidden, c.key_value_heads * c.head_size, c.query_bias, type)),
        o_(linear("o_proj", c.heads * c.head_size, c.hidden, c.output_bias, type)) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) const {
    const Tensor queries = rotate(layout.heads(q_->forward(x), head_size_), layout.rope);
    const Tensor keys = rotate(layout.heads(k_->forward(x), head_size_), layout.rope);
    const Tensor values = layout.heads(v_->forward(x), head_size_);
    return o_->forward(layout.rows(attend(queries, keys, values, cached)));
  }

 private:
  std::shared_ptr<Linear> linear(const char* name, std::int64_t in, std::int64_t out, bool bias,
                                 at::ScalarType type) {
    return register_module(name, std::make_shared<Linear>(in, out, bias, type));
  }

  std::int64_t head_size_;
  std::shared_ptr<Linear> q_, k_, v_, o_;
};

class LlamaMlp : public torch::nn::Module {
 public:
  LlamaMlp(const Config& c, at::ScalarType type)
      : gate_(linear("gate_proj", c.hidden, c.intermediate, c.mlp_bias, type)),
        up_(linear("up_proj", c.hidden, c.intermediate, c.mlp_bias, type)),
        down_(linear("down_proj", c.intermediate, c.hidden, c.mlp_bias, type)) {}

  Tensor forward(const Tensor& x) const {
    return down_->forward(at::silu(gate_->forward(x)) * up_->forward(x));
  }

 private:
  std::shared_ptr<Linear> linear(const char* name, std::int64_t in, std::int64_t out, bool bias,
                                 at::ScalarType type) {
    return register_module(name, std::make_shared<Linear>(in, out, bias, type));
  }

  std::shared_ptr<Linear> gate_, up_, down_;
};

class LlamaBlock : public Block {
 public:
  LlamaBlock(const Config& c, std::int64_t /*layer*/, at::ScalarType type)
      : attention_(register_module("self_attn", std::make_shared<LlamaAttention>(c, type))),
        mlp_(register_module("mlp", std::make_shared<LlamaMlp>(c, type))),
        norm1_(register_module("input_layernorm",
                               std::make_shared<RmsNorm>(c.hidden, c.norm_epsilon, type))),
        norm2_(register_module("post_attention_layernorm",
                               std::make_shared<RmsNorm>(c.hidden, c.norm_epsilon, type))) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) override {
    const Tensor h = x + attention_->forward(norm1_->forward(x), layout, cached);
    return h + mlp_->forward(norm2_->forward(h));
  }

 private:
  std::shared_ptr<LlamaAttention> attention_;
  std::shared_ptr<LlamaMlp> mlp_;
  std::shared_ptr<RmsNorm> norm1_, norm2_;
};

class Llama : public CausalModel {
 public:
  explicit Llama(const Config& c, at::ScalarType type = at::kFloat) : CausalModel(c) {
    auto model = register_module("model", std::make_shared<torch::nn::Module>());
    tokens_ = model->register_module("embed_tokens",
                                     std::make_shared<Embedding>(c.vocabulary, c.hidden, type));
    make_blocks<LlamaBlock>(*model, "layers", type);
    norm_ =
        model->register_module("norm", std::make_shared<RmsNorm>(c.hidden, c.norm_epsilon, type));
    head_ = register_module("lm_head",
                            c.tied ? std::make_shared<Linear>(tokens_->weight)
                                   : std::make_shared<Linear>(c.hidden, c.vocabulary, false, type));
  }

  Tensor head(const Tensor& hidden) override { return head_->forward(hidden); }

  [[nodiscard]] bool is_kept_buffer(std::string_view name) const override {
    return name.ends_with("rotary_emb.inv_freq");
  }

 protected:
  Tensor embed(const Tensor& tokens, std::int64_t /*past*/) override {
    return tokens_->forward(tokens);
  }
  Tensor norm(const Tensor& x) override { return norm_->forward(x); }

 private:
  std::shared_ptr<Embedding> tokens_;
  std::shared_ptr<RmsNorm> norm_;
  std::shared_ptr<Linear> head_;
};

}  // namespace models
