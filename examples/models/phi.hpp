// Phi-1 and Phi-1.5: layer norms, rotary positions on a part of each head, attention and MLP side
// by side, biases everywhere.
#pragma once

#include <ATen/ops/gelu.h>

#include <cstdint>
#include <memory>
#include <string_view>

#include "models/causal_model.hpp"

namespace models {

class PhiAttention : public torch::nn::Module {
 public:
  PhiAttention(const Config& c, at::ScalarType type)
      : head_size_(c.head_size),
        q_(linear("q_proj", c.hidden, c.heads * c.head_size, type)),
        k_(linear("k_proj", c.hidden, c.key_value_heads * c.head_size, type)),
        v_(linear("v_proj", c.hidden, c.key_value_heads * c.head_size, type)),
        dense_(linear("dense", c.heads * c.head_size, c.hidden, type)) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) const {
    const Tensor queries = rotate(layout.heads(q_->forward(x), head_size_), layout.rope);
    const Tensor keys = rotate(layout.heads(k_->forward(x), head_size_), layout.rope);
    const Tensor values = layout.heads(v_->forward(x), head_size_);
    return dense_->forward(layout.rows(attend(queries, keys, values, cached)));
  }

 private:
  std::shared_ptr<Linear> linear(const char* name, std::int64_t in, std::int64_t out,
                                 at::ScalarType type) {
    return register_module(name, std::make_shared<Linear>(in, out, true, type));
  }

  std::int64_t head_size_;
  std::shared_ptr<Linear> q_, k_, v_, dense_;
};

class PhiMlp : public torch::nn::Module {
 public:
  PhiMlp(const Config& c, at::ScalarType type)
      : fc1_(
            register_module("fc1", std::make_shared<Linear>(c.hidden, c.intermediate, true, type))),
        fc2_(register_module("fc2",
                             std::make_shared<Linear>(c.intermediate, c.hidden, true, type))) {}

  Tensor forward(const Tensor& x) const {
    return fc2_->forward(at::gelu(fc1_->forward(x), "tanh"));
  }

 private:
  std::shared_ptr<Linear> fc1_, fc2_;
};

class PhiBlock : public Block {
 public:
  PhiBlock(const Config& c, std::int64_t /*layer*/, at::ScalarType type)
      : attention_(register_module("self_attn", std::make_shared<PhiAttention>(c, type))),
        mlp_(register_module("mlp", std::make_shared<PhiMlp>(c, type))),
        norm_(register_module("input_layernorm",
                              std::make_shared<LayerNorm>(c.hidden, c.norm_epsilon, type))) {}

  Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) override {
    const Tensor h = norm_->forward(x);
    return attention_->forward(h, layout, cached) + mlp_->forward(h) + x;
  }

 private:
  std::shared_ptr<PhiAttention> attention_;
  std::shared_ptr<PhiMlp> mlp_;
  std::shared_ptr<LayerNorm> norm_;
};

class Phi : public CausalModel {
 public:
  explicit Phi(const Config& c, at::ScalarType type = at::kFloat) : CausalModel(c) {
    auto model = register_module("model", std::make_shared<torch::nn::Module>());
    tokens_ = model->register_module("embed_tokens",
                                     std::make_shared<Embedding>(c.vocabulary, c.hidden, type));
    make_blocks<PhiBlock>(*model, "layers", type);
    norm_ = model->register_module("final_layernorm",
                                   std::make_shared<LayerNorm>(c.hidden, c.norm_epsilon, type));
    head_ =
        register_module("lm_head", std::make_shared<Linear>(c.hidden, c.vocabulary, true, type));
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
  std::shared_ptr<LayerNorm> norm_;
  std::shared_ptr<Linear> head_;
};

}  // namespace models
