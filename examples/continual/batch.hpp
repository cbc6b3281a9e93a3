// From text to batches of tokens and labels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <alkn/io/text.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "continual/data.hpp"
#include "continual/random.hpp"
#include "continual/tokenizer.hpp"

namespace continual {

inline constexpr std::int64_t kNotCounted = -100;  ///< label of the question and of padding

/// begin question <answer> answer end; the labels count the answer and the end. Plain text: begin
/// text, and every token of the text counts.
struct Sample {
  std::int64_t id = 0;  ///< place in its list
  std::vector<std::int64_t> tokens, labels;
  bool cut = false;  ///< an answer that is too long lost its end
};
using Samples = std::vector<Sample>;

struct Batch {
  at::Tensor ids;             ///< [B] int64
  at::Tensor tokens, labels;  ///< [B, T] int64, padded with Tokenizer::kPad and kNotCounted
};

/// A question and its answer, cut at `context` tokens. Throws std::runtime_error, with the place of
/// the pair, for a question that leaves no token of the answer: nothing could be learned of it, nor
/// measured.
inline Sample encode_pair(const Tokenizer& tokenizer, const Pair& pair, std::int64_t context) {
  Sample sample;
  sample.tokens = {Tokenizer::kBegin};
  const auto append = [&](const std::vector<std::int64_t>& tokens) {
    sample.tokens.insert(sample.tokens.end(), tokens.begin(), tokens.end());
  };
  append(tokenizer.encode(pair.question));
  sample.tokens.push_back(Tokenizer::kAnswer);
  if (std::ssize(sample.tokens) >= context) {
    data_error("a question of at most " + std::to_string(context - 3) + " tokens",
               std::to_string(sample.tokens.size() - 2),
               pair.where.empty() ? "\"" + alkn::io::printable(pair.question) + "\"" : pair.where);
  }
  sample.labels.assign(sample.tokens.size(), kNotCounted);
  append(tokenizer.encode(pair.answer));
  sample.tokens.push_back(Tokenizer::kEnd);
  sample.labels.insert(sample.labels.end(),
                       sample.tokens.begin() + static_cast<std::ptrdiff_t>(sample.labels.size()),
                       sample.tokens.end());
  const auto length = std::min(sample.tokens.size(), static_cast<std::size_t>(context));
  sample.cut = length < sample.tokens.size();
  sample.tokens.resize(length);
  sample.labels.resize(length);
  return sample;
}

inline Samples encode_pairs(const Tokenizer& tokenizer, const std::vector<Pair>& pairs,
                            std::int64_t context) {
  Samples samples;
  for (const Pair& pair : pairs) {
    samples.push_back(encode_pair(tokenizer, pair, context));
    samples.back().id = static_cast<std::int64_t>(samples.size()) - 1;
  }
  return samples;
}

/// Plain text, cut into chunks of `length` tokens; of more than `max_chunks`, evenly spread ones.
inline Samples encode_text(const Tokenizer& tokenizer, const std::vector<Pair>& paragraphs,
                           std::int64_t length, std::int64_t max_chunks) {
  std::vector<std::int64_t> all;
  for (const Pair& paragraph : paragraphs) {
    const auto tokens = tokenizer.encode(paragraph.question + paragraph.answer);
    all.insert(all.end(), tokens.begin(), tokens.end());
    all.push_back(Tokenizer::kEnd);
  }
  const auto size = static_cast<std::int64_t>(all.size());
  const std::int64_t chunks = (size + length - 1) / length;
  const std::int64_t taken = std::min(chunks, max_chunks);
  Samples samples;
  for (std::int64_t i = 0; i < taken; ++i) {
    const std::int64_t begin = i * chunks / taken * length;
    Sample sample;
    sample.id = i;
    sample.tokens = {Tokenizer::kBegin};
    sample.tokens.insert(sample.tokens.end(), all.begin() + begin,
                         all.begin() + std::min(begin + length, size));
    sample.labels = sample.tokens;
    sample.labels.front() = kNotCounted;
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// Everything the trainer needs of a data set, as tokens.
struct EncodedRequest {
  std::string name;
  Samples forget, rephrased;
};
struct EncodedData {
  std::string name;
  std::vector<EncodedRequest> requests;
  Samples shown, unseen;
  Samples general = {};  ///< never learned here, only measured

  /// Answers that are too long and lost their end.
  [[nodiscard]] std::int64_t num_cut() const {
    std::int64_t count = 0;
    const auto add = [&](const Samples& samples) {
      count += std::count_if(samples.begin(), samples.end(), [](const Sample& s) { return s.cut; });
    };
    for (const EncodedRequest& request : requests) {
      add(request.forget);
      add(request.rephrased);
    }
    add(shown);
    add(unseen);
    return count;
  }

  /// What the model learns before anything is forgotten.
  [[nodiscard]] Samples training_samples() const {
    Samples all;
    for (const EncodedRequest& request : requests) {
      all.insert(all.end(), request.forget.begin(), request.forget.end());
    }
    all.insert(all.end(), shown.begin(), shown.end());
    all.insert(all.end(), unseen.begin(), unseen.end());
    return all;
  }
};

struct EncodeSettings {
  std::int64_t context = 256;    ///< tokens of a question and its answer at most
  std::int64_t chunk = 128;      ///< tokens of a chunk of plain text
  std::int64_t max_chunks = 80;  ///< of a plain text; what is kept may have five times as many
};

inline EncodedData encode(const Tokenizer& tokenizer, const DataSet& data,
                          const EncodeSettings& settings = {}) {
  const auto encode_list = [&](const std::vector<Pair>& pairs, std::int64_t max_chunks) {
    return !pairs.empty() && pairs.front().question.empty()
               ? encode_text(tokenizer, pairs, settings.chunk, max_chunks)
               : encode_pairs(tokenizer, pairs, settings.context);
  };
  constexpr std::int64_t kKeptChunks = 5;
  EncodedData encoded;
  encoded.name = data.name;
  for (const Request& request : data.requests) {
    encoded.requests.push_back({request.name, encode_list(request.forget, settings.max_chunks),
                                encode_list(request.rephrased, settings.max_chunks)});
  }
  encoded.shown = encode_list(data.shown, kKeptChunks * settings.max_chunks / 2);
  encoded.unseen = encode_list(data.unseen, kKeptChunks * settings.max_chunks / 2);
  return encoded;
}

inline Batch make_batch(const std::vector<const Sample*>& samples) {
  std::size_t length = 0;
  for (const Sample* sample : samples) {
    length = std::max(length, sample->tokens.size());
  }
  const auto rows = static_cast<std::int64_t>(samples.size());
  const auto columns = static_cast<std::int64_t>(length);
  Batch batch;
  batch.ids = at::full({rows}, 0, at::kLong);
  batch.tokens = at::full({rows, columns}, Tokenizer::kPad, at::kLong);
  batch.labels = at::full({rows, columns}, kNotCounted, at::kLong);
  for (std::int64_t row = 0; row < rows; ++row) {
    const Sample& sample = *samples[static_cast<std::size_t>(row)];
    batch.ids.mutable_data_ptr<std::int64_t>()[row] = sample.id;
    std::copy(sample.tokens.begin(), sample.tokens.end(),
              batch.tokens.mutable_data_ptr<std::int64_t>() + row * columns);
    std::copy(sample.labels.begin(), sample.labels.end(),
              batch.labels.mutable_data_ptr<std::int64_t>() + row * columns);
  }
  return batch;
}

/// Batches of the largest of so many parts of the samples.
inline std::int64_t num_batches(const Samples& samples, std::int64_t batch_size, int parts = 1) {
  const std::int64_t most = (std::ssize(samples) + parts - 1) / parts;
  return (most + batch_size - 1) / batch_size;
}

/// The batch of a step; null past the last: other processes have more.
inline const Batch* batch_of(const std::vector<Batch>& batches, std::int64_t step) {
  return step < std::ssize(batches) ? &batches[static_cast<std::size_t>(step)] : nullptr;
}

/// Which samples go together.
enum class Lengths {
  mixed,  ///< as they come; of many samples, groups of eight batches are sorted by length
  alike   ///< always those of similar length: groups of 32 batches, or all of them, are sorted
};

/// All samples once, in the order that `random` draws. Batches are groups of neighbours by length,
/// which spares padding, and then mixed.
inline std::vector<Batch> shuffled_batches(const Samples& samples, std::int64_t batch_size,
                                           Random random, Lengths lengths = Lengths::mixed) {
  std::vector<const Sample*> order;
  for (const Sample& sample : samples) {
    order.push_back(&sample);
  }
  random.shuffle(order);
  const auto size = static_cast<std::ptrdiff_t>(order.size());
  const std::ptrdiff_t group = (lengths == Lengths::alike ? 32 : 8) * batch_size;
  const bool sorted = lengths == Lengths::alike || size >= 2 * group;
  for (std::ptrdiff_t begin = 0; sorted && begin < size; begin += group) {
    std::stable_sort(
        order.begin() + begin, order.begin() + std::min(begin + group, size),
        [](const Sample* a, const Sample* b) { return a->tokens.size() < b->tokens.size(); });
  }
  std::vector<Batch> batches;
  for (std::ptrdiff_t begin = 0; begin < size; begin += batch_size) {
    batches.push_back(
        make_batch({order.begin() + begin,
                    order.begin() + std::min<std::ptrdiff_t>(begin + batch_size, size)}));
  }
  random.shuffle(batches);
  return batches;
}

/// All samples once, in batches by length: for evaluation, where the order does not matter.
inline std::vector<Batch> batches_by_length(const Samples& samples, std::int64_t batch_size) {
  std::vector<const Sample*> order;
  for (const Sample& sample : samples) {
    order.push_back(&sample);
  }
  std::stable_sort(order.begin(), order.end(), [](const Sample* a, const Sample* b) {
    return a->tokens.size() < b->tokens.size();
  });
  std::vector<Batch> batches;
  for (std::size_t begin = 0; begin < order.size(); begin += static_cast<std::size_t>(batch_size)) {
    const std::size_t end = std::min(begin + static_cast<std::size_t>(batch_size), order.size());
    batches.push_back(make_batch({order.begin() + static_cast<std::ptrdiff_t>(begin),
                                  order.begin() + static_cast<std::ptrdiff_t>(end)}));
  }
  return batches;
}

}  // namespace continual
