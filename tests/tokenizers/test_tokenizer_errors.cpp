// What a tokenizer's files may have wrong, and what is said of it: file, field, value.
#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "fixtures.hpp"
#include "tokenizers/folder_tokenizer.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using tokenizers::TokenizerJson;

std::string parse_error(const std::string& bytes) {
  return error_of([&] { TokenizerJson::parse(bytes, "t.json"); });
}

/// A small tokenizer.json: 256 bytes, "ab", and one added token.
json small() {
  json vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[tokenizers::byte_level::spell(static_cast<unsigned char>(byte))] = byte;
  }
  vocabulary["ab"] = 256;
  return {
      {"added_tokens", {{{"id", 257}, {"content", "<end>"}, {"special", true}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"a b"}}}}};
}

/// The error of a small tokenizer with another value at `pointer`.
std::string error_with(const char* pointer, const json& value) {
  json document = small();
  document[json::json_pointer(pointer)] = value;
  return parse_error(document.dump());
}

/// The error of a Split with this pattern, without what is the same in all.
std::string pattern_error(const std::string& pattern) {
  const json split{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
  const json bytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  std::string text = error_with(
      "/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array({split, bytes})}});
  const std::string where = " (t.json, pre_tokenizer.pretokenizers[0].pattern.Regex)";
  const std::string start = "continual: expected ";
  if (text.starts_with(start) && text.ends_with(where)) {
    text = text.substr(start.size(), text.size() - start.size() - where.size());
  }
  return text;
}

/// A folder of files that goes away with its test.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("tokenizers-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  void put(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  /// The error of loading it, the folder's path left out.
  [[nodiscard]] std::string error() const {
    std::string text = error_of([&] { tokenizers::FolderTokenizer{path_}; });
    const std::string where = path_.string();
    for (auto at = text.find(where); at != std::string::npos; at = text.find(where)) {
      text.replace(at, where.size(), "F");
    }
    return text;
  }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace

TEST_CASE("a small tokenizer is read") {
  const auto tokenizer = TokenizerJson::parse(small().dump());
  CHECK(tokenizer.encode("cab<end>") == tokenizers::Ids{'c', 256, 257});
  CHECK(tokenizer.decode({'c', 256, 257}) == "cab");
  CHECK(tokenizer.vocabulary_size() == 258);
}

TEST_CASE("an added token is composed where it is normalized, and only there") {
  json document = small();
  document["normalizer"] = {{"type", "NFC"}};
  document["added_tokens"] = {{{"id", 257}, {"content", "ne\u0301"}, {"normalized", true}},
                              {{"id", 258}, {"content", "me\u0301"}, {"normalized", false}}};
  const auto tokenizer = TokenizerJson::parse(document.dump());
  CHECK(tokenizer.encode("n\u00e9") == tokenizers::Ids{257});
  CHECK(tokenizer.encode("ne\u0301") == tokenizers::Ids{257});
  CHECK(tokenizer.encode("me\u0301") == tokenizers::Ids{258});
  CHECK(tokenizer.encode("m\u00e9") == tokenizers::Ids{'m', 0xc3, 0xa9});
}

TEST_CASE("digits one by one, and numbers whole") {
  const auto words = [](bool individual) {
    const json digits{{"type", "Digits"}, {"individual_digits", individual}};
    json bytes = small()["pre_tokenizer"];
    bytes["use_regex"] = false;
    const json steps{{"type", "Sequence"}, {"pretokenizers", {digits, bytes}}};
    const tokenizers::PreTokenizer pre_tokenizer(tokenizers::JsonField(steps, "t.json"));
    return pre_tokenizer.words("ab12\u2167\u00bd 3x", false);
  };
  using Words = std::vector<std::string>;
  CHECK(words(true) == Words{"ab", "1", "2", "\u2167", "\u00bd", " ", "3", "x"});
  CHECK(words(false) == Words{"ab", "12\u2167\u00bd", " ", "3", "x"});
}

TEST_CASE("what is no JSON") {
  CHECK(parse_error("") == "continual: expected JSON, got nothing (t.json)");
  CHECK(parse_error(R"({"a": tru})") ==
        R"(continual: expected JSON, got "}" at byte 10 (t.json, a))");
  const std::string text = small().dump();
  const std::string behind = std::to_string(text.size() + 1);
  CHECK(parse_error(text + "x") ==
        "continual: expected JSON, got \"x\" at byte " + behind + " (t.json)");
  CHECK(parse_error(text + std::string(1, '\0') + "x") ==
        "continual: expected JSON, got \"\\x00x\" at byte " + behind + " (t.json)");
  CHECK(parse_error("{\"a\": \"\xff\"}") ==
        R"(continual: expected JSON, got ""\xFF"" at byte 8 (t.json, a))");
  CHECK(parse_error("[]") == "continual: expected an object, got a list (t.json)");
  CHECK(parse_error("3") == "continual: expected an object, got 3 (t.json)");
  CHECK(parse_error(R"({"model": {}, "model": {}})") ==
        R"(continual: expected every key once, got "model" twice (t.json, model))");
}

TEST_CASE("JSON that is nested deeply") {
  const std::string error = parse_error(std::string(1000000, '['));
  CHECK(error.starts_with("continual: expected JSON of at most 64 levels, got more (t.json, 0/0/"));
}

TEST_CASE("fields that are missing or of a wrong type") {
  for (const char* key : {"model", "pre_tokenizer", "decoder"}) {
    CHECK(error_with(("/" + std::string(key)).c_str(), nullptr) ==
          "continual: expected an object with \"" + std::string(key) +
              "\", got none such (t.json)");
    CHECK(error_with(("/" + std::string(key)).c_str(), json::array()) ==
          "continual: expected an object, got a list (t.json, " + std::string(key) + ")");
  }
  CHECK(error_with("/model/vocab", json::array()) ==
        "continual: expected an object of tokens and their ids, got a list (t.json, model.vocab)");
  CHECK(error_with("/model/vocab/ab", "x") ==
        "continual: expected an id from 0 to 2147483647, got \"x\" (t.json, model.vocab, \"ab\")");
  CHECK(error_with("/model/vocab/ab", -1) ==
        "continual: expected an id from 0 to 2147483647, got -1 (t.json, model.vocab, \"ab\")");
  CHECK(error_with("/model/vocab/ab", 1e300) ==
        "continual: expected an id from 0 to 2147483647, got 1e+300 (t.json, model.vocab, \"ab\")");
  CHECK(error_with("/model/vocab/ab", 18446744073709551615U) ==
        "continual: expected an id from 0 to 2147483647, got 18446744073709551615 "
        "(t.json, model.vocab, \"ab\")");
  CHECK(error_with("/model/vocab/ab", 7) ==
        "continual: expected an id that no other token has, got 7 (t.json, model.vocab, "
        "\"\\xC4\\x87\")");
  CHECK(error_with("/model/merges", "a b") ==
        "continual: expected a list, got \"a b\" (t.json, model.merges)");
  CHECK(error_with("/model/merges/0", "ab") ==
        "continual: expected two tokens with a space between them, got \"ab\" "
        "(t.json, model.merges[0])");
  CHECK(error_with("/model/merges/0", "a b c") ==
        "continual: expected two tokens with a space between them, got \"a b c\" "
        "(t.json, model.merges[0])");
  CHECK(error_with("/model/merges/0", {"a", 3}) ==
        "continual: expected two tokens, got a list (t.json, model.merges[0])");
  CHECK(error_with("/model/merges/0", "a ?b") ==
        "continual: expected tokens of the vocabulary, got \"?b\" (t.json, model.merges[0])");
  CHECK(error_with("/model/merges/0", "b a") ==
        "continual: expected tokens of the vocabulary, got \"ba\" (t.json, model.merges[0])");
  CHECK(error_with("/model/ignore_merges", 1) ==
        "continual: expected true or false, got 1 (t.json, model.ignore_merges)");
  CHECK(error_with("/model/unk_token", "<unk>") ==
        "continual: expected a token of the vocabulary, got \"<unk>\" (t.json, model.unk_token)");
  CHECK(error_with("/pre_tokenizer/add_prefix_space", nullptr) ==
        "continual: expected an object with \"add_prefix_space\", got none such "
        "(t.json, pre_tokenizer)");
  const std::string longer(100, 'x');
  CHECK(error_with("/pre_tokenizer/use_regex", longer) ==
        "continual: expected true or false, got \"" + std::string(60, 'x') +
            "...\" (t.json, pre_tokenizer.use_regex)");
}

TEST_CASE("kinds that are not supported are named by their field") {
  CHECK(
      error_with("/model/type", "Unigram") ==
      "continual: expected a model that is supported (BPE), got \"Unigram\" (t.json, model.type)");
  CHECK(error_with("/model/dropout", .1) ==
        "continual: expected a model without dropout, got 0.1 (t.json, model.dropout)");
  CHECK(error_with("/model/dropout", 0.) == "no error");
  CHECK(
      error_with("/model/byte_fallback", true) ==
      "continual: expected a model without byte_fallback, got true (t.json, model.byte_fallback)");
  CHECK(error_with("/model/end_of_word_suffix", "</w>") ==
        "continual: expected nothing around the parts of a word, got \"</w>\" "
        "(t.json, model.end_of_word_suffix)");
  CHECK(error_with("/model/continuing_subword_prefix", "##") ==
        "continual: expected nothing around the parts of a word, got \"##\" "
        "(t.json, model.continuing_subword_prefix)");
  CHECK(error_with("/normalizer", {{"type", "Lowercase"}}) ==
        "continual: expected a normalizer that is supported (NFC, Sequence), got \"Lowercase\" "
        "(t.json, normalizer.type)");
  CHECK(error_with("/pre_tokenizer/type", "Metaspace") ==
        "continual: expected a pre-tokenizer that is supported (Split, Digits, ByteLevel, "
        "Sequence), got \"Metaspace\" (t.json, pre_tokenizer.type)");
  CHECK(error_with("/pre_tokenizer", {{"type", "Digits"}, {"individual_digits", true}}) ==
        "continual: expected ByteLevel at the end, got \"Digits\" (t.json, pre_tokenizer)");
  const json bytes = small()["pre_tokenizer"];
  CHECK(error_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {bytes, bytes}}}) ==
        "continual: expected nothing behind ByteLevel, got \"ByteLevel\" "
        "(t.json, pre_tokenizer.pretokenizers[1].type)");
  CHECK(error_with("/pre_tokenizer",
                   {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "Isolated"}}) ==
        "continual: expected an object with \"Regex\", got none such "
        "(t.json, pre_tokenizer.pattern)");
  CHECK(error_with(
            "/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", " "}}}, {"behavior", "MergedWithNext"}}) ==
        "continual: expected a behavior that is supported (Isolated, Removed), got "
        "\"MergedWithNext\" (t.json, pre_tokenizer.behavior)");
  CHECK(error_with("/post_processor", {{"type", "BertProcessing"}}) ==
        "continual: expected a post-processor that is supported (TemplateProcessing, ByteLevel, "
        "Sequence), got \"BertProcessing\" (t.json, post_processor.type)");
  CHECK(error_with("/decoder/type", "WordPiece") ==
        "continual: expected a decoder that is supported (ByteLevel), got \"WordPiece\" "
        "(t.json, decoder.type)");
}

TEST_CASE("templates that do not fit") {
  const auto error_of_template = [](const json& single, const json& ids) {
    return error_with("/post_processor",
                      {{"type", "TemplateProcessing"},
                       {"single", single},
                       {"special_tokens", {{"<end>", {{"id", "<end>"}, {"ids", ids}}}}}});
  };
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json end{{"SpecialToken", {{"id", "<end>"}, {"type_id", 0}}}};
  CHECK(error_of_template({text, end}, {257}) == "no error");
  CHECK(error_of_template({text, end}, {258}) ==
        "continual: expected an id of the vocabulary, got 258 "
        "(t.json, post_processor.special_tokens.<end>.ids[0])");
  CHECK(
      error_of_template({text, text}, {257}) ==
      "continual: expected \"A\", once, got \"A\" (t.json, post_processor.single[1].Sequence.id)");
  CHECK(error_of_template(json::array({end}), {257}) ==
        "continual: expected a template with the text, got one without "
        "(t.json, post_processor.single)");
  const json other{{"SpecialToken", {{"id", "<x>"}, {"type_id", 0}}}};
  CHECK(error_of_template({text, other}, {257}) ==
        "continual: expected an object with \"<x>\", got none such "
        "(t.json, post_processor.special_tokens)");
}

TEST_CASE("added tokens that do not fit") {
  CHECK(error_with("/added_tokens/0/id", 300) ==
        "continual: expected 257 for \"<end>\", got 300 (t.json, added_tokens[0].id)");
  CHECK(error_with("/added_tokens/0/content", "ab") ==
        "continual: expected 256 for \"ab\", got 257 (t.json, added_tokens[0].id)");
  CHECK(error_with("/added_tokens/0/content", "") ==
        "continual: expected a text that is not empty, got \"\" (t.json, added_tokens[0].content)");
  CHECK(error_with("/added_tokens/0/lstrip", "yes") ==
        "continual: expected true or false, got \"yes\" (t.json, added_tokens[0].lstrip)");
}

TEST_CASE("patterns that PCRE2 would read otherwise are refused") {
  for (const auto& [pattern, what] : std::initializer_list<std::pair<const char*, const char*>>{
           {"\\w+", "\\w"},
           {"\\h", "\\h"},
           {"a\\", "a \\ at its end"},
           {"[\\S]", "\\S in brackets"},
           {"[a[bc]]", "sets within brackets"},
           {"[a-z&&b]", "sets within brackets"},
           {"\\pL", "\\p outside of \\p{...}"},
           {"(?<name>a)", "other groups than (?: (?i: (?= (?! (?<= (?<! (?>"},
           {"(?m:a)", "other groups than (?: (?i: (?= (?! (?<= (?<! (?>"},
           {"(*UCP)a", "(*"},
           {"a{,3}", "{,"},
           {"a{1,3}+", "}+"}}) {
    CHECK(pattern_error(pattern) ==
          "a pattern without " + std::string(what) + ", got \"" + pattern + "\"");
  }
  CHECK(pattern_error("a(b") == "a regular expression, got \"a(b\": missing closing parenthesis");
  CHECK(pattern_error("\\p{Nonsense}") ==
        "a regular expression, got \"\\p{Nonsense}\": unknown property after \\P or \\p");
  CHECK(pattern_error("a*") == "a pattern that matches at least one character, got \"a*\"");
  CHECK(pattern_error("\\u00e9|[^\\u00E9\\s]|\\d+|\\.") == "no error");
}

TEST_CASE("folders that lack a file, or have a broken one") {
  const Folder folder;
  CHECK(folder.error() == "continual: expected tokenizer.json or tokenizer.model, got neither (F)");
  folder.put("tokenizer.json", small().dump());
  CHECK(folder.error() ==
        "continual: expected an eos_token in tokenizer_config.json or an eos_token_id in "
        "config.json, got neither (F)");
  folder.put("config.json", R"({"eos_token_id": [257, 3]})");
  CHECK(folder.error() == "no error");
  CHECK(tokenizers::FolderTokenizer(folder.path()).end_id() == 257);
  folder.put("tokenizer_config.json", R"({"eos_token": {"content": "<stop>"}})");
  CHECK(folder.error() ==
        "continual: expected an end token of the vocabulary, got \"<stop>\" "
        "(F/tokenizer_config.json)");
  folder.put("tokenizer_config.json", R"({"eos_token": 3})");
  CHECK(folder.error() == "continual: expected a text, got 3 (F/tokenizer_config.json, eos_token)");
  folder.put("tokenizer_config.json", R"({"chat_template": {}})");
  CHECK(folder.error() ==
        "continual: expected a text, got an object (F/tokenizer_config.json, chat_template)");
  folder.put("tokenizer_config.json", "{");
  CHECK(folder.error() ==
        "continual: expected complete JSON, got the end after 1 bytes (F/tokenizer_config.json)");

  folder.put("tokenizer_config.json", R"({"eos_token": "<end>", "chat_template": "other"})");
  const tokenizers::FolderTokenizer unknown(folder.path());
  CHECK(error_of([&] {
          static_cast<void>(unknown.format());
        }).find("--format \"Question: {question}\\nAnswer: {answer}\", got another template (") !=
        std::string::npos);
  const json llama3 =
      json::parse(read_file(kFixtures / "llama3" / "tokenizer_config.json"))["chat_template"];
  folder.put("chat_template.jinja", llama3.get<std::string>());  // goes before the other's
  CHECK(folder.error() ==
        "continual: expected a bos_token, which the template of Llama 3 begins with, got none "
        "(F/tokenizer_config.json)");
  folder.put("tokenizer_config.json", R"({"bos_token": "<end>"})");
  CHECK(folder.error() ==
        "continual: expected an end token of the vocabulary, got \"<|eot_id|>\" "
        "(F/tokenizer_config.json)");
}

TEST_CASE("SentencePiece's file is read where tokenizer.json is a copy of it") {
  const Folder folder;
  folder.put("config.json", R"({"eos_token_id": 2})");
  folder.put("tokenizer.model", read_file(kFixtures / "llama2" / "tokenizer.model"));
  const tokenizers::FolderTokenizer alone(folder.path());
  CHECK(alone.tokenizer().id_of("</s>") == 2);
  json copy = small();
  copy["model"]["byte_fallback"] = true;
  folder.put("tokenizer.json", copy.dump());
  CHECK(tokenizers::FolderTokenizer(folder.path()).vocabulary_size() == alone.vocabulary_size());
  folder.put("tokenizer.json", small().dump());
  CHECK(tokenizers::FolderTokenizer(folder.path()).vocabulary_size() == 258);

  folder.put("tokenizer_config.json", R"({"add_bos_token": false})");
  fs::remove(folder.path() / "tokenizer.json");
  CHECK(tokenizers::FolderTokenizer(folder.path()).tokenizer().prefix().empty());
  folder.put("tokenizer.model", "no vocabulary");
  CHECK(folder.error().starts_with("continual: expected a vocabulary of SentencePiece, got "));
  CHECK(folder.error().ends_with(" (F/tokenizer.model)"));
}
