// A subword vocabulary without unknown tokens: SentencePiece, byte-pair encoding with byte
// fallback, trained on the training text.
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace continual {

class Tokenizer {
 public:
  static constexpr std::int64_t kUnknown = 0;  ///< SentencePiece insists on it; never produced
  static constexpr std::int64_t kBegin = 1, kEnd = 2, kPad = 3;
  static constexpr std::int64_t kAnswer = 4;  ///< between question and answer

  static constexpr std::int64_t kMinPieces = 270;  ///< 256 bytes, the special ones, some letters

  /// Trains a vocabulary of `num_pieces` pieces on `texts`, or of fewer where they do not hold so
  /// many. Deterministic: one thread. Throws std::runtime_error.
  static Tokenizer train(const std::vector<std::string>& texts, std::int64_t num_pieces) {
    std::unordered_map<std::string, std::string> options{{"model_type", "bpe"},
                                                         {"character_coverage", "1.0"},
                                                         {"byte_fallback", "true"},
                                                         {"normalization_rule_name", "identity"},
                                                         {"remove_extra_whitespaces", "false"},
                                                         {"split_digits", "true"},
                                                         {"unk_id", "0"},
                                                         {"bos_id", "1"},
                                                         {"eos_id", "2"},
                                                         {"pad_id", "3"},
                                                         {"control_symbols", "<answer>"},
                                                         {"max_sentence_length", "1000000"},
                                                         {"num_threads", "1"},
                                                         {"minloglevel", "2"}};
    std::string model;
    constexpr std::int64_t kStep = 8;  // the library does not say how many there are
    for (;; num_pieces -= num_pieces / kStep) {
      Texts sentences(texts);
      options["vocab_size"] = std::to_string(num_pieces);
      const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &model);
      if (status.ok()) {
        return Tokenizer(std::move(model));
      }
      if (num_pieces - num_pieces / kStep < kMinPieces) {
        check(status);
      }
    }
  }

  /// From `model()` of another one. Throws std::runtime_error if it is damaged.
  explicit Tokenizer(std::string model) : model_(std::move(model)) {
    check(processor_->LoadFromSerializedProto(model_));
    if (processor_->PieceToId("<answer>") != kAnswer || processor_->pad_id() != kPad) {
      throw std::runtime_error(
          "continual::Tokenizer: expected a vocabulary of this program, got "
          "another");
    }
  }

  /// The whole vocabulary in SentencePiece's own file format.
  [[nodiscard]] const std::string& model() const { return model_; }

  [[nodiscard]] std::int64_t size() const { return processor_->GetPieceSize(); }

  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text) const {
    std::vector<int> ids;
    check(processor_->Encode({text.data(), text.size()}, &ids));
    return {ids.begin(), ids.end()};
  }

  [[nodiscard]] std::string decode(const std::vector<std::int64_t>& tokens) const {
    std::string text;
    check(processor_->Decode(std::vector<int>(tokens.begin(), tokens.end()), &text));
    return text;
  }

 private:
  /// The texts, as the trainer wants to walk over them.
  class Texts : public sentencepiece::SentenceIterator {
   public:
    explicit Texts(const std::vector<std::string>& texts) : texts_(texts) {}
    [[nodiscard]] bool done() const override { return next_ == texts_.size(); }
    void Next() override { ++next_; }
    [[nodiscard]] const std::string& value() const override { return texts_[next_]; }
    [[nodiscard]] sentencepiece::util::Status status() const override { return {}; }

   private:
    const std::vector<std::string>& texts_;
    std::size_t next_ = 0;
  };

  static void check(const sentencepiece::util::Status& status) {
    if (!status.ok()) {
      throw std::runtime_error("continual::Tokenizer: expected a usable vocabulary, got: " +
                               status.ToString());
    }
  }

  std::string model_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_ =
      std::make_unique<sentencepiece::SentencePieceProcessor>();
};

}  // namespace continual
