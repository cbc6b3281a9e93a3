// The layers that the families share. Weights are left uninitialised: they come from a file.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <numbers>
#include <string>
#include <utility>

#include "models/config.hpp"

namespace models {

using at::Tensor;

/// A module with a weight and perhaps a bias.
class Layer : public torch::nn::Module {
 public:
  Layer(at::IntArrayRef weight_shape, std::int64_t bias_size, at::ScalarType type)
      : weight(register_parameter("weight", at::empty(weight_shape, type))) {
    if (bias_size > 0) bias = register_parameter("bias", at::empty({bias_size}, type));
  }
  /// The weight of another layer: tied.
  explicit Layer(const Tensor& shared) : weight(register_parameter("weight", shared)) {}

  Tensor weight, bias;
};

class Linear : public Layer {
 public:
  Linear(std::int64_t in, std::int64_t out, bool with_bias, at::ScalarType type)
      : Layer({out, in}, with_bias ? out : 0, type) {}
  using Layer::Layer;
  Tensor forward(const Tensor& x) const {
    return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
  }
};

/// gpt2's: a linear layer whose weight is stored as [in, out].
class Conv1D : public Layer {
 public:
  Conv1D(std::int64_t in, std::int64_t out, at::ScalarType type) : Layer({in, out}, out, type) {}
  Tensor forward(const Tensor& x) const {
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weight.size(1);
    return at::addmm(bias, x.reshape({-1, x.size(-1)}), weight).view(shape);
  }
};

class Embedding : public Layer {
 public:
  Embedding(std::int64_t rows, std::int64_t width, at::ScalarType type)
      : Layer({rows, width}, 0, type) {}
  Tensor forward(const Tensor& tokens) const { return at::embedding(weight, tokens); }
};

/// weight * x / sqrt(mean(x^2) + epsilon), the quotient in float32 whatever the type.
class RmsNorm : public Layer {
 public:
  RmsNorm(std::int64_t width, double epsilon, at::ScalarType type)
      : Layer({width}, 0, type), epsilon_(epsilon) {}
  Tensor forward(const Tensor& x) const {
    const Tensor wide = x.to(at::kFloat);
    const Tensor scale = at::rsqrt(wide.pow(2).mean(-1, true) + epsilon_);
    return weight * (wide * scale).to(x.scalar_type());
  }

 private:
  double epsilon_;
};

class LayerNorm : public Layer {
 public:
  LayerNorm(std::int64_t width, double epsilon, at::ScalarType type)
      : Layer({width}, width, type), epsilon_(epsilon) {}
  Tensor forward(const Tensor& x) const {
    return at::layer_norm(x, weight.sizes(), weight, bias, epsilon_);
  }

 private:
  double epsilon_;
};

/// Cosines and sines of the positions, [t, rotated size] each.
struct RopeTables {
  Tensor cos, sin;
};

/// One frequency for each pair of entries of a head: float32, by transformers' own operations.
inline Tensor rope_frequencies(const Config& config) {
  const RopeConfig& rope = config.rope;
  const auto size = static_cast<std::int64_t>(static_cast<double>(config.head_size) * rope.rotated);
  const Tensor plain = at::pow(rope.theta, at::arange(0, size, 2, at::kFloat) / size).reciprocal();
  if (rope.type == "linear") return plain / rope.factor;
  if (rope.type != "llama3") return plain;
  // Long wavelengths are stretched by the factor, short ones stay, with a ramp in between.
  const Tensor wavelength = 2 * std::numbers::pi / plain;
  const double longest = rope.original_context / rope.low_freq_factor;
  const double shortest = rope.original_context / rope.high_freq_factor;
  const Tensor stretched = at::where(wavelength > longest, plain / rope.factor, plain);
  const Tensor ramp = (rope.original_context / wavelength - rope.low_freq_factor) /
                      (rope.high_freq_factor - rope.low_freq_factor);
  const Tensor between = (1 - ramp) * stretched / rope.factor + ramp * stretched;
  return at::where((wavelength >= shortest).logical_and(wavelength <= longest), between, stretched);
}

/// Positions past .. past + length - 1, in the type of the model.
inline RopeTables rope_tables(const Tensor& frequencies, std::int64_t past, std::int64_t length,
                              at::ScalarType type) {
  const Tensor positions = at::arange(past, past + length, frequencies.options());
  const Tensor angles = positions.unsqueeze(1) * frequencies;
  const Tensor both = at::cat({angles, angles}, -1);
  return {both.cos().to(type), both.sin().to(type)};
}

/// Where the rows of hidden states [N, width] stand in a batch of B sequences of t tokens.
/// Attention mixes the tokens of a sequence; all else works on rows.
struct Layout {
  std::int64_t batch, length;
  RopeTables rope;  ///< undefined tensors where the family has learned positions
  Tensor places;    ///< int64 [N], ascending, of the B t; undefined: all of them

  /// [N, width] as [B, t, width], 0 where there is no row.
  [[nodiscard]] Tensor sequences(const Tensor& rows) const {
    if (!places.defined()) return rows.view({batch, length, -1});
    return at::zeros({batch * length, rows.size(1)}, rows.options())
        .index_copy_(0, places, rows)
        .view({batch, length, -1});
  }
  /// [N, heads * size] as [B, heads, t, size].
  [[nodiscard]] Tensor heads(const Tensor& rows, std::int64_t size) const {
    return sequences(rows).view({batch, length, -1, size}).transpose(1, 2);
  }
  /// [B, t, width] as [N, width].
  [[nodiscard]] Tensor rows(const Tensor& sequences) const {
    const Tensor all = sequences.flatten(0, 1);
    return places.defined() ? all.index_select(0, places) : all;
  }
};

/// The places, of B t, up to the last chosen one of each sequence: all that those attend to.
inline Tensor attended(const Tensor& chosen, std::int64_t batch, std::int64_t length) {
  const Tensor last =
      at::full({batch}, -1, chosen.options())
          .scatter_reduce_(0, chosen.div(length, "floor"), chosen.remainder(length), "amax");
  const Tensor seen = at::arange(length, chosen.options()) <= last.unsqueeze(1);
  return seen.flatten().nonzero().squeeze(1);
}

/// Turns the first entries of each head, as many as the tables have; x [B, heads, t, head size].
inline Tensor rotate(const Tensor& x, const RopeTables& tables) {
  const std::int64_t size = tables.cos.size(-1);
  const Tensor turned = size == x.size(-1) ? x : x.narrow(-1, 0, size);
  const auto halves = turned.chunk(2, -1);
  const Tensor result = turned * tables.cos + at::cat({-halves[1], halves[0]}, -1) * tables.sin;
  return size == x.size(-1) ? result : at::cat({result, x.narrow(-1, size, x.size(-1) - size)}, -1);
}

/// Keys and values so far of one layer, [B, key-value heads, t, head size]; undefined at first.
using LayerCache = std::pair<Tensor, Tensor>;

/// Causal attention of queries [B, heads, t, size] to keys and values [B, key-value heads, t,
/// size], as [B, t, heads * size]. `cached` (may be null) is prolonged by t tokens.
inline Tensor attend(const Tensor& queries, Tensor keys, Tensor values, LayerCache* cached,
                     std::optional<double> scale = std::nullopt) {
  if (cached != nullptr) {
    if (cached->first.defined()) {
      keys = at::cat({cached->first, keys}, 2);
      values = at::cat({cached->second, values}, 2);
    }
    *cached = {keys, values};
  }
  // With a cache one token sees all: no mask. Without one the mask is causal, and since padding
  // comes last no token ever sees it.
  const Tensor mixed = at::scaled_dot_product_attention(
      queries, keys, values, {}, 0.0, queries.size(2) > 1, scale, queries.size(1) != keys.size(1));
  return mixed.transpose(1, 2).reshape({queries.size(0), queries.size(2), -1});
}

}  // namespace models
