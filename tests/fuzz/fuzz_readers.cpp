// The bytes of a file may be anything: what is no such file is an exception of the reader's own. A
// reader joins by one line in the table; ALKN_READER picks one of them, else the first byte does.
// Half of the inputs are changes to a small file that is one.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include "alkn/io/model_folder.hpp"
#include "alkn/io/safetensors.hpp"
#include "continual/metrics_file.hpp"
#include "continual/readers.hpp"
#include "continual/tokenizer.hpp"
#include "models/config.hpp"
#include "tofu_metrics/tofu_log.hpp"
#include "tokenizers/chat_format.hpp"
#include "tokenizers/folder_tokenizer.hpp"
#include "tokenizers/sentencepiece.hpp"
#include "tokenizers/tokenizer_json.hpp"

namespace {

namespace fs = std::filesystem;

void read_safetensors(const fs::path& path) {
  const alkn::io::SafetensorsFile file(path);
  file.verify();
  for (const auto& array : file.arrays()) {
    std::vector<char> data(static_cast<std::size_t>(array.num_bytes()));
    file.read(array, data.data());
  }
}

void read_json(const fs::path& path) {
  const auto value = alkn::io::parse_json(alkn::io::read_text(path));
  if (alkn::io::shown(value).empty()) std::abort();  // every value has a text
}

void read_tofu(const fs::path& path) {
  for (const auto& pair : continual::detail::read_pairs(path, "question")) {
    if (pair.question.empty() || pair.answer.empty()) std::abort();  // neither is worth a line
  }
}

/// A text with a special token, a letter of two bytes and one of four.
constexpr const char* kText = "abb a1 <e>  n\xc3\xa9\n\xf0\x9f\x98\x80";

void use(const tokenizers::Tokenizer& tokenizer, const std::string& continuation) {
  const auto ids = tokenizer.encode(kText);
  if (tokenizer.decode(ids).empty()) return;  // only to use the result
  for (const std::int64_t id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
  }
  static_cast<void>(tokenizer.id_of("<e>"));
  static_cast<void>(tokenizer.encode_continuation(continuation));
}

void read_tokenizer_json(const fs::path& path) {
  const std::string bytes = alkn::io::read_bytes(path);
  use(tokenizers::TokenizerJson::parse(bytes), bytes);
}

void read_tokenizer_model(const fs::path& path) {
  use(tokenizers::SentencePieceModel::parse(alkn::io::read_bytes(path)), kText);
}

void read_tokenizer_config(const fs::path& path) {
  const tokenizers::FolderTokenizer folder(path.parent_path());
  if (folder.encode_pair("a", "b", 64, "here").ids.empty()) std::abort();  // the end token is one
}

void read_vocabulary(const fs::path& path) {
  const continual::Tokenizer tokenizer(continual::read_bytes(path));
  static_cast<void>(tokenizer.decode(tokenizer.encode(kText)));
}

/// A tokenizer.json of few tokens, with one of everything.
constexpr const char* kTokenizerJson =
    R"({"added_tokens":[{"id":6,"content":"<e>","special":true,"lstrip":true,"rstrip":true},)"
    R"({"id":7,"content":"n","normalized":true,"single_word":true}],)"
    R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"}]},)"
    R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits",)"
    R"("individual_digits":true},{"type":"Split","pattern":{"Regex":" ?\\p{L}+|\\s+(?!\\S)|."},)"
    R"("behavior":"Removed","invert":true},{"type":"ByteLevel","add_prefix_space":true,)"
    R"("use_regex":true}]},"post_processor":{"type":"TemplateProcessing","single":)"
    R"([{"SpecialToken":{"id":"<e>"}},{"Sequence":{"id":"A"}}],"special_tokens":)"
    R"({"<e>":{"ids":[6]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE",)"
    R"("unk_token":"a","fuse_unk":true,"ignore_merges":true,)"
    R"("vocab":{"a":0,"b":1,"ab":2,"\u0120":3,"abb":4,"1":5},"merges":["a b",["ab","b"]]}})";

std::string small_tokenizer_config() {
  const nlohmann::json config{{"eos_token", {{"content", "</s>"}}},
                              {"bos_token", "<s>"},
                              {"add_bos_token", true},
                              {"chat_template", tokenizers::detail::kLlama2}};
  return config.dump();
}

/// A field of a protocol buffer whose value is bytes, with fewer than 128 of them.
std::string proto_field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) +
         bytes;
}

/// A tokenizer.model of few pieces. @param type 1: unigram, 2: byte-pair encoding
std::string small_sentencepiece(char type) {
  using std::string_literals::operator""s;
  std::string file;
  const auto piece = [&](const char* text, const std::string& kind) {
    file += proto_field(1, proto_field(1, text) + kind);
  };
  piece("<unk>", "\x18\x02"), piece("<s>", "\x18\x03"), piece("</s>", "\x18\x03");
  piece("<e>", "\x18\x04");
  for (const char* text : {"\xe2\x96\x81", "a", "b", "n", "ab", "\xe2\x96\x81\x61"})
    piece(text, "\x15\x00\x00\x80\xbf"s);  // -1
  return file + proto_field(2, "\x18"s + type) + proto_field(3, "\x0a\x08identity\x18\x01"s);
}

/// What a file with a single tensor of two numbers looks like.
std::string small_safetensors() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  return file + header + std::string(8, '\1');
}

/// A log of one question in each set.
std::string small_log() {
  const std::string set = R"({"avg_gt_loss":{"0":1.5},"average_perturb_loss":{"0":[2,3]},)"
                          R"("avg_paraphrased_loss":{"0":1},"rougeL_recall":{"0":0.5}})";
  return "{\"eval_log.json\":" + set + ",\"eval_real_author_wo_options.json\":" + set +
         ",\"eval_real_world_wo_options.json\":" + set + ",\"eval_log_forget.json\":" + set + "}";
}

struct Reader {
  const char* name;
  const char* file;  ///< its name, which some readers go by
  void (*read)(const fs::path& path);
  std::string whole;  ///< a file that is read
  /// What lies beside it.
  const char* other = "a.safetensors";
  std::string other_bytes = small_safetensors();
};

const std::vector<Reader>& readers() {
  static const std::vector<Reader> all{
      {"safetensors", "a.safetensors", read_safetensors, small_safetensors()},
      {"json", "a.json", read_json, R"({"a":[1,-2.5e3,true,null,"\u00e9"],"b":{"c":""}})"},
      {"tofu", "a.json", read_tofu,
       R"({"question":"Who?","answer":"She."})"
       "\n"
       R"({"question":"When?","answer":"Then."})"},
      {"news", "a.json", [](const fs::path& p) { continual::detail::read_news(p); },
       R"(["A text.\n\nAnother.",{"text":"A third."}])"},
      {"book", "a.txt", [](const fs::path& p) { continual::detail::read_book(p); },
       "One.\n\nTwo, too.\n"},
      {"own", "a.jsonl", [](const fs::path& p) { continual::detail::read_own(p); },
       R"({"question":"Who?","answer":"She."})"},
      {"object", "config.json", [](const fs::path& p) { continual::read_object(p); },
       R"({"seed":1,"method":"alkn","paths":["a","b"]})"},
      {"config", "config.json", [](const fs::path& p) { models::read_config(p.parent_path()); },
       R"({"model_type":"llama","vocab_size":8,"hidden_size":8,"intermediate_size":8,)"
       R"("num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,)"
       R"("max_position_embeddings":16,"rms_norm_eps":1e-5,"rope_theta":1e4,"hidden_act":"silu",)"
       R"("rope_scaling":{"type":"linear","factor":2.0},"tie_word_embeddings":true})"},
      {"index", "model.safetensors.index.json",
       [](const fs::path& p) { const alkn::io::ModelFolder folder(p.parent_path()); },
       R"({"metadata":{"total_size":8},"weight_map":{"a":"a.safetensors"}})"},
      {"tofu_log", "log.json", [](const fs::path& p) { tofu::read_log(p.string()); }, small_log()},
      {"metrics", "metrics.jsonl",
       [](const fs::path& p) { const continual::MetricsFile lines(p, true); },
       "{\"kind\":\"step\",\"task\":0,\"step\":1,\"loss\":0.5}\n{\"kind\":\"task\",\"task\":0}\n"},
      {"vocabulary", "base.vocabulary", read_vocabulary,
       continual::Tokenizer::train({"abc ab abcab"}, 270).model()},
      {"tokenizer_json", "tokenizer.json", read_tokenizer_json, kTokenizerJson},
      {"tokenizer_model", "tokenizer.model", read_tokenizer_model, small_sentencepiece(2)},
      {"unigram", "tokenizer.model", read_tokenizer_model, small_sentencepiece(1)},
      {"tokenizer_config", "tokenizer_config.json", read_tokenizer_config, small_tokenizer_config(),
       "tokenizer.model", small_sentencepiece(2)},
  };
  return all;
}

/// A folder for each reader, with what lies beside its file.
fs::path folder_of(const Reader& reader) {
  static const struct Scratch {
    /// In memory, where there is such a place: a disk takes most of the time.
    fs::path path =
        (fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
        ("fuzz_readers-" + std::to_string(::getpid()));
    Scratch() {
      for (const Reader& one : readers()) {
        fs::create_directories(path / one.name);
        std::ofstream(path / one.name / one.other, std::ios::binary) << one.other_bytes;
      }
    }
    ~Scratch() { fs::remove_all(path); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
  } scratch;
  return scratch.path / reader.name;
}

/// Whether the bytes were a file of the kind.
bool run(const Reader& reader, std::string_view bytes) {
  const fs::path path = folder_of(reader) / reader.file;
  std::ofstream(path, std::ios::binary) << bytes;
  try {
    reader.read(path);
    return true;
  } catch (const std::exception& error) {
    const std::string_view text = error.what();
    if (text.empty() || text.substr(0, 5) == "[json") std::abort();  // the text of somebody else
    return false;
  }
}

const Reader* chosen() {
  const char* name = std::getenv("ALKN_READER");
  if (name == nullptr) return nullptr;
  for (const Reader& reader : readers()) {
    if (std::strcmp(reader.name, name) == 0) return &reader;
  }
  std::fprintf(stderr, "fuzz_readers: expected the name of a reader, got %s\n", name);
  std::exit(1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Reader* const only = chosen();
  static const bool whole_ones_are_read = [] {
    for (const Reader& reader : readers()) {
      if ((only == nullptr || only == &reader) && !run(reader, reader.whole)) {
        std::fprintf(stderr, "fuzz_readers: the whole file of %s is not read\n", reader.name);
        std::abort();
      }
    }
    return true;
  }();
  if (!whole_ones_are_read || size == 0) return 0;
  const Reader& reader = only != nullptr ? *only : readers()[data[0] % readers().size()];
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  run(reader, bytes.substr(1));
  if (size < 4) return 0;
  // Two bytes say where, one how many bytes go, the others come in their place.
  std::string changed = reader.whole;
  const std::size_t at = (data[1] * std::size_t{256} + data[2]) % changed.size();
  changed.replace(at, data[3] % 32, bytes.substr(4));
  run(reader, changed);
  return 0;
}
