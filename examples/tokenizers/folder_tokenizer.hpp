// The tokenizer and the format of a Hugging Face folder: questions and answers to ids and labels.
#pragma once

#include <alkn/io/input_file.hpp>
#include <alkn/io/text.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "tokenizers/chat_format.hpp"
#include "tokenizers/json_field.hpp"
#include "tokenizers/sentencepiece.hpp"
#include "tokenizers/tokenizer.hpp"
#include "tokenizers/tokenizer_json.hpp"

namespace tokenizers {

inline constexpr std::int64_t kIgnored = -100;  ///< label of what is not learned

/// Ids and their labels, of one length; the labels of the prompt are kIgnored.
struct Labelled {
  Ids ids, labels;
};

/// What a model's folder says of text: tokenizer.json or tokenizer.model, tokenizer_config.json,
/// chat_template.jinja and config.json. Throws std::runtime_error that names file and field.
class FolderTokenizer {
 public:
  /// `format`: the user's own, which goes before the folder's chat template.
  explicit FolderTokenizer(std::filesystem::path folder,
                           const std::optional<std::string>& format = std::nullopt)
      : folder_(std::move(folder)) {
    const auto config = read_json("tokenizer_config.json");
    load_tokenizer(config);
    choose_format(config, format);
    find_end(config);
  }

  [[nodiscard]] const Tokenizer& tokenizer() const { return *tokenizer_; }
  [[nodiscard]] Ids encode(std::string_view text) const { return tokenizer_->encode(text); }
  [[nodiscard]] std::string decode(const Ids& ids) const { return tokenizer_->decode(ids); }
  [[nodiscard]] std::int64_t vocabulary_size() const { return tokenizer_->vocabulary_size(); }

  /// The token that ends an answer, and a text.
  [[nodiscard]] std::int64_t end_id() const { return end_id_; }

  /// Throws where the folder has no chat template that is known and no format was given.
  [[nodiscard]] const ChatFormat& format() const {
    if (!format_) {
      fail(
          "a chat template that is known (SmolLM2, Qwen2, ChatML, Llama 2, Llama 3), or "
          "--format \"Question: {question}\\nAnswer: {answer}\"",
          has_template_ ? "another template" : "none", folder_.string());
    }
    return *format_;
  }

  /// What a model is asked with.
  [[nodiscard]] Ids encode_prompt(std::string_view question) const {
    const ChatFormat& chat = format();
    Ids ids = chat.chat ? Ids{} : tokenizer_->prefix();
    append(ids, tokenizer_->encode(chat.prompt(question)));
    return ids;
  }

  /// The prompt, the answer and the end token; the last two count. The prompt's ids are those of
  /// `encode_prompt`. Cut at `context` ids; `where` names a prompt that leaves no room for an
  /// answer.
  [[nodiscard]] Labelled encode_pair(std::string_view question, std::string_view answer,
                                     std::int64_t context, const std::string& where) const {
    Labelled pair{encode_prompt(question), {}};
    if (std::ssize(pair.ids) >= context) {
      fail("a prompt shorter than the context of " + std::to_string(context) + " tokens",
           std::to_string(pair.ids.size()) + " tokens", where);
    }
    pair.labels.assign(pair.ids.size(), kIgnored);
    Ids counted = tokenizer_->encode_continuation(format().answer(answer));
    counted.push_back(end_id_);
    append(pair.ids, counted);
    append(pair.labels, counted);
    if (std::ssize(pair.ids) > context) {
      pair.ids.resize(static_cast<std::size_t>(context));
      pair.labels.resize(static_cast<std::size_t>(context));
    }
    return pair;
  }

  /// A plain text between the tokens that begin and end one; everything but the first counts.
  [[nodiscard]] Labelled encode_text(std::string_view text) const {
    Labelled plain{tokenizer_->prefix(), {}};
    plain.labels.assign(plain.ids.size(), kIgnored);
    Ids counted = tokenizer_->encode(text);
    counted.push_back(end_id_);
    append(plain.ids, counted);
    append(plain.labels, counted);
    return plain;
  }

  /// Throws where the model's embedding has fewer rows than the vocabulary.
  void require_embedding(std::int64_t rows) const {
    if (rows < vocabulary_size()) {
      fail("an embedding of at least " + std::to_string(vocabulary_size()) +
               " rows, one a token of the vocabulary",
           std::to_string(rows), folder_.string());
    }
  }

 private:
  using Document = std::shared_ptr<const nlohmann::json>;

  static void append(Ids& ids, const Ids& more) { ids.insert(ids.end(), more.begin(), more.end()); }

  [[nodiscard]] std::string path_of(const char* name) const { return (folder_ / name).string(); }

  [[nodiscard]] std::optional<std::string> read(const char* name) const {
    if (!std::filesystem::exists(folder_ / name)) {
      return std::nullopt;
    }
    try {
      return alkn::io::read_bytes(folder_ / name);
    } catch (const alkn::io::Unexpected& error) {
      fail(error.expected, error.got, path_of(name));
    }
  }

  /// The file as JSON, an empty object where there is none.
  [[nodiscard]] Document read_json(const char* name) const {
    const auto bytes = read(name);
    return std::make_shared<const nlohmann::json>(bytes ? parse_json(*bytes, path_of(name))
                                                        : nlohmann::json::object());
  }

  void load_tokenizer(const Document& config) {
    const auto json = read("tokenizer.json");
    const auto model = read("tokenizer.model");
    if (model && (!json || is_sentence_piece(*json))) {
      const auto begins =
          JsonField(*config, path_of("tokenizer_config.json")).find("add_bos_token");
      tokenizer_ = std::make_shared<SentencePieceModel>(
          SentencePieceModel::parse(*model, path_of("tokenizer.model"), !begins || begins->flag()));
    } else if (json) {
      tokenizer_ =
          std::make_shared<TokenizerJson>(TokenizerJson::parse(*json, path_of("tokenizer.json")));
    } else {
      fail("tokenizer.json or tokenizer.model", "neither", folder_.string());
    }
  }

  /// SentencePiece's vocabularies, converted; the original beside it is read in its place.
  [[nodiscard]] bool is_sentence_piece(const std::string& bytes) const {
    const nlohmann::json document = parse_json(bytes, path_of("tokenizer.json"));
    const JsonField model = JsonField(document, path_of("tokenizer.json"))["model"];
    const auto type = model.find("type");
    const auto fallback = model.find("byte_fallback");
    return (type && type->text() == "Unigram") || (fallback && fallback->flag());
  }

  /// The text of a special token, which may be an object with "content".
  [[nodiscard]] std::optional<std::string> token_text(const Document& config,
                                                      const char* key) const {
    const auto field = JsonField(*config, path_of("tokenizer_config.json")).find(key);
    if (!field) {
      return std::nullopt;
    }
    return field->value().is_object() ? (*field)["content"].text() : field->text();
  }

  [[nodiscard]] std::optional<std::string> chat_template(const Document& config) const {
    if (auto file = read("chat_template.jinja")) {
      return file;
    }
    const auto field = JsonField(*config, path_of("tokenizer_config.json")).find("chat_template");
    if (!field || !field->value().is_array()) {
      return field ? std::optional(field->text()) : std::nullopt;
    }
    for (std::size_t i = 0; i < field->size(); ++i) {  // several with names
      if ((*field)[i]["name"].text() == "default") {
        return (*field)[i]["template"].text();
      }
    }
    return std::nullopt;
  }

  void choose_format(const Document& config, const std::optional<std::string>& format) {
    if (format) {
      format_ = user_format(*format);
      return;
    }
    const auto text = chat_template(config);
    has_template_ = text.has_value();
    format_ = text ? known_chat_format(*text) : std::nullopt;
    if (format_ && format_->needs_begin) {
      const auto begin = token_text(config, "bos_token");
      if (!begin) {
        fail("a bos_token, which the template of " + format_->name + " begins with", "none",
             path_of("tokenizer_config.json"));
      }
      format_->before.insert(0, *begin);
    }
  }

  void find_end(const Document& config) {
    std::optional<std::string> token = token_text(config, "eos_token");
    if (format_ && !format_->end.empty()) {
      token = format_->end;
    }
    if (token) {
      const auto id = tokenizer_->id_of(*token);
      if (!id) {
        fail("an end token of the vocabulary", "\"" + alkn::io::printable(*token) + "\"",
             path_of("tokenizer_config.json"));
      }
      end_id_ = *id;
      return;
    }
    const Document model = read_json("config.json");
    const auto ids = JsonField(*model, path_of("config.json")).find("eos_token_id");
    if (!ids) {
      fail("an eos_token in tokenizer_config.json or an eos_token_id in config.json", "neither",
           folder_.string());
    }
    end_id_ =
        ids->value().is_array() && !ids->value().empty() ? (*ids)[std::size_t{0}].id() : ids->id();
  }

  std::filesystem::path folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<ChatFormat> format_;
  bool has_template_ = false;
  std::int64_t end_id_ = 0;
};

}  // namespace tokenizers
