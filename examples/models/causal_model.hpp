// What every decoder-only model here is: an embedding, blocks, a norm, a head.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/searchsorted.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/config.hpp"
#include "models/layers.hpp"

namespace models {

/// Keys and values of the tokens so far. Empty: nothing was fed yet.
struct KeyValueCache {
  std::vector<LayerCache> layers;

  [[nodiscard]] std::int64_t length() const {
    return layers.empty() ? 0 : layers.front().first.size(2);
  }
};

/// One layer of a model: hidden states [N, hidden] to the same.
class Block : public torch::nn::Module {
 public:
  virtual Tensor forward(const Tensor& x, const Layout& layout, LayerCache* cached) = 0;
};

/// Parameters have the checkpoint's own names, in `named_parameters()`. No dropout, whatever the
/// config says: a model that is to forget is small steps away from where it was.
class CausalModel : public torch::nn::Module {
 public:
  /// Runs a block on hidden states; by default `body(x)`. Activation checkpointing goes here: the
  /// block's parameters are all that `body` reads beside `x`.
  using RunBlock = std::function<Tensor(
      Block& block, const std::function<Tensor(const Tensor&)>& body, const Tensor& x)>;

  /// Logits [B, t, V] of tokens [B, t] (int64, padding at the end of a row).
  ///
  /// With a cache the tokens continue those fed before: any number at first, then one at a time;
  /// all rows are then of one length, without padding.
  Tensor forward(const Tensor& tokens, KeyValueCache* cache = nullptr) {
    return head(hidden(tokens, cache));
  }

  /// The states that the head reads, [B, t, hidden].
  Tensor hidden(const Tensor& tokens, KeyValueCache* cache = nullptr) {
    const Layout layout{tokens.size(0), tokens.size(1), {}, {}};
    return layout.sequences(norm(run_blocks(tokens, layout, cache)));
  }

  /// The logits [N, V] of chosen places alone, int64 [N] of the B t: those of
  /// alkn::answer_rows(labels). Tokens after the last chosen one of a sequence, padding above all,
  /// cost next to nothing.
  Tensor logits(const Tensor& tokens, const Tensor& chosen) {
    Layout layout{tokens.size(0), tokens.size(1), {}, {}};
    layout.places = attended(chosen, layout.batch, layout.length);
    const Tensor rows = run_blocks(tokens, layout, nullptr);
    return head(norm(rows.index_select(0, at::searchsorted(layout.places, chosen))));
  }

  /// Logits [.., V] of hidden states [.., hidden].
  virtual Tensor head(const Tensor& hidden) = 0;

  /// Whether a tensor of the checkpoint is a buffer that other programs keep there.
  [[nodiscard]] virtual bool is_kept_buffer(std::string_view name) const = 0;

  [[nodiscard]] const Config& config() const { return config_; }

  /// How blocks are run without a cache, from now on.
  void set_run_block(RunBlock run) { run_block_ = std::move(run); }

  [[nodiscard]] std::int64_t num_blocks() const {
    return static_cast<std::int64_t>(blocks_.size());
  }

 protected:
  explicit CausalModel(Config config) : config_(std::move(config)) {
    if (config_.family != "gpt2") frequencies_ = rope_frequencies(config_);
  }

  /// Of tokens [B, t], as [B, t, hidden].
  virtual Tensor embed(const Tensor& tokens, std::int64_t past) = 0;
  virtual Tensor norm(const Tensor& x) = 0;

  /// Blocks under `parent`.`name`.0, 1, ...
  template <class BlockType, class... Arguments>
  void make_blocks(torch::nn::Module& parent, const char* name, const Arguments&... arguments) {
    auto list = parent.register_module(name, std::make_shared<torch::nn::Module>());
    for (std::int64_t i = 0; i < config_.layers; ++i) {
      blocks_.push_back(list->register_module(
          std::to_string(i), std::make_shared<BlockType>(config_, i, arguments...)));
    }
  }

 private:
  /// What the last block gives, [N, hidden], of the rows of a layout without tables yet.
  Tensor run_blocks(const Tensor& tokens, Layout layout, KeyValueCache* cache) {
    const std::int64_t past = cache == nullptr ? 0 : cache->length();
    const std::int64_t length = tokens.size(1);
    TORCH_CHECK_VALUE(past == 0 || length == 1,
                      "models::CausalModel: expected one token after the first, got ", length);
    TORCH_CHECK_VALUE(past + length <= config_.context, "models::CausalModel: expected at most ",
                      config_.context, " tokens (", config_.context_is_of, "), got ",
                      past + length);
    if (cache != nullptr && cache->layers.empty()) cache->layers.resize(blocks_.size());
    Tensor x = layout.rows(embed(tokens, past));
    if (frequencies_.defined()) {
      layout.rope = rope_tables(frequencies_, past, length, x.scalar_type());
    }
    for (std::size_t i = 0; i < blocks_.size(); ++i) {
      if (cache != nullptr) {
        x = blocks_[i]->forward(x, layout, &cache->layers[i]);
      } else {
        x = run_block(*blocks_[i], layout, x);
      }
    }
    return x;
  }

  Tensor run_block(Block& block, const Layout& layout, const Tensor& x) const {
    // By value: what is kept for the backward pass outlives this call.
    const auto body = [&block, layout](const Tensor& input) {
      return block.forward(input, layout, nullptr);
    };
    return run_block_ ? run_block_(block, body, x) : body(x);
  }

  Config config_;
  Tensor frequencies_;
  RunBlock run_block_;
  std::vector<std::shared_ptr<Block>> blocks_;
};

}  // namespace models
