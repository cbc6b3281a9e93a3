// The trainer's files: what it must not take for its own, lose, or go on with.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <regex>
#include <string>
#include <thread>
#include <utility>

#include "catch.hpp"
#include "trainer.hpp"

using trainer::folder, trainer::interrupt, trainer::Json, trainer::lines_of, trainer::Result,
    trainer::run, trainer::smallest, trainer::text_of;
namespace fs = std::filesystem;

namespace {

void put(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// TOFU's form: questions on two authors to be forgotten and two kept, numbered.
fs::path tofu(const std::string& name) {
  const fs::path data = folder() / name;
  fs::create_directories(data);
  for (const auto& [file, first] :
       {std::pair{"forget10.json", 0}, std::pair{"retain90.json", 40}}) {
    std::string text;
    for (int i = first; i < first + 40; ++i) {
      text += Json{{"question", "What is " + std::to_string(i) + "?"},
                   {"answer", "It is number " + std::to_string(i * 37 % 101) + "."}}
                  .dump() +
              "\n";
    }
    put(data / file, text);
  }
  return data;
}

std::string on(const fs::path& data, const std::string& out, const std::string& more) {
  return "--data '" + data.string() +
         "' --tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 1 --epochs 1 "
         "--threads 1 --method task-vector --out '" +
         (folder() / out).string() + "' " + more;
}

/// The line with which a run fails.
std::string error_of(const std::string& arguments) {
  const Result result = run(arguments);
  CHECK(result.status == 1);
  const auto at = std::min(result.output.find("continual: "), result.output.find("alkn::"));
  INFO(result.output);
  REQUIRE(at != std::string::npos);
  return result.output.substr(at, result.output.find('\n', at) - at + 1);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}

}  // namespace

TEST_CASE("a question that leaves no room for its answer is refused with file and line", "[cli]") {
  const fs::path data = tofu("long");
  std::string question;
  std::uint64_t random = 1;
  for (int i = 0; i < 900; ++i) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    question += static_cast<char>('a' + (random >> 40U) % 26);
  }
  const fs::path file = data / "forget10.json";
  put(file, replaced(text_of(file), "What is 3?", question + "?"));
  const std::string error = error_of(on(data, "long-out", "--vocabulary 320"));
  CHECK(std::regex_replace(error, std::regex("got \\d+"), "got N") ==
        "continual: expected a question of at most 253 tokens, got N (" + file.string() +
            ", line 4)\n");
  // An answer that is too long is cut, and this is said.
  const fs::path other = tofu("long-answer");
  put(other / "forget10.json",
      replaced(text_of(other / "forget10.json"), "It is number 10.", question));
  const Result cut = run(on(other, "long-answer-out", "--vocabulary 320"));
  INFO(cut.output);
  CHECK(cut.status == 0);
  CHECK(cut.output.find("note: 1 answers are too long for the model and lose their ends\n") !=
        std::string::npos);
}

TEST_CASE("a run goes on with the texts that it began with, or not at all", "[end-to-end]") {
  const fs::path data = tofu("texts"), file = data / "forget10.json";
  const std::string arguments = on(data, "texts-out", "");
  REQUIRE(run(arguments).status == 0);
  REQUIRE(run(arguments + "--resume").status == 0);
  const fs::path config = folder() / "texts-out" / "config.json";
  const std::string before = text_of(file), kept = text_of(config);
  const auto models = [&] {
    return std::distance(fs::directory_iterator(folder() / "texts-out"), fs::directory_iterator());
  };
  const auto files = models();
  for (const fs::path& changed : {file, data / "retain90.json"}) {
    const std::string text = text_of(changed);
    put(changed, replaced(text, "It is number", "It was number"));
    const std::string error = error_of(arguments + "--resume");
    put(changed, text);
    CHECK(std::regex_replace(error, std::regex("\"[0-9a-f]{16}\""), "HASH") ==
          "continual: expected --resume with the settings of the interrupted run, hash_of_texts "
          "HASH, got HASH (" +
              config.string() + ")\n");
    CHECK(text_of(config) == kept);
    CHECK(models() == files);  // nothing was trained or written
  }
  REQUIRE(run(arguments + "--resume").status == 0);
}

TEST_CASE("files of an earlier run may hold anything: an error names file and line", "[cli]") {
  const std::string arguments = smallest("own", "--method task-vector --epochs 1 ");
  REQUIRE(run(arguments).status == 0);
  const fs::path config = folder() / "own" / "config.json";
  const fs::path metrics = folder() / "own" / "metrics.jsonl";
  const std::string kept = text_of(config), lines = text_of(metrics);
  const std::string tail = " (" + config.string();
  const auto with_config = [&](const std::string& text) {
    put(config, text);
    const std::string error = error_of(arguments + "--resume");
    CHECK(text_of(config) == text);
    return error;
  };
  CHECK(with_config(std::string(20, '\0')) == "continual: expected JSON, got \"" + [] {
    std::string zeros;
    for (int i = 0; i < 20; ++i) zeros += "\\x00";
    return zeros;
  }() + "\" at byte 1" + tail + ", line 1)\n");
  CHECK(with_config("{\"a") ==
        "continual: expected complete JSON, got the end after 3 bytes" + tail + ", line 1)\n");
  CHECK(with_config("") == "continual: expected JSON, got nothing" + tail + ", line 1)\n");
  CHECK(with_config("[]") == "continual: expected a JSON object, got []" + tail + ")\n");
  CHECK(with_config("\"x\"") == "continual: expected a JSON object, got \"x\"" + tail + ")\n");
  CHECK(with_config(kept + "x").find("expected JSON, got \"x\"") != std::string::npos);
  put(config, replaced(kept, "\"seed\": 1", "\"seed\": 1, \"more\": 2"));
  CHECK(error_of(arguments + "--resume") ==
        "continual: expected --resume with the settings of the interrupted run, more 2, got null" +
            tail + ")\n");
  put(config, kept);

  const std::string where = " (" + metrics.string() + ", line ";
  const auto with_lines = [&](const std::string& text) {
    put(metrics, text);
    return error_of(arguments + "--resume");
  };
  const std::string next = std::to_string(lines_of(metrics).size() + 1);
  CHECK(with_lines(lines + "{}\n") ==
        "continual: expected an object with \"kind\", got {}" + where + next + ")\n");
  CHECK(with_lines("[1]\n" + lines) ==
        "continual: expected an object with \"kind\", got [1]" + where + "1)\n");
  CHECK(with_lines("{\"kind\":\"step\",\"task\":\"0\"}\n") ==
        "continual: expected a whole number as \"task\", got {\"kind\":\"step\",\"task\":\"0\"}" +
            where + "1)\n");
  CHECK(with_lines("{\"kind\":\"other\",\"task\":0}\n") ==
        "continual: expected a line of a step or a task, got other" + where + "1)\n");
  CHECK(with_lines(std::string("\0\n", 2) + lines).find("expected JSON, got ") !=
        std::string::npos);
  put(metrics, lines + "{\"kind\": \"st");  // what a killed run leaves
  CHECK(run(arguments + "--resume").status == 0);
  CHECK(text_of(metrics).back() == '\n');
  for (const Json& line : lines_of(metrics)) CHECK(line.is_object());

  // The vocabulary beside a trained model.
  for (const auto& entry : fs::directory_iterator(folder() / "smallest")) {
    if (entry.path().string().find(".tokenizer.model") == std::string::npos) continue;
    const std::string vocabulary = text_of(entry.path());
    put(entry.path(), "no vocabulary");
    const Result result = run(arguments);
    put(entry.path(), vocabulary);
    CHECK(
        result.output.find("continual: expected a vocabulary of this program, got another file (" +
                           entry.path().string() + ")\n") != std::string::npos);
    break;
  }
}

TEST_CASE("a run goes on from its own checkpoint alone", "[end-to-end]") {
  const std::string long_run = smallest("first", "--method task-vector --epochs 400 ");
  const std::string short_run = smallest("second", "--method task-vector --epochs 2 ");
  REQUIRE(interrupt(long_run, folder() / "first" / "metrics.jsonl", 3) == 130);
  REQUIRE(run(short_run).status == 0);
  fs::copy(folder() / "first" / "checkpoint.safetensors",
           folder() / "second" / "checkpoint.safetensors");
  const Result result = run(short_run + "--resume");
  CHECK(result.status == 1);
  CHECK(result.output.find(
            "continual: expected a checkpoint of this run, got one of a run with other inputs (" +
            (folder() / "second" / "checkpoint.safetensors").string() + ")\n") !=
        std::string::npos);
  // A run that begins anew leaves no checkpoint of an earlier one to a later --resume.
  fs::remove(folder() / "second" / "metrics.jsonl");
  REQUIRE(interrupt(smallest("second", "--method task-vector --epochs 500"),
                    folder() / "second" / "metrics.jsonl", 1) == 130);
  REQUIRE(run(short_run).status == 0);
  CHECK_FALSE(fs::exists(folder() / "second" / "checkpoint.safetensors"));
}

TEST_CASE("a run that lost the lines its checkpoint counts on does not go on", "[end-to-end]") {
  const fs::path metrics = folder() / "lost" / "metrics.jsonl";
  const std::string arguments =
      "--tasks 2 --authors-per-task 1 --retain-authors 2 --train-epochs 2 --threads 1 --epochs 60 "
      "--method task-vector --out '" +
      (folder() / "lost").string() + "' ";
  REQUIRE(interrupt(arguments, metrics, 2 * 60 + 3) == 130);
  const std::string lines = text_of(metrics);
  put(metrics, "");
  CHECK(error_of(arguments + "--resume") ==
        "continual: expected a line for each of the 1 requests that are done, got 0 (" +
            metrics.string() + ")\n");
  put(metrics, lines);
  CHECK(run(arguments + "--resume").status == 0);
}

TEST_CASE("what --checkpoint names is a checkpoint, and nothing else is touched", "[cli]") {
  const fs::path pipe = folder() / "pipe", text = folder() / "thesis.txt";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  put(text, "years of work");
  const auto error = [&](const fs::path& path) {
    return error_of(smallest("node", "--method task-vector --checkpoint '" + path.string() + "'"));
  };
  CHECK(error(pipe) == "alkn::io::AtomicFile: expected a regular file, or none, at " +
                           pipe.string() + ", got a pipe\n");
  CHECK(fs::is_fifo(pipe));
  CHECK(error("/dev/null") ==
        "alkn::io::AtomicFile: expected a regular file, or none, at /dev/null, got a device\n");
  CHECK(fs::is_character_file("/dev/null"));
  CHECK(error(text) == "continual: expected a checkpoint, or no file yet, got another file (" +
                           text.string() + ")\n");
  CHECK(text_of(text) == "years of work");
  CHECK(error(folder() / "no" / "folder")
            .rfind("alkn::io::AtomicFile: expected a writable folder for ", 0) == 0);
}

TEST_CASE("two runs do not share a folder, and a killed one holds nothing", "[end-to-end]") {
  const std::string arguments = smallest("shared", "--method task-vector --epochs 100000 ");
  const fs::path metrics = folder() / "shared" / "metrics.jsonl";
  const pid_t child = trainer::start(arguments);
  while (lines_of(metrics).empty()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const std::string process = ", got process " + std::to_string(child) + " (";
  const Result second = run(smallest("shared", "--method npo"));
  CHECK(second.status == 1);
  CHECK(second.output == "continual: expected a folder that no other process writes to" + process +
                             (folder() / "shared" / "run").string() + ")\n");
  REQUIRE(::kill(child, SIGKILL) == 0);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(run(smallest("shared", "--method task-vector --epochs 1")).status == 0);
  for (const auto& entry : fs::directory_iterator(folder() / "shared")) {
    CHECK(entry.path().filename().string().rfind(".alkn-", 0) != 0);
  }
  // One checkpoint for two folders.
  const std::string checkpoint = " --checkpoint '" + (folder() / "both").string() + "'";
  const pid_t other = trainer::start(arguments + checkpoint);
  while (lines_of(metrics).size() < 40) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const Result third = run(smallest("shared-not", "--method npo" + checkpoint));
  CHECK(third.output ==
        "continual: expected a checkpoint that no other process writes, got process " +
            std::to_string(other) + " (" + (folder() / "both").string() + ")\n");
  REQUIRE(::kill(other, SIGKILL) == 0);
  REQUIRE(::waitpid(other, &status, 0) == other);
}

TEST_CASE("more authors than can be made up are refused at once", "[cli]") {
  CHECK(error_of("--out '" + (folder() / "many").string() +
                 "' --tasks 5 --authors-per-task 1000 --retain-authors 40") ==
        "continual: expected at most 4000 made-up authors, got 5040 (requests and kept ones "
        "together)\n");
}

TEST_CASE("a system that fails costs the run and no file", "[end-to-end]") {
  const std::string arguments = "--method gradient-ascent --epochs 1";
  REQUIRE(run(smallest("sound", arguments)).status == 0);
  const std::string model = text_of(folder() / "sound" / "model.safetensors");
  const auto faulty = [&](const std::string& plan, const std::string& out) {
    return run(smallest(out, arguments),
               "ALKN_FAULTS='" + plan + "' LD_PRELOAD='" ALKN_FAULTY_SYSTEM "' ");
  };
  // Interrupted calls and short writes change nothing.
  for (const char* plan : {"write 0 4", "write 0 -1 1000", "fsync 0 4", "pread 0 -1 999"}) {
    INFO(plan);
    const Result result = faulty(plan, "disturbed");
    INFO(result.output);
    CHECK(result.status == 0);
    CHECK((text_of(folder() / "disturbed" / "model.safetensors") == model));
  }
  // A disk that fails or is full, in every file in turn: an error, and no half of a file.
  int failed = 0;
  for (const std::string call : {"fsync", "write", "rename"}) {
    for (int good = 0; good < 40; good += 3) {
      fs::remove_all(folder() / "broken");
      const Result result = faulty(call + " " + std::to_string(good) + " 28", "broken");
      if (result.status == 0) break;
      ++failed;
      INFO(call << " " << good << ": " << result.output);
      CHECK(result.status == 1);
      CHECK(result.output.find("No space left on device") != std::string::npos);
      for (const auto& entry : fs::directory_iterator(folder() / "broken")) {
        CHECK(entry.path().string().find(".tmp") == std::string::npos);
      }
      const fs::path written = folder() / "broken" / "model.safetensors";
      if (fs::exists(written)) CHECK((text_of(written) == model));
    }
  }
  CHECK(failed > 6);
}
