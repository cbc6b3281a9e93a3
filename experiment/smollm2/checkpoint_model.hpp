// A checkpoint as training, measurement and generation see it, and questions in its format.
#pragma once

#include <alkn/eval/harness.hpp>
#include <alkn/objective/logit_rows.hpp>
#include <alkn/objective/losses.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "continual/batch.hpp"
#include "continual/data.hpp"
#include "continual/model.hpp"
#include "experiment/world.hpp"
#include "models/causal_model.hpp"
#include "tokenizers/folder_tokenizer.hpp"

namespace smollm2 {

using experiment::Questions;

/// The head runs on the rows alone that predict an answer.
class CheckpointModel : public continual::Model {
 public:
  using Cache = models::KeyValueCache;

  explicit CheckpointModel(std::shared_ptr<models::CausalModel> net) : net_(std::move(net)) {
    // The children themselves, so that parameters keep the checkpoint's names.
    for (const auto& child : net_->named_children()) register_module(child.key(), child.value());
  }

  at::Tensor logits(const continual::Batch& batch) override {
    return net_->logits(batch.tokens, alkn::answer_rows(batch.labels));
  }
  [[nodiscard]] std::int64_t evaluation_batch() const override { return 16; }

  /// For generation: the last place alone is needed, of logits [B, 1, V].
  at::Tensor operator()(const at::Tensor& tokens, Cache& cache) const {
    const at::Tensor hidden = net_->hidden(tokens, &cache);
    return net_->head(hidden.narrow(1, hidden.size(1) - 1, 1));
  }
  at::Tensor operator()(const at::Tensor& tokens) const {
    Cache cache;
    return (*this)(tokens, cache);
  }

  [[nodiscard]] std::int64_t context() const { return net_->config().context; }

 private:
  std::shared_ptr<models::CausalModel> net_;
};

/// Questions as the harness asks them to be encoded: whole prompts.
struct Prompter {
  const tokenizers::FolderTokenizer& folder;

  [[nodiscard]] alkn::eval::Tokens encode(std::string_view question) const {
    return folder.encode_prompt(question);
  }
  [[nodiscard]] std::string decode(const alkn::eval::Tokens& ids) const {
    return folder.decode(ids);
  }
};

/// A sample's id is its place in the list.
inline continual::Samples encode(const tokenizers::FolderTokenizer& tokenizer,
                                 const Questions& questions, std::int64_t context) {
  constexpr std::int64_t kLongest = 256;
  const std::int64_t length = std::min(context, kLongest);
  continual::Samples samples;
  for (const alkn::eval::Question& q : questions) {
    auto pair =
        tokenizer.encode_pair(q.question, q.answer, length, "\"" + q.question.substr(0, 60) + "\"");
    const bool cut = pair.ids.back() != tokenizer.end_id();
    samples.push_back({std::ssize(samples), std::move(pair.ids), std::move(pair.labels), cut});
  }
  return samples;
}

/// 64-bit FNV-1a of all weights, in the order of the parameters.
inline std::string hash_of(const continual::Model& model) {
  continual::TextHash hash;
  for (const auto& item : model.named_parameters()) {
    const at::Tensor values = item.value().detach().contiguous();
    hash.add({static_cast<const char*>(values.const_data_ptr()),
              static_cast<std::size_t>(values.nbytes())});
  }
  return hash.text();
}

/// The same of what is learned.
inline std::string hash_of(const continual::Samples& samples) {
  continual::TextHash hash;
  for (const continual::Sample& sample : samples) {
    for (const auto* list : {&sample.tokens, &sample.labels}) {
      hash.add({reinterpret_cast<const char*>(list->data()), list->size() * sizeof(std::int64_t)});
    }
  }
  return hash.text();
}

}  // namespace smollm2
