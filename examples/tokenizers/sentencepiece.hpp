// A tokenizer of a Hugging Face folder: SentencePiece's own file, tokenizer.model.
#pragma once

#include <sentencepiece_processor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

namespace tokenizers {

/// What tokenizer.model alone defines, read as Llama 2's tokenizer reads it ("legacy"): <s>, </s>
/// and <unk> in a text are these tokens, and each piece of text between them is encoded by itself,
/// with the space before it that the file asks for.
class SentencePieceModel final : public Tokenizer {
 public:
  /// From the bytes of a file, which `file` names in errors. `begins`: texts get <s> before them.
  static SentencePieceModel parse(const std::string& bytes,
                                  const std::string& file = "tokenizer.model", bool begins = true) {
    return {bytes, file, begins};
  }

  [[nodiscard]] Ids encode(std::string_view text) const override { return encode(text, false); }

  [[nodiscard]] Ids encode_continuation(std::string_view text) const override {
    return encode(text, true);
  }

  [[nodiscard]] std::string decode(const Ids& ids) const override {
    std::vector<int> pieces;
    for (const std::int64_t id : ids) {
      if (id < 0 || id >= vocabulary_size()) {
        fail("ids of the vocabulary", std::to_string(id), "a text to decode");
      }
      pieces.push_back(static_cast<int>(id));
    }
    std::string text;
    check(processor_->Decode(pieces, &text), "a text to decode");
    return text;
  }

  [[nodiscard]] std::int64_t vocabulary_size() const override { return processor_->GetPieceSize(); }

  [[nodiscard]] std::optional<std::int64_t> id_of(std::string_view token) const override {
    const int id = processor_->PieceToId({token.data(), token.size()});
    // What it does not know is <unk>.
    const bool known = id != processor_->unk_id() || processor_->IdToPiece(id) == token;
    return known ? std::optional<std::int64_t>(id) : std::nullopt;
  }

  [[nodiscard]] Ids prefix() const override {
    return begins_ && processor_->bos_id() >= 0 ? Ids{processor_->bos_id()} : Ids{};
  }
  [[nodiscard]] Ids suffix() const override { return {}; }

 private:
  using Processor = sentencepiece::SentencePieceProcessor;

  SentencePieceModel(const std::string& bytes, const std::string& file, bool begins)
      : begins_(begins) {
    check(processor_->LoadFromSerializedProto(bytes), file);
    // Of a message that stands twice in a protocol buffer, the later one's fields win: this is
    // normalizer_spec { add_dummy_prefix: false }.
    using std::string_literals::operator""s;
    check(continuing_->LoadFromSerializedProto(bytes + "\x1a\x02\x18\x00"s), file);
    for (int id = 0; id < processor_->GetPieceSize(); ++id) {
      if (processor_->IsControl(id) || processor_->IsUnknown(id)) {
        AddedToken token;
        token.content = processor_->IdToPiece(id);
        token.id = id;
        specials_.add(std::move(token));
      }
    }
  }

  [[nodiscard]] Ids encode(std::string_view text, bool continues) const {
    require_utf8(text, "a text to encode");
    Ids ids;
    for (const AddedTokens::Piece& piece : specials_.split(text)) {
      if (piece.id) {
        ids.push_back(*piece.id);
        continue;
      }
      const Processor& processor = continues && ids.empty() ? *continuing_ : *processor_;
      std::vector<int> pieces;
      check(processor.Encode({piece.text.data(), piece.text.size()}, &pieces), "a text to encode");
      ids.insert(ids.end(), pieces.begin(), pieces.end());
    }
    return ids;
  }

  static void check(const sentencepiece::util::Status& status, const std::string& where) {
    if (!status.ok()) {
      fail("a vocabulary of SentencePiece", status.ToString(), where);
    }
  }

  std::unique_ptr<Processor> processor_ = std::make_unique<Processor>();
  std::unique_ptr<Processor> continuing_ = std::make_unique<Processor>();
  AddedTokens specials_;
  bool begins_;
};

}  // namespace tokenizers
