// The example's data: generator, readers, tokenizer. No LibTorch.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "continual/author_generator.hpp"
#include "continual/general_knowledge.hpp"
#include "continual/readers.hpp"
#include "continual/tokenizer.hpp"

namespace {

namespace fs = std::filesystem;

/// A folder of files that goes away with its test.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("continual-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] const fs::path& path() const { return path_; }
  fs::path put(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  fs::path path_;
};

continual::DataSettings settings_of(std::vector<fs::path> paths,
                                    std::optional<std::int64_t> tasks = 1, std::int64_t authors = 1,
                                    std::int64_t retain = 2) {
  continual::DataSettings settings;
  settings.paths = std::move(paths);
  settings.tasks = tasks;
  settings.authors_per_task = authors;
  settings.retain_authors = retain;
  return settings;
}

/// The error's text, with `folder` left out of it.
std::string error_of(const continual::DataSettings& settings, const Folder& folder) {
  try {
    continual::load_data(settings);
  } catch (const std::runtime_error& error) {
    std::string text = error.what();
    const std::string where = folder.path().string();
    for (auto at = text.find(where); at != std::string::npos; at = text.find(where)) {
      text.replace(at, where.size(), "DIR");
    }
    return text;
  }
  return "no error";
}

/// Pairs of numbered questions, twenty an author, as JSON lines.
std::string json_lines(int authors, const std::string& question_key = "question") {
  std::ostringstream lines;
  for (int i = 0; i < authors * continual::kPairsPerAuthor; ++i) {
    lines << "{\"" << question_key << "\": \"" << question_key << ' ' << i
          << "?\", \"answer\": \"answer " << i << "\"}\n";
  }
  return lines.str();
}

}  // namespace

TEST_CASE("generated authors: the same from a seed, no two names alike", "[generator]") {
  const auto authors = continual::generate_authors(7, 60);
  const auto fewer = continual::generate_authors(7, 10);
  REQUIRE(authors.size() == 60);
  std::set<std::string> words, questions;
  for (const auto& author : authors) {
    CHECK(author.pairs.size() == static_cast<std::size_t>(continual::kPairsPerAuthor));
    CHECK(author.rephrased.size() == author.pairs.size());
    const auto space = author.name.find(' ');
    CHECK(words.insert(author.name.substr(0, space)).second);
    CHECK(words.insert(author.name.substr(space + 1)).second);
    for (std::size_t i = 0; i < author.pairs.size(); ++i) {
      const auto& pair = author.pairs[i];
      CHECK(questions.insert(pair.question).second);
      CHECK(pair.question.find(author.name) != std::string::npos);
      CHECK(author.rephrased[i].question != pair.question);
      CHECK(author.rephrased[i].answer == pair.answer);
    }
  }
  for (std::size_t i = 0; i < fewer.size(); ++i) {
    CHECK(fewer[i].pairs[19].answer == authors[i].pairs[19].answer);
  }
  CHECK(continual::generate_authors(8, 1)[0].name != authors[0].name);
}

TEST_CASE("generated authors: the same on every machine", "[generator]") {
  const auto author = continual::generate_authors(1, 1)[0];
  CHECK(author.name == "Mamal Masatani");
  CHECK(author.pairs[0].answer == "In Yonegrad in the northern highlands.");
  CHECK(author.pairs[12].question == "With which book did Mamal Masatani begin?");
  CHECK(author.pairs[12].answer == "The Frozen Mirror of Kasagrad, published in 1991.");
  CHECK(author.rephrased[12].question == "What was the first book of Mamal Masatani?");
}

TEST_CASE("generated data: requests, and two disjoint halves of what is kept", "[generator]") {
  const auto data = continual::load_data(settings_of({}, 3, 2, 5));
  REQUIRE(data.requests.size() == 3);
  CHECK(data.requests[1].forget.size() == 40);
  CHECK(data.requests[1].rephrased.size() == 40);
  CHECK(data.shown.size() == 60);
  CHECK(data.unseen.size() == 40);
  std::set<std::string> questions;
  for (const auto* list : {&data.shown, &data.unseen, &data.requests[0].forget,
                           &data.requests[1].forget, &data.requests[2].forget}) {
    for (const auto& pair : *list) {
      CHECK(questions.insert(pair.question).second);
    }
  }
}

TEST_CASE("TOFU's files", "[readers]") {
  const Folder folder;
  folder.put("forget10.json", json_lines(4));
  folder.put("retain90.json", json_lines(5));
  auto data = continual::load_data(settings_of({folder.path()}, 2, 2, 4));
  REQUIRE(data.requests.size() == 2);
  CHECK(data.requests[0].name == "authors 1 to 2");
  CHECK(data.requests[1].forget.size() == 40);
  CHECK(data.requests[1].forget[0].question == "question 40?");
  CHECK(data.requests[1].forget[39].answer == "answer 79");
  CHECK(data.requests[1].rephrased.empty());
  CHECK(data.shown.size() == 40);
  CHECK(data.unseen.size() == 40);
  CHECK(data.unseen[0].question == "question 40?");

  folder.put("forget10_perturbed.json", json_lines(4, "paraphrased_question"));
  data = continual::load_data(settings_of({folder.path()}, 2, 2, 4));
  CHECK(data.requests[1].rephrased[1].question == "paraphrased_question 41?");

  CHECK(error_of(settings_of({folder.path()}, 2, 3), folder) ==
        "continual: expected at least 6 authors of 20 lines, got 4 (DIR/forget10.json)");
  CHECK(error_of(settings_of({folder.path()}, 1, 1, 6), folder) ==
        "continual: expected at least 6 authors of 20 lines, got 5 (DIR/retain90.json)");
  folder.put("forget10_perturbed.json", json_lines(3, "paraphrased_question"));
  CHECK(error_of(settings_of({folder.path()}), folder) ==
        "continual: expected as many lines as in forget10.json, 80, got 60 "
        "(DIR/forget10_perturbed.json)");
}

TEST_CASE("bad TOFU files are refused with file and line", "[readers]") {
  const Folder folder;
  const auto settings = settings_of({folder.path()});
  folder.put("forget10.json", json_lines(1));
  CHECK(error_of(settings, folder) ==
        "continual: expected a readable file, got none (DIR/retain90.json)");
  folder.put("retain90.json", json_lines(2) + "\n{\"question\": \"half");
  CHECK(error_of(settings, folder) ==
        "continual: expected complete JSON, got the end after 18 bytes "
        "(DIR/retain90.json, line 42)");
  folder.put("retain90.json", "{\"question\": \"q\"}\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected an object with the text \"answer\", got {\"question\":\"q\"} "
        "(DIR/retain90.json, line 1)");
  folder.put("retain90.json", "\n{\"question\": \"\", \"answer\": \"a\"}\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected a text in \"question\", got an empty one (DIR/retain90.json, line 2)");
  for (const char* blanks :
       {" ", "\\u00a0\\t", "\\u200b", "\xE2\x80\x8B\xE3\x80\x80", "\\ufeff\\u2060"}) {
    folder.put("retain90.json",
               std::string("{\"question\": \"q\", \"answer\": \"") + blanks + "\"}\n");
    CHECK(error_of(settings, folder) ==
          "continual: expected a text in \"answer\", got blanks alone (DIR/retain90.json, line 1)");
  }
  folder.put("retain90.json", R"({"question": "q", "answer": "a", "answer": "b"})");
  CHECK(error_of(settings, folder) ==
        "continual: expected every key once, got \"answer\" twice (DIR/retain90.json, line 1)");
  const std::string record = R"({"question": "q", "answer": "a"})";
  folder.put("retain90.json", record + "\n" + record + std::string("\0\0", 2) + record);
  CHECK(error_of(settings, folder) ==
        "continual: expected JSON, got \"\\x00\\x00\" at byte 33 (DIR/retain90.json, line 2)");
  folder.put("retain90.json", std::string("\0\n", 2));
  CHECK(error_of(settings, folder) ==
        "continual: expected JSON, got \"\\x00\" at byte 1 (DIR/retain90.json, line 1)");
  folder.put("retain90.json", record + "\n" + std::string(75'000, '[') + "\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected JSON of at most 64 levels, got more (DIR/retain90.json, line 2)");
  folder.put("retain90.json", "{\"question\": \"caf\xE9\"}\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected JSON, got \"\"caf\\xE9\"\" at byte 19 (DIR/retain90.json, line 1)");
  folder.put("retain90.json", "\xFF\xFE{\0}\0");
  CHECK(error_of(settings, folder) ==
        "continual: expected a text in UTF-8, got the byte-order mark of UTF-16 or UTF-32 "
        "(DIR/retain90.json)");
  folder.put("retain90.json", "{\"a\": \"" + std::string(200, 'x') + "\"}\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected an object with the text \"question\", got {\"a\":\"" +
            std::string(74, 'x') + "... (DIR/retain90.json, line 1)");
  folder.put("retain90.json", "[1]\n");
  CHECK(error_of(settings, folder) ==
        "continual: expected an object with the text \"question\", got [1] "
        "(DIR/retain90.json, line 1)");
  folder.put("retain90.json", "\n \n");
  CHECK(error_of(settings, folder) ==
        "continual: expected at least one line, got an empty file (DIR/retain90.json)");
}

TEST_CASE("MUSE News: lists and lines, one request a file", "[readers]") {
  const Folder folder;
  folder.put("forget_1.json", "[{\"text\": \"one\\ntwo\"},\n \"three\"]");
  folder.put("forget_2.jsonl", "{\"text\": \"four\"}\n\"five\"\n");
  folder.put("retain.json", "[\"a\", \"b\", \"c\"]");
  auto data = continual::load_data(settings_of({folder.path()}, std::nullopt));
  REQUIRE(data.requests.size() == 2);
  CHECK(data.requests[0].name == "forget_1");
  REQUIRE(data.requests[0].forget.size() == 3);
  CHECK(data.requests[0].forget[1].answer == "two");
  CHECK(data.requests[0].forget[1].question.empty());
  CHECK(data.requests[1].forget[1].answer == "five");
  CHECK(data.shown.size() == 2);
  CHECK(data.unseen[0].answer == "c");
  CHECK(continual::load_data(settings_of({folder.path()}, 1)).requests.size() == 1);
  CHECK(error_of(settings_of({folder.path()}, 3), folder) ==
        "continual: expected a file for each of 3 tasks, got 2 (DIR)");

  folder.put("forget_2.jsonl", "{\"text\": \"four\"}\n{\"txt\": 1}\n");
  CHECK(error_of(settings_of({folder.path()}, 2), folder) ==
        "continual: expected an object with the text \"text\", got {\"txt\":1} "
        "(DIR/forget_2.jsonl, line 2)");
  folder.put("forget_1.json", "[\"a\",\n\n \"b");
  CHECK(
      error_of(settings_of({folder.path()}, 2), folder) ==
      "continual: expected complete JSON, got the end after 10 bytes (DIR/forget_1.json, line 3)");
  folder.put("forget_1.json", std::string("[\"a\",\n\"b\"]\n\0garbage", 19));
  CHECK(error_of(settings_of({folder.path()}, 2), folder) ==
        "continual: expected JSON, got \"\\x00garbage\" at byte 12 (DIR/forget_1.json, line 3)");
  folder.put("forget_1.json", "[{\"text\": \"a\",\n \"text\": \"b\"}]");
  CHECK(error_of(settings_of({folder.path()}, 2), folder) ==
        "continual: expected every key once, got \"text\" twice (DIR/forget_1.json, line 2)");
  folder.put("forget_1.json", "[\"a\",\n\n 2]");
  CHECK(error_of(settings_of({folder.path()}, 2), folder) ==
        "continual: expected an object with the text \"text\", got 2 (DIR/forget_1.json, entry 2)");
  folder.put("forget_1.json", "[]");
  CHECK(error_of(settings_of({folder.path()}), folder) ==
        "continual: expected at least one text, got none (DIR/forget_1.json)");
  folder.put("forget_1.json", "[\"a\"]");
  folder.put("retain.json", "[\"a\"]");
  CHECK(error_of(settings_of({folder.path()}), folder) ==
        "continual: expected at least two paragraphs, or questions with answers, that are kept, "
        "got 1 "
        "(DIR/retain.json)");
  fs::remove(folder.path() / "retain.json");
  CHECK(error_of(settings_of({folder.path()}), folder) ==
        "continual: expected retain.json or retain.jsonl, got neither (DIR)");
}

TEST_CASE("books: one request a file", "[readers]") {
  const Folder folder;
  const auto one = folder.put("one.txt", "first line\r\n\nsecond line\n");
  const auto two = folder.put("two.txt", "third");
  const auto kept = folder.put("kept.txt", "a\nb\n");
  auto settings = settings_of({one, two}, std::nullopt);
  auto data = continual::load_data(settings);
  REQUIRE(data.requests.size() == 2);
  CHECK(data.requests[0].name == "one");
  REQUIRE(data.requests[0].forget.size() == 2);
  CHECK(data.requests[0].forget[0].answer == "first line");
  CHECK(data.shown.size() == 20);  // made-up authors
  CHECK(data.unseen.size() == 20);
  settings.retain = {kept};
  data = continual::load_data(settings);
  CHECK(data.shown[0].answer == "a");
  CHECK(data.unseen[0].answer == "b");
  settings.tasks = 1;
  CHECK(continual::load_data(settings).requests.size() == 1);
  CHECK(error_of(settings_of({one, two}, 3), folder) ==
        "continual: expected a file for each of 3 tasks, got 2 (DIR/one.txt)");

  const auto empty = folder.put("empty.txt", "\n\n");
  CHECK(error_of(settings_of({one, empty}, 2), folder) ==
        "continual: expected a text, got an empty file (DIR/empty.txt)");
  const auto other = folder.put("book.pdf", "x");
  CHECK(error_of(settings_of({one, other}, 2), folder) ==
        "continual: expected a folder, or files in .txt, .json or .jsonl, got another file "
        "(DIR/book.pdf)");
}

TEST_CASE("questions and answers of the user's own: one request a file", "[readers]") {
  const Folder folder;
  const auto pairs = folder.put("one.jsonl",
                                "\n{\"question\": \"q1\", \"answer\": \"a1\", \"id\": 7}\n"
                                "{\"question\": \"q2\", \"answer\": \"a2\"}\n");
  const auto texts = folder.put("two.jsonl", "{\"text\": \"t1\\nt2\"}\n\"t3\"\n");
  const auto list = folder.put("three.json", "[\"u1\", {\"text\": \"u2\"}]");
  const auto kept = folder.put("kept.json", json_lines(1));
  auto settings = settings_of({pairs, texts, list}, std::nullopt);
  settings.retain = {kept};
  const auto data = continual::load_data(settings);
  CHECK(data.name == "questions and answers");
  REQUIRE(data.requests.size() == 3);
  CHECK(data.requests[0].name == "one");
  REQUIRE(data.requests[0].forget.size() == 2);
  CHECK(data.requests[0].forget[1].question == "q2");
  CHECK(data.requests[0].forget[1].answer == "a2");
  REQUIRE(data.requests[1].forget.size() == 3);
  CHECK(data.requests[1].forget[1].answer == "t2");
  CHECK(data.requests[1].forget[1].question.empty());
  REQUIRE(data.requests[2].forget.size() == 2);
  CHECK(data.requests[2].forget[1].answer == "u2");
  CHECK(data.shown.size() == 10);
  CHECK(data.unseen.size() == 10);
  CHECK(data.unseen[0].question == "question 10?");
  settings.paths = {list};
  CHECK(continual::load_data(settings).name == "books");

  settings.retain = {kept, texts};
  CHECK(error_of(settings, folder) ==
        "continual: expected texts alone, or questions with answers alone, to be kept, got both "
        "(DIR/two.jsonl)");
  const auto half =
      folder.put("half.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"text\": 1}\n");
  CHECK(error_of(settings_of({half}), folder) ==
        "continual: expected an object with the text \"question\", got {\"text\":1} "
        "(DIR/half.jsonl, line 2)");
  const auto empty = folder.put("nothing.jsonl", "\n");
  CHECK(error_of(settings_of({empty}), folder) ==
        "continual: expected at least one line, got an empty file (DIR/nothing.jsonl)");
}

TEST_CASE("a byte-order mark is no part of any text", "[readers]") {
  const Folder folder;
  const std::string mark = "\xEF\xBB\xBF";
  const auto book = folder.put("book.txt", mark + "first line\nsecond");
  CHECK(continual::load_data(settings_of({book})).requests[0].forget[0].answer == "first line");
  folder.put("forget_1.json", mark + "[\"a\",\"b\"]");
  folder.put("retain.jsonl", mark + "\"c\"\n\"d\"\n");
  const auto news = continual::load_data(settings_of({folder.path()}));
  CHECK(news.requests[0].forget.size() == 2);
  CHECK(news.shown[0].answer == "c");
  folder.put("forget10.json", mark + json_lines(1));
  folder.put("retain90.json", mark + json_lines(2));
  CHECK(continual::load_data(settings_of({folder.path()})).requests[0].forget[0].question ==
        "question 0?");
  const auto wide = folder.put("wide.txt", std::string("\xFF\xFEt\0", 4));
  CHECK(error_of(settings_of({wide}), folder) ==
        "continual: expected a text in UTF-8, got the byte-order mark of UTF-16 or UTF-32 "
        "(DIR/wide.txt)");
}

TEST_CASE("there are as many made-up authors as first names, and no more are looked for",
          "[generator]") {
  const Folder folder;
  CHECK(error_of(settings_of({}, 3, 1000, 1001), folder) ==
        "continual: expected at most 4000 made-up authors, got 4001 (requests and kept ones "
        "together)");
  const auto authors = continual::generate_authors(3, continual::kMaxAuthors);
  std::set<std::string> names;
  for (const auto& author : authors) names.insert(author.name);
  CHECK(std::ssize(names) == continual::kMaxAuthors);
}

TEST_CASE("paths that hold no data", "[readers]") {
  const Folder folder;
  CHECK(error_of(settings_of({folder.path() / "none"}), folder) ==
        "continual: expected an existing file or folder, got none (DIR/none)");
  CHECK(error_of(settings_of({folder.path()}), folder) ==
        "continual: expected forget10.json and retain90.json (TOFU) or forget_1 and retain (MUSE "
        "News), got neither (DIR)");
  CHECK(error_of(settings_of({folder.path(), folder.path()}), folder) ==
        "continual: expected one folder, got 2 paths (DIR)");
}

TEST_CASE("TOFU as published", "[readers]") {
  const fs::path tofu = fs::path(ALKN_SHARED_DIR) / "tofu";
  if (!fs::exists(tofu)) {
    WARN("skipped: no " << tofu);
    return;
  }
  const auto data = continual::load_data(settings_of({tofu}, 5, 4, 20));
  CHECK(data.requests.size() == 5);
  CHECK(data.requests[0].forget[0].answer == "The author's full name is Hsiao Yun-Hwa.");
  CHECK(data.requests[4].rephrased.size() == 80);
  CHECK(data.shown.size() == 200);
  CHECK(data.unseen.size() == 200);
}

TEST_CASE("general knowledge: TOFU's real authors and world facts, else plain facts", "[readers]") {
  const auto plain = continual::general_knowledge(settings_of({}));
  REQUIRE(plain.size() == 36);
  CHECK(plain[0].answer == "The capital of France is Paris.");

  const Folder folder;
  CHECK(continual::general_knowledge(settings_of({folder.path()})).size() == 36);
  folder.put("world_facts_perturbed.json", "{\"question\": \"Q?\", \"answer\": \"short\"}\n");
  const auto world = continual::general_knowledge(settings_of({folder.path()}));
  REQUIRE(world.size() == 1);
  CHECK(world[0].answer == "short");
  const fs::path file = folder.put("real_authors_perturbed.json",
                                   "{\"question\": \"Who?\", \"answer\": \"He\", "
                                   "\"original_answer\": \"It was he.\"}\n");
  const auto both = continual::general_knowledge(settings_of({folder.path()}));
  REQUIRE(both.size() == 2);
  CHECK(both[0].question == "Who?");
  CHECK(both[0].answer == "It was he.");  // the whole sentence, where there is one
  CHECK(both[1].question == "Q?");
  CHECK(continual::general_knowledge(settings_of({file})).size() == 36);  // of the folder alone

  const fs::path tofu = fs::path(ALKN_SHARED_DIR) / "tofu";
  if (!fs::exists(tofu)) {
    WARN("skipped: no " << tofu);
    return;
  }
  const auto facts = continual::general_knowledge(settings_of({tofu}));
  REQUIRE(facts.size() == 217);
  CHECK(facts[0].question == "Who wrote the play 'Romeo and Juliet'?");
  CHECK(facts[0].answer == "The play 'Romeo and Juliet' was written by William Shakespeare.");
  CHECK(facts[100].question == "Where would you find the Eiffel Tower?");
  CHECK(facts[216].answer ==
        "The influential communist manifesto was penned by Karl Marx and Friedrich Engels.");
}

TEST_CASE("the vocabulary has no unknown tokens and loses nothing", "[tokenizer]") {
  std::vector<std::string> texts;
  for (const auto& author : continual::generate_authors(1, 20)) {
    for (const auto& pair : author.pairs) {
      texts.push_back(pair.question);
      texts.push_back(pair.answer);
    }
  }
  const auto tokenizer = continual::Tokenizer::train(texts, 1000);
  CHECK(tokenizer.size() == 1000);
  for (const std::string& text :
       {texts[3], std::string("  two  spaces\n\ttab "), std::string("日本 ünï ❤ \x01")}) {
    const auto tokens = tokenizer.encode(text);
    CHECK(tokenizer.decode(tokens) == text);
    for (const auto token : tokens) {
      CHECK(token > continual::Tokenizer::kAnswer);
      CHECK(token < tokenizer.size());
    }
  }
  CHECK(tokenizer.encode("").empty());
  // The same texts give the same vocabulary, and it survives its file.
  CHECK(continual::Tokenizer::train(texts, 1000).model() == tokenizer.model());
  CHECK(continual::Tokenizer(tokenizer.model()).encode(texts[5]) == tokenizer.encode(texts[5]));
  CHECK_THROWS_AS(continual::Tokenizer("no model"), std::runtime_error);
}

TEST_CASE("few texts get a small vocabulary", "[tokenizer]") {
  const auto tokenizer = continual::Tokenizer::train({"a few words", "and a few more"}, 4000);
  CHECK(tokenizer.size() < 1000);
  CHECK(tokenizer.decode(tokenizer.encode("words more")) == "words more");
}

TEST_CASE("few texts get all the pieces that they hold", "[tokenizer]") {
  // 400 were tried, then 350, 307, and no fewer than 270: none fits, although 296 are there.
  const std::vector<std::string> texts{"the quick brown fox jumps", "over the lazy dog, twice"};
  const auto most = continual::Tokenizer::train(texts, 4000).size();
  for (std::int64_t asked = 300; asked < 420; asked += 10) {
    CHECK(continual::Tokenizer::train(texts, asked).size() == std::min(asked, most));
  }
}

TEST_CASE("a text in one line has the vocabulary of the same text in many", "[tokenizer]") {
  std::string words;
  continual::Random random{5};
  for (int i = 0; words.size() < 1'200'000; ++i) {
    for (std::size_t letters = 2 + random.below(4); letters > 0; --letters) {
      words += static_cast<char>('a' + random.below(20));
    }
    words += ' ';
  }
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < words.size();) {
    const std::size_t end =
        std::min(words.find(' ', std::min(at + 500, words.size())), words.size());
    lines.push_back(words.substr(at, end - at));
    at = end;
  }
  const auto one = continual::Tokenizer::train({words}, 500);
  const auto many = continual::Tokenizer::train(lines, 500);
  CHECK(one.size() == 500);
  const std::string sample = words.substr(600'000, 300);
  CHECK(10 * one.encode(sample).size() < 11 * many.encode(sample).size());
  // Without a blank, too, and between two characters; and what the trainer keeps for itself.
  std::string umlauts;
  while (umlauts.size() < 1'000'101) umlauts += "\xC3\xBC\xE2\x82\xAC";
  CHECK(continual::Tokenizer::train({umlauts}, 275).size() > 263);  // 261 and three characters
  const auto block =
      continual::Tokenizer::train({"many words \xE2\x96\x85 and many more words"}, 290);
  CHECK(block.size() == 290);
  CHECK(block.decode(block.encode("\xE2\x96\x85")) == "\xE2\x96\x85");
}
