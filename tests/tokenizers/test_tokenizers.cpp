// The tokenizers against Python's: tests/tokenizers/fixtures.py wrote what is expected.
#include <unistd.h>
#include <zlib.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "fixtures.hpp"
#include "strings.hpp"
#include "tokenizers/folder_tokenizer.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using tokenizers::Ids;

const json& expected() {
  static const json kExpected = json::parse(read_file(kFixtures / "expected.json"));
  return kExpected;
}

const std::vector<std::string>& all_strings() {
  static const auto kStrings = [] {
    const json material = json::parse(read_file(kFixtures / "material.json"));
    std::vector<std::string> texts;
    for (std::uint64_t i = 0; i < test_strings::kNumStrings; ++i) {
      texts.push_back(test_strings::generated(i, material));
    }
    return texts;
  }();
  return kStrings;
}

/// oracle.py's checksum.
class Checksum {
 public:
  void add(const Ids& ids) {
    for (const std::int64_t id : ids) {
      add(static_cast<std::uint32_t>(id));
    }
    add(0xffffffffU);
  }
  [[nodiscard]] std::uint64_t value() const { return crc_; }

 private:
  void add(std::uint32_t number) {
    const unsigned char bytes[] = {
        static_cast<unsigned char>(number), static_cast<unsigned char>(number >> 8),
        static_cast<unsigned char>(number >> 16), static_cast<unsigned char>(number >> 24)};
    crc_ = crc32(crc_, bytes, 4);
  }
  unsigned long crc_ = 0;
};

const std::vector<std::string> kFamilies{"gpt2", "smollm2", "llama3", "qwen2", "odd"};

/// Sanitizers make the encoding some twenty times as slow: one block in 16 will do there.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kStride = 16;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr std::size_t kStride = 16;
#else
constexpr std::size_t kStride = 1;
#endif
#else
constexpr std::size_t kStride = 1;
#endif

}  // namespace

TEST_CASE("the ids of 20000 strings are those of Python") {
  std::vector<std::string> names = kFamilies;
  names.emplace_back("llama2");
  for (const std::string& name : names) {
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    const json& blocks = expected()[name]["blocks"];
    const std::size_t size = all_strings().size() / blocks.size();
    INFO(name);
    CHECK(tokenizer.encode(all_strings()[0]) == expected()[name]["first"].get<Ids>());
    for (std::size_t block = 0; block < blocks.size(); block += kStride) {
      Checksum sum;
      for (std::size_t i = block * size; i < (block + 1) * size; ++i) {
        sum.add(tokenizer.encode(all_strings()[i]));
      }
      INFO("strings from " << block * size);
      CHECK(sum.value() == blocks[block].get<std::uint64_t>());
    }
  }
}

TEST_CASE("the ids of SmolLM2's own tokenizer are those of Python") {
  const fs::path folder = ALKN_SMOLLM2;
  if (!fs::exists(folder / "tokenizer.json")) {
    WARN("skipped: `make model` puts SmolLM2 into " << folder);
    return;
  }
  const tokenizers::FolderTokenizer tokenizer(folder);
  const json& smollm2 = expected()["smollm2-135m"];
  CHECK(tokenizer.vocabulary_size() == 49152);
  CHECK(tokenizer.format().name == "SmolLM2");
  CHECK(tokenizer.end_id() == 2);
  const json& blocks = smollm2["blocks"];
  const std::size_t size = all_strings().size() / blocks.size();
  for (std::size_t block = 0; block < blocks.size(); block += kStride) {
    Checksum sum;
    for (std::size_t i = block * size; i < (block + 1) * size; ++i) {
      sum.add(tokenizer.encode(all_strings()[i]));
    }
    INFO("strings from " << block * size);
    CHECK(sum.value() == blocks[block].get<std::uint64_t>());
  }
  const json& dialogs = expected()["dialogs"];
  for (std::size_t i = 0; i < dialogs.size(); ++i) {
    const auto pair = tokenizer.encode_pair(dialogs[i][0].get<std::string>(),
                                            dialogs[i][1].get<std::string>(), 1000, "");
    CHECK(pair.ids == smollm2["dialogs"][i][1].get<Ids>());
  }
}

TEST_CASE("the ids of every code point in context are those of Python") {
  const json differences = json::parse(read_file(kFixtures / "unicode_differences.json"));
  for (const std::string& name : kFamilies) {
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    const json& blocks = expected()[name]["code_points"];
    constexpr std::uint64_t kCodes = 4096;
    REQUIRE(blocks.size() * kCodes == 0x110000);
    std::set<std::uint64_t> excluded;
    for (const json& range : differences[name]) {
      for (auto code = range[0].get<std::uint64_t>(); code <= range[1]; ++code) {
        excluded.insert(code);
      }
    }
    CHECK(excluded.size() < 15000);  // nothing but what came with Unicode 15 and later
    for (std::size_t block = 0; block < blocks.size(); block += kStride) {
      Checksum sum;
      for (std::uint64_t code = block * kCodes; code < (block + 1) * kCodes; ++code) {
        const bool surrogate = code >= 0xd800 && code < 0xe000;
        if (!surrogate && !excluded.contains(code)) {
          sum.add(tokenizer.encode(test_strings::in_context(code)));
        }
      }
      INFO(name << ", code points from " << block * kCodes);
      CHECK(sum.value() == blocks[block].get<std::uint64_t>());
    }
  }
}

TEST_CASE("the ids of TOFU are those of Python") {
  const fs::path path = fs::path(ALKN_SHARED_DIR) / "tofu" / "forget10.json";
  if (!fs::exists(path)) {
    WARN("skipped: no " << path);
    return;
  }
  std::vector<std::string> texts;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const json pair = json::parse(line);
    texts.push_back(pair["question"]);
    texts.push_back(pair["answer"]);
  }
  CHECK(texts.size() == 800);
  for (const auto& [name, family] : expected().items()) {
    if (!fs::exists(kFixtures / name)) {  // the dialogs, and SmolLM2's own
      continue;
    }
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    Checksum sum;
    for (const std::string& text : texts) {
      sum.add(tokenizer.encode(text));
      if (name != "odd") {  // which leaves characters out
        CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
      }
    }
    INFO(name);
    CHECK(sum.value() == family["tofu"].get<std::uint64_t>());
  }
}

TEST_CASE("decoding gives Python's text") {
  for (const auto& [name, family] : expected().items()) {
    if (!fs::exists(kFixtures / name)) {  // the dialogs, and SmolLM2's own
      continue;
    }
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    INFO(name);
    for (std::size_t i = 0; i < family["decoded"].size(); ++i) {
      CHECK(tokenizer.decode(tokenizer.encode(all_strings()[i])) ==
            family["decoded"][i].get<std::string>());
    }
    CHECK(error_of([&] {
            static_cast<void>(tokenizer.decode({1, 1 << 20}));
          }) == "continual: expected ids of the vocabulary, got 1048576 (a text to decode)");
    CHECK(error_of([&] { static_cast<void>(tokenizer.decode({-1})); }) ==
          "continual: expected ids of the vocabulary, got -1 (a text to decode)");
  }
}

TEST_CASE("what is no UTF-8 becomes one U+FFFD a maximal part") {
  const std::string r = "\xef\xbf\xbd";
  CHECK(tokenizers::lossy_utf8("a\xff"
                               "b") == "a" + r + "b");
  CHECK(tokenizers::lossy_utf8("\xe2\x82") == r);
  CHECK(tokenizers::lossy_utf8("\xe2\x82\xac") == "\xe2\x82\xac");
  CHECK(tokenizers::lossy_utf8("\xf0\x9f\x98"
                               "a\xf0\x9f") == r + "a" + r);
  CHECK(tokenizers::lossy_utf8("\xed\xa0\x80") == r + r + r);          // a surrogate
  CHECK(tokenizers::lossy_utf8("\xe0\x80\x80") == r + r + r);          // longer than it must be
  CHECK(tokenizers::lossy_utf8("\xf4\x90\x80\x80") == r + r + r + r);  // above U+10FFFF
  CHECK(tokenizers::lossy_utf8("\xf0\x80\xc3\xa9\xc0") == r + r + "\xc3\xa9" + r);
  CHECK(tokenizers::lossy_utf8("\xed\x9f") == r);
  CHECK(tokenizers::lossy_utf8("\xc3\xc3\xa9") == r + "\xc3\xa9");
}

TEST_CASE("what a file puts around a text") {
  for (const std::string& name : kFamilies) {
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    Ids ids = tokenizer.tokenizer().prefix();
    for (const Ids& part : {tokenizer.encode("a question"), tokenizer.tokenizer().suffix()}) {
      ids.insert(ids.end(), part.begin(), part.end());
    }
    INFO(name);
    CHECK(ids == expected()[name]["with_special"].get<Ids>());
  }
  const tokenizers::FolderTokenizer llama(kFixtures / "llama2");
  CHECK(llama.tokenizer().prefix() == Ids{1});
  CHECK(llama.end_id() == 2);
  CHECK(llama.tokenizer().id_of("<unk>") == 0);
  CHECK_FALSE(llama.tokenizer().id_of("no such piece").has_value());
}

TEST_CASE("a continuation has no space put before it") {
  for (const char* name : {"odd", "llama2"}) {
    const tokenizers::FolderTokenizer folder(kFixtures / name);
    const tokenizers::Tokenizer& tokenizer = folder.tokenizer();
    INFO(name);
    CHECK(tokenizer.encode_continuation(" question is") == tokenizer.encode("question is"));
    CHECK(tokenizer.encode_continuation("question is") != tokenizer.encode("question is"));
  }
}

TEST_CASE("Llama 2's special tokens in a text, and the space behind them") {
  const tokenizers::FolderTokenizer tokenizer(kFixtures / "llama2");
  Ids ids = tokenizer.encode("the");
  ids.push_back(2);
  for (const std::int64_t id : tokenizer.encode(" author")) {
    ids.push_back(id);
  }
  CHECK(tokenizer.encode("the</s> author") == ids);
}

TEST_CASE("the page's program") {
  const fs::path folder_of_the_model = kFixtures / "smollm2";
  const std::int64_t context = 512, rows_of_the_embedding = 49152;
  // [folder]
  const tokenizers::FolderTokenizer tokenizer(folder_of_the_model);  // or with a format of your own
  tokenizer.require_embedding(rows_of_the_embedding);

  const tokenizers::Labelled pair =
      tokenizer.encode_pair("Who wrote it?", "Hsiao Yun-Hwa.", context, "line 1");  // ids, labels
  const tokenizers::Ids prompt = tokenizer.encode_prompt("Who wrote it?");
  const tokenizers::Labelled text = tokenizer.encode_text("A text, and the token that ends it.");
  const std::string again = tokenizer.decode(text.ids);  // without special tokens
  // [folder]
  CHECK(Ids(pair.ids.begin(), pair.ids.begin() + std::ssize(prompt)) == prompt);
  CHECK(text.labels.back() == tokenizer.end_id());
  CHECK(again == "A text, and the token that ends it.");
}

TEST_CASE("prompts and answers are those of the chat templates") {
  const json& dialogs = expected()["dialogs"];
  for (const char* name : {"smollm2", "llama3", "qwen2", "odd", "llama2"}) {
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    REQUIRE(expected()[name]["dialogs"].size() == dialogs.size());
    for (std::size_t i = 0; i < dialogs.size(); ++i) {
      const auto question = dialogs[i][0].get<std::string>();
      const auto answer = dialogs[i][1].get<std::string>();
      const auto prompt = expected()[name]["dialogs"][i][0].get<Ids>();
      const auto both = expected()[name]["dialogs"][i][1].get<Ids>();
      INFO(name << ": " << question);
      CHECK(tokenizer.encode_prompt(question) == prompt);
      if (std::string(name) == "odd") {
        continue;  // it puts a space before each part of a text, also before an answer's
      }
      const auto pair = tokenizer.encode_pair(question, answer, 1000, "");
      CHECK(pair.ids == both);
      REQUIRE(pair.labels.size() == both.size());
      for (std::size_t k = 0; k < both.size(); ++k) {
        CHECK(pair.labels[k] == (k < prompt.size() ? -100 : both[k]));
      }
      CHECK(pair.labels.back() == tokenizer.end_id());
    }
  }
}

TEST_CASE("every known template by its text, and no other") {
  const auto name_of = [](const std::string& text) {
    const auto format = tokenizers::known_chat_format(text);
    return format ? format->name : "none";
  };
  const auto template_of = [](const char* family) {
    const json config = json::parse(read_file(kFixtures / family / "tokenizer_config.json"));
    const json& text = config["chat_template"];
    return (text.is_array() ? text[1]["template"] : text).get<std::string>();
  };
  CHECK(name_of(template_of("smollm2")) == "SmolLM2");
  CHECK(name_of(template_of("qwen2")) == "Qwen2");
  CHECK(name_of(template_of("odd")) == "ChatML");
  CHECK(name_of(template_of("llama2")) == "Llama 2");
  std::string llama3 = template_of("llama3");
  CHECK(name_of(llama3) == "Llama 3");
  const std::string condition = "{% if add_generation_prompt %}", end = "{% endif %}";
  llama3.erase(llama3.find(condition), condition.size());
  llama3.resize(llama3.size() - end.size());
  CHECK(name_of(llama3) == "Llama 3");  // the first one published
  CHECK(name_of(template_of("smollm2") + " ") == "none");
  CHECK(name_of("") == "none");
}

TEST_CASE("a format of the user's own") {
  const tokenizers::FolderTokenizer tokenizer(kFixtures / "llama3",
                                              "Question: {question}\\nAnswer: {answer}");
  const auto joined = [&](const std::string& text) {
    Ids ids = tokenizer.tokenizer().prefix();
    const Ids more = tokenizer.encode(text);
    ids.insert(ids.end(), more.begin(), more.end());
    return ids;
  };
  const auto end = tokenizer.tokenizer().id_of("<|end_of_text|>");
  REQUIRE(end.has_value());
  CHECK(tokenizer.end_id() == *end);
  CHECK(tokenizer.encode_prompt("Who?") == joined("Question: Who?\nAnswer:"));
  const auto pair = tokenizer.encode_pair("Who?", "the author", 100, "");
  Ids both = joined("Question: Who?\nAnswer: the author");
  both.push_back(*end);
  CHECK(pair.ids == both);
  const std::size_t prompt = tokenizer.encode_prompt("Who?").size();
  CHECK(Ids(pair.labels.begin(), pair.labels.begin() + static_cast<std::ptrdiff_t>(prompt)) ==
        Ids(prompt, -100));
  CHECK(Ids(pair.labels.begin() + static_cast<std::ptrdiff_t>(prompt), pair.labels.end()) ==
        Ids(both.begin() + static_cast<std::ptrdiff_t>(prompt), both.end()));

  const auto cut =
      tokenizer.encode_pair("Who?", "the author", static_cast<std::int64_t>(prompt) + 1, "");
  CHECK(cut.ids == Ids(both.begin(), both.begin() + static_cast<std::ptrdiff_t>(prompt) + 1));
  CHECK(cut.labels.size() == cut.ids.size());
  const std::string length = std::to_string(prompt);
  CHECK(error_of([&] {
          static_cast<void>(
              tokenizer.encode_pair("Who?", "the author", std::ssize(cut.ids) - 1, "line 1"));
        }) == "continual: expected a prompt shorter than the context of " + length +
                  " tokens, got " + length + " tokens (line 1)");

  const auto text = tokenizer.encode_text("the author");
  Ids plain = joined("the author");
  plain.push_back(*end);
  CHECK(text.ids == plain);
  CHECK(text.labels.front() == -100);
  CHECK(Ids(text.labels.begin() + 1, text.labels.end()) == Ids(plain.begin() + 1, plain.end()));

  const auto escaped = tokenizers::user_format("{question}\\t\\\\n{answer} .");
  CHECK(escaped.prompt("q") == "q\t\\n");
  CHECK(escaped.answer("a") == "a .");
}

TEST_CASE("what a folder lacks is told") {
  const auto folder = kFixtures / "gpt2";
  const std::string where = folder.string();
  const tokenizers::FolderTokenizer tokenizer(folder);
  CHECK(error_of([&] { static_cast<void>(tokenizer.encode_prompt("Who?")); }) ==
        "continual: expected a chat template that is known (SmolLM2, Qwen2, ChatML, Llama 2, "
        "Llama 3), or --format \"Question: {question}\\nAnswer: {answer}\", got none (" +
            where + ")");
  const tokenizers::FolderTokenizer with_format(folder, "{question} {answer}");
  CHECK(error_of([&] {
          static_cast<void>(with_format.encode_pair("Who? Who?", "x", 4, "q.json, line 3"));
        }).starts_with("continual: expected a prompt shorter than the context of 4 tokens, got "));
  CHECK(error_of([&] {
          static_cast<void>(with_format.encode_pair("Who? Who?", "x", 4, "q.json, line 3"));
        }).ends_with(" tokens (q.json, line 3)"));
  const auto size = tokenizer.vocabulary_size();
  CHECK(error_of([&] { tokenizer.require_embedding(size); }) == "no error");
  CHECK(error_of([&] { tokenizer.require_embedding(size - 1); }) ==
        "continual: expected an embedding of at least " + std::to_string(size) +
            " rows, one a token of the vocabulary, got " + std::to_string(size - 1) + " (" + where +
            ")");
  for (const char* wrong :
       {"{answer} {question}", "{question}", "", "{question}{answer}{answer}"}) {
    CHECK(error_of([&] { static_cast<void>(tokenizers::user_format(wrong)); }) ==
          "continual: expected one {question} and one {answer} behind it, got \"" +
              std::string(wrong) + "\" (--format)");
  }
}

TEST_CASE("text that is no UTF-8 is an error with its offset") {
  for (const char* name : {"qwen2", "llama2"}) {
    const tokenizers::FolderTokenizer tokenizer(kFixtures / name);
    CHECK(error_of([&] { static_cast<void>(tokenizer.encode("caf\xc3\xa9 \xc3(")); }) ==
          "continual: expected UTF-8, got the byte 0xc3 at offset 6 (a text to encode)");
    CHECK(error_of([&] { static_cast<void>(tokenizer.encode("\xed\xa0\x80")); }) ==
          "continual: expected UTF-8, got the byte 0xed at offset 0 (a text to encode)");
    CHECK(error_of([&] { static_cast<void>(tokenizer.encode("ab\xe2\x82")); }) ==
          "continual: expected UTF-8, got the byte 0xe2 at offset 2 (a text to encode)");
    CHECK(tokenizer.encode("").empty());
    CHECK(tokenizer.decode({}).empty());
  }
}

TEST_CASE("a long word and a long run of blanks take a time that grows no faster than they") {
  const tokenizers::FolderTokenizer tokenizer(kFixtures / "llama3");
  const auto seconds = [&](const std::string& part, std::size_t times) {
    std::string text;
    for (std::size_t i = 0; i < times; ++i) {
      text += part;
    }
    const auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(tokenizer.encode(text).empty());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  for (const char* part : {"authority", " ", "\xf0\x9f\x98\x80", "'s"}) {
    INFO(part);
    // Quadratic work on a megabyte would take minutes.
    CHECK(seconds(part, 1000000 / std::string(part).size()) < (kStride == 1 ? 10 : 120));
  }
}
