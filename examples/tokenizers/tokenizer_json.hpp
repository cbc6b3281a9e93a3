// A tokenizer of a Hugging Face folder: the file tokenizer.json, with byte-level BPE.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tokenizers/added_tokens.hpp"
#include "tokenizers/byte_level.hpp"
#include "tokenizers/byte_pair.hpp"
#include "tokenizers/json_field.hpp"
#include "tokenizers/pre_tokenizer.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/utf8.hpp"

namespace tokenizers {

/// Gives the ids that Python's `tokenizers` gives. What a file asks for and this does not do is an
/// error that names the field; "truncation" and "padding" are nobody's business here, and left out.
class TokenizerJson final : public Tokenizer {
 public:
  /// From the bytes of a file, which `file` names in errors. Throws std::runtime_error.
  static TokenizerJson parse(std::string_view bytes, const std::string& file = "tokenizer.json") {
    const nlohmann::json document = parse_json(bytes, file);
    return TokenizerJson(JsonField(document, file));
  }

  [[nodiscard]] Ids encode(std::string_view text) const override { return encode(text, false); }

  [[nodiscard]] Ids encode_continuation(std::string_view text) const override {
    return encode(text, true);
  }

  [[nodiscard]] std::string decode(const Ids& ids) const override {
    std::string bytes;
    for (const std::int64_t id : ids) {
      const auto token = bytes_of_.find(id);
      if (token == bytes_of_.end()) {
        fail("ids of the vocabulary", std::to_string(id), "a text to decode");
      }
      if (!special_.contains(id)) {
        bytes += token->second;
      }
    }
    return lossy_utf8(bytes);
  }

  [[nodiscard]] std::int64_t vocabulary_size() const override { return vocabulary_size_; }

  [[nodiscard]] std::optional<std::int64_t> id_of(std::string_view token) const override {
    if (const auto added = added_ids_.find(std::string(token)); added != added_ids_.end()) {
      return added->second;
    }
    return model_.id_of(std::string(token));
  }

  [[nodiscard]] Ids prefix() const override { return prefix_; }
  [[nodiscard]] Ids suffix() const override { return suffix_; }

 private:
  explicit TokenizerJson(const JsonField& field)
      : model_(field["model"]), pre_tokenizer_(field["pre_tokenizer"]) {
    if (const auto normalizer = field.find("normalizer")) {
      read_normalizer(*normalizer);
    }
    const JsonField decoder = field["decoder"];
    if (decoder["type"].text() != "ByteLevel") {
      decoder["type"].fail("a decoder that is supported (ByteLevel)", decoder["type"].described());
    }
    next_added_id_ = std::ssize(model_.vocabulary());
    for (const auto& [token, id] : model_.vocabulary()) {
      note_token(token, id);
    }
    if (const auto added = field.find("added_tokens")) {
      for (std::size_t i = 0; i < added->size(); ++i) {
        add_token((*added)[i]);
      }
    }
    if (const auto post_processor = field.find("post_processor")) {
      read_post_processor(*post_processor);
    }
  }

  void read_normalizer(const JsonField& field) {
    const JsonField type = field["type"];
    if (type.text() == "Sequence") {
      const JsonField list = field["normalizers"];
      for (std::size_t i = 0; i < list.size(); ++i) {
        read_normalizer(list[i]);
      }
    } else if (type.text() == "NFC") {
      composes_ = true;
    } else {
      type.fail("a normalizer that is supported (NFC, Sequence)", type.described());
    }
  }

  void note_token(const std::string& token, std::int64_t id) {
    bytes_of_[id] = byte_level::bytes_of(token).value_or(token);
    vocabulary_size_ = std::max(vocabulary_size_, id + 1);
  }

  void add_token(const JsonField& field) {
    const auto flag = [&](const char* key) {
      const auto value = field.find(key);
      return value && value->flag();
    };
    AddedToken token;
    token.content = field["content"].text();
    if (token.content.empty()) {
      field["content"].fail("a text that is not empty", "\"\"");
    }
    token.id = field["id"].id();
    token.single_word = flag("single_word");
    token.lstrip = flag("lstrip");
    token.rstrip = flag("rstrip");
    // Python gives a new token the next free id, whatever the file says.
    const auto known = id_of(token.content);
    const std::int64_t expected = known ? *known : next_added_id_;
    if (token.id != expected) {
      field["id"].fail(std::to_string(expected) + " for " + field["content"].described(),
                       std::to_string(token.id));
    }
    next_added_id_ = std::max(next_added_id_, token.id + 1);
    added_ids_[token.content] = token.id;
    note_token(token.content, token.id);
    if (flag("special")) {
      special_.insert(token.id);
    }
    if (flag("normalized")) {
      token.content = normalized(token.content);
      normalized_tokens_.add(std::move(token));
    } else {
      raw_tokens_.add(std::move(token));
    }
  }

  /// ByteLevel moves offsets alone; a template is what goes before and behind one text.
  void read_post_processor(const JsonField& field) {
    const JsonField type = field["type"];
    if (type.text() == "Sequence") {
      const JsonField list = field["processors"];
      for (std::size_t i = 0; i < list.size(); ++i) {
        read_post_processor(list[i]);
      }
    } else if (type.text() == "TemplateProcessing") {
      read_template(field);
    } else if (type.text() != "ByteLevel") {
      type.fail("a post-processor that is supported (TemplateProcessing, ByteLevel, Sequence)",
                type.described());
    }
  }

  void read_template(const JsonField& field) {
    const JsonField single = field["single"];
    Ids before, behind;
    bool seen = false;
    for (std::size_t i = 0; i < single.size(); ++i) {
      if (const auto token = single[i].find("SpecialToken")) {
        const JsonField ids = field["special_tokens"][(*token)["id"].text().c_str()]["ids"];
        for (std::size_t k = 0; k < ids.size(); ++k) {
          const std::int64_t id = ids[k].id();
          if (!bytes_of_.contains(id)) {
            ids[k].fail("an id of the vocabulary", std::to_string(id));
          }
          (seen ? behind : before).push_back(id);
        }
      } else if (const JsonField text = single[i]["Sequence"]["id"]; text.text() != "A" || seen) {
        text.fail("\"A\", once", text.described());
      } else {
        seen = true;
      }
    }
    if (!seen) {
      single.fail("a template with the text", "one without");
    }
    prefix_.insert(prefix_.begin(), before.begin(), before.end());
    suffix_.insert(suffix_.end(), behind.begin(), behind.end());
  }

  [[nodiscard]] std::string normalized(std::string_view text) const {
    return composes_ ? nfc(text) : std::string(text);
  }

  [[nodiscard]] Ids encode(std::string_view text, bool continues) const {
    require_utf8(text, "a text to encode");
    Ids ids;
    for (const AddedTokens::Piece& piece : raw_tokens_.split(text)) {
      if (piece.id) {
        ids.push_back(*piece.id);
        continue;
      }
      const std::string normal = normalized(piece.text);
      for (const AddedTokens::Piece& part : normalized_tokens_.split(normal)) {
        if (part.id) {
          ids.push_back(*part.id);
          continue;
        }
        for (const std::string& word : pre_tokenizer_.words(part.text, continues && ids.empty())) {
          model_.encode(word, ids);
        }
      }
    }
    return ids;
  }

  BytePair model_;
  PreTokenizer pre_tokenizer_;
  AddedTokens raw_tokens_, normalized_tokens_;  ///< looked for before and after normalizing
  std::unordered_map<std::string, std::int64_t> added_ids_;
  std::unordered_map<std::int64_t, std::string> bytes_of_;
  std::unordered_set<std::int64_t> special_;
  Ids prefix_, suffix_;
  bool composes_ = false;
  std::int64_t next_added_id_ = 0;
  std::int64_t vocabulary_size_ = 0;
};

}  // namespace tokenizers
