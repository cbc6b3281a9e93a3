// Text that a model writes, token by token.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace alkn::eval {

using Tokens = std::vector<int64_t>;

/// Logits [B, T, V] of tokens [B, T] int64; rows are padded at their end, and no place may see a
/// later one.
template <class Model>
concept LogitModel = requires(Model& model, const at::Tensor& tokens) {
  { model(tokens) } -> std::convertible_to<at::Tensor>;
};

/// A model that can go on from what it has read: `model(tokens, cache)` reads tokens [B, t] after
/// those that `cache` holds. A fresh `Model::Cache` holds nothing; all rows are of one length.
template <class Model>
concept CachedModel = LogitModel<Model> &&
    requires(Model& model, const at::Tensor& tokens, typename Model::Cache& cache) {
  { model(tokens, cache) } -> std::convertible_to<at::Tensor>;
};

/// The likeliest token of each row. @param logits [B, V]
inline Tokens likeliest(const at::Tensor& logits) {
  const at::Tensor best = logits.argmax(-1).cpu();
  return {best.const_data_ptr<int64_t>(), best.const_data_ptr<int64_t>() + best.numel()};
}

/// Draws a token for each row from the softmax of logits / temperature.
class Sampler {
 public:
  /// @param temperature above 0
  Sampler(double temperature, uint64_t seed) : temperature_(temperature), generator_(seed) {}

  /// @param logits [B, V]
  Tokens operator()(const at::Tensor& logits) {
    const at::Tensor p =
        logits.to(at::kCPU, at::kDouble).div(temperature_).softmax(-1).contiguous();
    Tokens drawn;
    for (int64_t row = 0; row < p.size(0); ++row) {
      const double* first = p.const_data_ptr<double>() + row * p.size(1);
      double left = static_cast<double>(generator_() >> 11U) * 0x1p-53;
      int64_t token = 0;
      while (token + 1 < p.size(1) && (left -= first[token]) >= 0) ++token;
      drawn.push_back(token);
    }
    return drawn;
  }

 private:
  double temperature_;
  std::mt19937_64 generator_;
};

/// The logits after what was read, through the model's cache where it has one.
template <LogitModel Model>
class NextLogits {
 public:
  NextLogits(Model& model, at::Tensor tokens) : model_(model), tokens_(std::move(tokens)) {
    read(tokens_);
  }
  /// [B, V]
  [[nodiscard]] const at::Tensor& logits() const { return logits_; }
  void feed(const Tokens& chosen, at::Device device) {
    at::Tensor column = at::full({static_cast<int64_t>(chosen.size()), 1}, 0, at::kLong);
    std::copy(chosen.begin(), chosen.end(), column.mutable_data_ptr<int64_t>());
    column = column.to(device);
    if constexpr (CachedModel<Model>) {
      read(column);
    } else {
      tokens_ = at::cat({tokens_, column}, 1);
      read(tokens_);
    }
  }

 private:
  struct None {};
  template <class M>
  struct CacheOf {
    using Type = None;
  };
  template <CachedModel M>
  struct CacheOf<M> {
    using Type = typename M::Cache;
  };

  void read(const at::Tensor& tokens) {
    at::Tensor all;
    if constexpr (CachedModel<Model>) {
      all = model_(tokens, cache_);
    } else {
      all = model_(tokens);
    }
    logits_ = all.select(1, all.size(1) - 1);
  }

  Model& model_;
  at::Tensor tokens_, logits_;
  typename CacheOf<Model>::Type cache_{};
};

/// What the model writes after each row of `tokens`, up to `end`, which is not among it.
/// @param tokens [B, T] int64, without padding  @param new_tokens of a row at most
/// @param choose the next token of each row from logits [B, V]
template <LogitModel Model, class Choose>
std::vector<Tokens> decode(Model& model, const at::Tensor& tokens, int64_t end, int64_t new_tokens,
                           Choose& choose) {
  const auto count = static_cast<std::size_t>(tokens.size(0));
  std::vector<Tokens> written(count);
  std::vector<bool> ended(count);
  NextLogits<Model> next(model, tokens);
  for (int64_t step = 0; step < new_tokens; ++step) {
    const Tokens chosen = choose(next.logits());
    bool all_ended = true;
    for (std::size_t i = 0; i < count; ++i) {
      ended[i] = ended[i] || chosen[i] == end;
      if (!ended[i]) written[i].push_back(chosen[i]);
      all_ended = all_ended && ended[i];
    }
    if (all_ended) break;
    if (step + 1 < new_tokens) next.feed(chosen, tokens.device());
  }
  return written;
}

}  // namespace alkn::eval
