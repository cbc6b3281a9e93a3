// A subword vocabulary without unknown tokens: SentencePiece, byte-pair encoding with byte
// fallback, trained on the training text.
#pragma once

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
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

  /// Trains a vocabulary of `num_pieces` pieces on `texts`, or of as many as they hold where those
  /// are fewer. Long texts are cut for it. Deterministic: one thread. Throws std::runtime_error.
  static Tokenizer train(const std::vector<std::string>& texts, std::int64_t num_pieces) {
    std::unordered_map<std::string, std::string> options{
        {"model_type", "bpe"},
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
        {"max_sentence_length", std::to_string(kMaxSentence)},
        {"num_threads", "1"},
        {"minloglevel", "2"}};
    const std::vector<std::string> sentences = sentences_of(texts);
    std::string model;
    const auto try_to = [&](std::int64_t pieces) {
      Texts walk(sentences);
      options["vocab_size"] = std::to_string(pieces);
      return sentencepiece::SentencePieceTrainer::Train(options, &walk, &model);
    };
    auto status = try_to(num_pieces);
    if (!status.ok()) {
      // Where there are fewer, only its message says how many.
      const std::string message = status.ToString();
      constexpr std::string_view kBefore = "Please set it to a value <= ";
      if (const auto at = message.find(kBefore); at != std::string::npos) {
        status = try_to(std::strtoll(message.c_str() + at + kBefore.size(), nullptr, 10));
      }
    }
    check(status);
    return Tokenizer(std::move(model));
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
  static constexpr std::size_t kMaxSentence =
      1'000'000;  ///< bytes; longer ones are not learned from

  /// The texts without what the trainer would leave out: longer ones are cut, at a blank where
  /// there is one; U+2585, which it keeps for itself, becomes a blank.
  static std::vector<std::string> sentences_of(const std::vector<std::string>& texts) {
    std::vector<std::string> sentences;
    for (std::string text : texts) {
      constexpr std::string_view kReserved = "\xE2\x96\x85";
      for (auto at = text.find(kReserved); at != std::string::npos; at = text.find(kReserved, at)) {
        text.replace(at, kReserved.size(), " ");
      }
      std::string_view rest = text;
      while (rest.size() > kMaxSentence) {
        std::size_t end = rest.rfind(' ', kMaxSentence);
        if (end == std::string_view::npos || end == 0) {
          end = kMaxSentence;  // between two characters of UTF-8
          while (end > kMaxSentence - 4 &&
                 (static_cast<unsigned char>(rest[end]) & 0xC0U) == 0x80) {
            --end;
          }
        }
        sentences.emplace_back(rest.substr(0, end));
        rest.remove_prefix(end);
      }
      sentences.emplace_back(rest);
    }
    return sentences;
  }

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
