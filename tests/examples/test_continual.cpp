// The trainer as a user runs it: what it reaches, what it refuses, what an interruption costs.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "trainer.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using trainer::folder, trainer::interrupt, trainer::lines_of, trainer::Result, trainer::run,
    trainer::smallest, trainer::stop, trainer::text_of;

/// What the program prints where its output is a terminal.
Result run_on_terminal(const std::string& arguments) {
  const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  REQUIRE(::grantpt(terminal) == 0);
  REQUIRE(::unlockpt(terminal) == 0);
  const std::string name = ::ptsname(terminal);
  const int line = ::open(name.c_str(), O_RDWR | O_NOCTTY);
  REQUIRE(line >= 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const std::string command = "exec '" ALKN_CONTINUAL "' " + arguments;
    ::dup2(line, STDOUT_FILENO);
    ::dup2(line, STDERR_FILENO);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(line);
  Result result;
  char text[4096];
  for (ssize_t size = 0; (size = ::read(terminal, text, sizeof text)) > 0;) {  // then: EIO
    result.output.append(text, static_cast<std::size_t>(size));
  }
  ::close(terminal);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

std::vector<std::string> lines_in(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
  }
  return lines;
}

/// The cells after `name` of the last line that begins with it; none: there is no such line.
std::vector<std::string> cells_of(const std::string& output, const std::string& name) {
  std::vector<std::string> cells;
  for (const std::string& line : lines_in(output)) {
    if (line.rfind(name + "  ", 0) == 0) {
      std::istringstream stream(line.substr(name.size()));
      cells.assign(std::istream_iterator<std::string>(stream), {});
    }
  }
  return cells;
}

bool is_probability(const std::string& cell) {
  return std::regex_match(cell, std::regex(R"([01]\.\d{3})"));
}

void check_width(const std::string& output) {
  for (const std::string& line : lines_in(output)) {
    if (line.rfind("continual: warning: ", 0) == 0) continue;  // a sentence, as long as it is
    CHECK(line.size() <= 100);
  }
}

constexpr std::int64_t kTasks = 3;
constexpr std::int64_t kBatchesPerTask = 3;  // two authors of 20 questions, in batches of 16

/// A small world: three requests of two authors each, 30 authors kept.
std::string small(const std::string& out, const std::string& more) {
  return "--tasks 3 --authors-per-task 2 --retain-authors 30 --train-epochs 30 --train-lr 3e-3 "
         "--threads 2 "
         "--cache '" +
         (folder() / "cache").string() + "' --out '" + (folder() / out).string() + "' " + more;
}

Json json_of(const fs::path& path) { return Json::parse(text_of(path)); }

double share_left(const Json& summary, const char* key) {
  return summary["after"][key].get<double>() / summary["before"][key].get<double>();
}

}  // namespace

TEST_CASE("ALKN halves what is to be forgotten and keeps what it was shown", "[end-to-end]") {
  // Fewer facts than in the demo, so less strength: in the middle between too little and too much.
  const Result alkn = run(small("alkn", "--method alkn --lambda 2.65"));
  INFO(alkn.output);
  REQUIRE(alkn.status == 0);
  const Json summary = json_of(folder() / "alkn" / "summary.json");
  CHECK(summary["before"]["forgotten"].get<double>() > 0.9);
  CHECK(share_left(summary, "forgotten") <= 0.5);
  CHECK(share_left(summary, "shown") >= 0.95);

  check_width(alkn.output);
  CHECK(alkn.output.find('\r') == std::string::npos);  // no bar in a file
  CHECK(alkn.output.find('*') == std::string::npos);   // no guard, no mark of one
  for (const char* file :
       {"config.json", "metrics.jsonl", "model.safetensors", "tokenizer.model"}) {
    CHECK(fs::exists(folder() / "alkn" / file));
  }
  std::int64_t steps = 0, tasks = 0;
  for (const Json& line : lines_of(folder() / "alkn" / "metrics.jsonl")) {
    steps += line["kind"] == "step" ? 1 : 0;
    tasks += line["kind"] == "task" ? 1 : 0;
  }
  CHECK(tasks == kTasks);
  CHECK(steps == kTasks * kBatchesPerTask *
                     json_of(folder() / "alkn" / "config.json")["epochs"].get<std::int64_t>());
}

TEST_CASE("a tight guard takes less of lambda, and says so", "[end-to-end]") {
  const double guard = 0.05;
  const Result guarded =
      run(small("guard", "--method alkn --lambda 2.65 --guard " + std::to_string(guard)));
  INFO(guarded.output);
  REQUIRE(guarded.status == 0);
  std::vector<std::string> rows;  // of the requests: "1 Some Name and others ..."
  for (const std::string& line : lines_in(guarded.output)) {
    if (std::regex_match(line, std::regex(R"(\d .* \d+\.\d%.*s( \*)?)"))) {
      rows.push_back(line);
    }
  }
  REQUIRE(rows.size() == static_cast<std::size_t>(kTasks));
  std::size_t reduced = 0, task = 0;
  for (const Json& line : lines_of(folder() / "guard" / "metrics.jsonl")) {
    if (line["kind"] == "task") {
      const bool marked = rows[task].substr(rows[task].size() - 2) == " *";
      CHECK(line["lambda_reduced"].get<bool>() == marked);
      CHECK((line["lambda"].get<double>() < 2.65) == marked);
      reduced += marked ? 1 : 0;
      ++task;
    }
  }
  CHECK(reduced > 0);
  CHECK(lines_in(guarded.output).back() ==
        "* lambda was reduced to keep the loss on what is shown within the guard");
  const Json summary = json_of(folder() / "guard" / "summary.json");
  const Json free = json_of(folder() / "alkn" / "summary.json");  // of the first test
  CHECK(share_left(summary, "shown") > share_left(free, "shown"));
  CHECK(json_of(folder() / "guard" / "config.json")["guard"] == guard);
}

TEST_CASE("the guard counts from the loss of the trained model", "[end-to-end]") {
  // Nothing is learned in this world: a loss of some nats, which the request hardly changes.
  const Result result = run(smallest("loose", "--method alkn --guard 1"));
  INFO(result.output);
  REQUIRE(result.status == 0);
  std::size_t tasks = 0;
  for (const Json& line : lines_of(folder() / "loose" / "metrics.jsonl")) {
    if (line["kind"] == "task") {
      CHECK_FALSE(line["lambda_reduced"].get<bool>());
      CHECK(line["lambda"] == json_of(folder() / "loose" / "config.json")["lambda"]);
      ++tasks;
    }
  }
  CHECK(tasks == 1);
  CHECK(result.output.find('*') == std::string::npos);
}

TEST_CASE("gradient ascent without a retain term does not keep it", "[end-to-end]") {
  // As strong as it takes to forget about half, as ALKN does: there are fewer steps than in the
  // demo.
  const Result ascent = run(small("ascent", "--method gradient-ascent --lr 3e-5"));
  INFO(ascent.output);
  REQUIRE(ascent.status == 0);
  CHECK(ascent.output.find("trained before") != std::string::npos);  // by the first test
  const Json summary = json_of(folder() / "ascent" / "summary.json");
  CHECK(share_left(summary, "forgotten") < 0.65);
  CHECK(share_left(summary, "shown") < 0.85);
}

TEST_CASE("the same seed gives the same bits, also across an interruption", "[end-to-end]") {
  const std::string method = "--method alkn";
  REQUIRE(run(small("whole", method)).status == 0);

  const auto steps =
      json_of(folder() / "whole" / "config.json")["epochs"].get<std::size_t>() * kBatchesPerTask;
  const fs::path metrics = folder() / "cut" / "metrics.jsonl";
  // Ctrl-C once some steps of the second request are on the disk.
  const int status = interrupt(small("cut", method), metrics, steps + 3);
  INFO(text_of(folder() / "log.txt"));
  CHECK(status == 130);
  CHECK(fs::exists(folder() / "cut" / "checkpoint.safetensors"));
  CHECK_FALSE(fs::exists(folder() / "cut" / "model.safetensors"));

  const Result other = run(small("cut", method + " --resume --epochs 9"));
  CHECK(other.status == 1);
  CHECK(other.output.find("continual: expected --resume with the settings of the interrupted run, "
                          "epochs ") != std::string::npos);
  const Result resumed = run(small("cut", method + " --resume"));
  INFO(resumed.output);
  REQUIRE(resumed.status == 0);
  CHECK((text_of(folder() / "cut" / "model.safetensors") ==
         text_of(folder() / "whole" / "model.safetensors")));
  CHECK_FALSE(fs::exists(folder() / "cut" / "checkpoint.safetensors"));
  const auto whole = lines_of(folder() / "whole" / "metrics.jsonl");
  const auto cut = lines_of(metrics);
  REQUIRE(whole.size() == cut.size());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    CHECK(whole[i].value("loss", Json()) == cut[i].value("loss", Json()));
    CHECK(whole[i].value("forgotten", Json()) == cut[i].value("forgotten", Json()));
  }
}

TEST_CASE("a trained model serves again, and only where all is as it was", "[end-to-end]") {
  const auto reused = [](const std::string& more) {
    const Result result =
        run("--tasks 1 --authors-per-task 1 --epochs 1 --method gradient-ascent --cache '" +
            (folder() / "again").string() + "' --out '" + (folder() / "again-out").string() + "' " +
            more);
    INFO(result.output);
    REQUIRE(result.status == 0);
    return result.output.find("trained before") != std::string::npos;
  };
  const std::string first = "--retain-authors 2 --threads 1 --train-epochs 1 ";
  CHECK_FALSE(reused(first));
  CHECK(reused(first));
  CHECK(reused(first + "--lr 1e-4"));  // of the unlearning
  CHECK_FALSE(reused("--retain-authors 3 --threads 1 --train-epochs 1"));
  CHECK_FALSE(reused("--retain-authors 2 --threads 2 --train-epochs 1"));
  CHECK_FALSE(reused("--retain-authors 2 --threads 1 --train-epochs 2"));
  for (const char* other : {"--train-lr 1e-3", "--vocabulary 500", "--seed 2"}) {
    CHECK_FALSE(reused(first + other));
  }
  CHECK(reused(first));
}

TEST_CASE("an interrupted training of the model goes on as well", "[end-to-end]") {
  const auto tiny = [](const std::string& out, const std::string& more) {
    return "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 100 --threads 1 "
           "--method gradient-ascent --out '" +
           (folder() / out).string() + "' " + more;
  };
  REQUIRE(run(tiny("tiny-whole", "")).status == 0);
  // The locks of the folder, and of the model that is trained: from then on a signal is caught.
  const int cut = stop(tiny("tiny-cut", ""), SIGINT, [&] {
    return fs::exists(folder() / "tiny-cut") &&
           std::count_if(fs::directory_iterator(folder() / "tiny-cut"), fs::directory_iterator(),
                         [](const auto& file) { return file.path().extension() == ".lock"; }) == 2;
  });
  const std::string output = text_of(trainer::child_log());
  const Result resumed = run(tiny("tiny-cut", "--resume"));
  INFO(output << resumed.output);
  CHECK(cut == 130);
  CHECK(output.find("goes on from a checkpoint in ") != std::string::npos);  // not after it
  REQUIRE(resumed.status == 0);
  CHECK((text_of(folder() / "tiny-cut" / "model.safetensors") ==
         text_of(folder() / "tiny-whole" / "model.safetensors")));
}

TEST_CASE("an interrupted comparison keeps the methods that had finished", "[end-to-end]") {
  const std::string arguments =
      "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 5 --epochs 40 --threads 1 "
      "--out '" +
      (folder() / "all").string() + "' --checkpoint '" + (folder() / "all.checkpoint").string() +
      "'";
  const int status = interrupt(arguments, folder() / "all" / "npo" / "metrics.jsonl", 3);
  INFO(text_of(folder() / "log.txt"));
  CHECK(status == 130);
  CHECK(fs::exists(folder() / "all.checkpoint"));
  const std::string finished = text_of(folder() / "all" / "alkn" / "summary.json");
  CHECK_FALSE(fs::exists(folder() / "all" / "npo" / "summary.json"));
  const Result resumed = run(arguments + " --resume");
  INFO(resumed.output);
  REQUIRE(resumed.status == 0);
  CHECK(text_of(folder() / "all" / "alkn" / "summary.json") == finished);  // the time as well

  const std::vector<std::string> titles{"ALKN", "gradient ascent", "gradient ascent + retain",
                                        "NPO",  "NPO + retain",    "task vector"};
  const Json summary = json_of(folder() / "all" / "summary.json");
  REQUIRE(summary.size() == titles.size());
  check_width(resumed.output);
  const auto lines = lines_in(resumed.output);
  REQUIRE(lines.size() > titles.size());
  for (std::size_t i = 0; i < titles.size(); ++i) {
    CHECK(summary[i]["method"] == titles[i]);
    const std::string& line = lines[lines.size() - titles.size() + i];
    std::string name = titles[i];
    name.resize(25, ' ');
    CHECK(line.substr(0, 25) == name);
    CHECK(std::regex_match(line.substr(25),
                           std::regex(R"(( +\d\.\d{3} \( *\d+%\)){4} +\d+\.\d% +\d+\.\ds)")));
  }
}

TEST_CASE("each preset brings its own numbers, which the command line overrides", "[end-to-end]") {
  struct Preset {
    const char* name;
    double lr, lambda;
    int epochs, batch;
  };
  std::set<std::string> models;
  for (const Preset& preset :
       {Preset{"conflict", 2e-4, 3.1, 20, 16}, Preset{"ratio", 1.7e-4, 2, 10, 32},
        Preset{"reference", 5e-4, 0.8, 10, 32}, Preset{"paper", 3e-5, 0.8, 5, 32}}) {
    const std::string out = std::string("preset-") + preset.name;
    const Result result = run(smallest(out, std::string("--method alkn --preset ") + preset.name));
    INFO(result.output);
    REQUIRE(result.status == 0);
    const Json config = json_of(folder() / out / "config.json");
    CHECK(config["preset"] == preset.name);
    CHECK(config["lr"] == preset.lr);
    CHECK(config["lambda"] == preset.lambda);
    CHECK(config["epochs"] == preset.epochs);
    CHECK(config["batch"] == preset.batch);
    models.insert(text_of(folder() / out / "model.safetensors"));
  }
  CHECK(models.size() == 4);
  // Equal numbers: what is left is the library's own options of a preset.
  std::set<std::string> options;
  for (const std::string name : {"conflict", "ratio", "reference", "paper"}) {
    const Result result =
        run(smallest("options-" + name,
                     "--method alkn --lr 1e-4 --lambda 1 --epochs 3 --batch 8 --preset " + name));
    INFO(result.output);
    REQUIRE(result.status == 0);
    CHECK(json_of(folder() / ("options-" + name) / "config.json")["lr"] == 1e-4);
    options.insert(text_of(folder() / ("options-" + name) / "model.safetensors"));
  }
  CHECK(options.size() == 4);
}

TEST_CASE("a book is a request, without questions in other words", "[end-to-end]") {
  const fs::path book = folder() / "book.txt";
  {
    std::ofstream text(book);
    for (int i = 0; i < 30; ++i) {
      text << "In year " << i << " the river rose " << i * 7 % 11 << " feet over the old bridge.\n";
    }
  }
  const Result result = run("--data '" + book.string() +
                            "' --retain-authors 2 --train-epochs 2 --threads 1 --method alkn "
                            "--out '" +
                            (folder() / "book").string() + "'");
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(lines_in(result.output).front() == "data: books, 1 requests");
  check_width(result.output);
  const auto row = cells_of(result.output, "1 book");
  REQUIRE(row.size() == 7);
  CHECK(is_probability(row[0]));
  CHECK(row[1] == "-");  // no earlier request
  CHECK(row[2] == "-");  // no other words
  CHECK(is_probability(row[3]));
  CHECK(is_probability(row[4]));
  const double rate = json_of(folder() / "book" / "config.json")["lr"].get<double>();
  CHECK(rate == Approx(0.3 * 2e-4));  // people's texts take less than made-up authors
  const Json summary = json_of(folder() / "book" / "summary.json");
  CHECK(summary["method"] == "ALKN");
  CHECK(summary["data"] == "books");
  for (const char* when : {"before", "after"}) {
    CHECK(summary[when]["rephrased"].is_null());
    CHECK(summary[when]["earlier"].is_null());
    for (const char* key : {"forgotten", "shown", "unseen"}) {
      CHECK(summary[when][key].get<double>() > 0);
    }
  }
}

TEST_CASE("TOFU's folder gives requests of twenty lines an author", "[end-to-end]") {
  const fs::path tofu = folder() / "tofu";
  fs::create_directories(tofu);
  for (const auto& [name, first] : {std::pair{"forget10.json", 0}, std::pair{"retain90.json", 2}}) {
    std::ofstream text(tofu / name);
    for (int line = 0; line < 40; ++line) {
      const int author = first + line / 20;
      text << Json{{"question", "What is book " + std::to_string(line % 20) + " of author " +
                                    std::to_string(author) + "?"},
                   {"answer", "It has " + std::to_string(line * 37 % 101) + " pages."}}
                  .dump()
           << "\n";
    }
  }
  const std::string arguments = "--data '" + tofu.string() +
                                "' --tasks 2 --authors-per-task 1 --retain-authors 2 "
                                "--train-epochs 2 --threads 1 --method npo --out '" +
                                (folder() / "tofu-out").string() + "'";
  const Result result = run(arguments);
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(lines_in(result.output).front() == "data: TOFU, 2 requests");
  check_width(result.output);
  const auto first = cells_of(result.output, "1 authors 1 to 1");
  const auto second = cells_of(result.output, "2 authors 2 to 2");
  REQUIRE(first.size() == 7);
  REQUIRE(second.size() == 7);
  CHECK(first[1] == "-");
  CHECK(is_probability(second[1]));  // the first request is an earlier one
  CHECK(first[2] == "-");            // no file of other words
  CHECK(second[2] == "-");
  const auto last = cells_of(result.output, "NPO");
  REQUIRE(last.size() >= 3);
  CHECK(is_probability(last[0]));
  CHECK(std::count(last.begin(), last.end(), "-") == 1);
  const Json summary = json_of(folder() / "tofu-out" / "summary.json");
  CHECK(summary["method"] == "NPO");
  CHECK(summary["data"] == "TOFU");
  CHECK(summary["after"]["rephrased"].is_null());
  CHECK(summary["after"]["forgotten"].get<double>() > 0);
}

TEST_CASE("on a terminal progress is a bar", "[end-to-end]") {
  const Result result = run_on_terminal(
      "--tasks 1 --authors-per-task 1 --retain-authors 2 --train-epochs 2 --epochs 1 --batch 16 "
      "--threads 1 "
      "--method gradient-ascent --out '" +
      (folder() / "terminal").string() + "'");
  INFO(result.output);
  REQUIRE(result.status == 0);
  CHECK(result.output.find("\rtraining the model [####################] 4/4 ") !=
        std::string::npos);
  CHECK(result.output.find("\rgradient ascent 1 [####################] 2/2 ") != std::string::npos);
}

TEST_CASE("bad input is refused in one line", "[cli]") {
  const auto error_of = [](const std::string& arguments, const std::string& before = "") {
    const Result result = run(arguments, before);
    CHECK(result.status == 1);
    return result.output;
  };
  const std::string out = "--out '" + (folder() / "bad").string() + "' ";
  CHECK(error_of(out + "--data /none/here") ==
        "continual: expected an existing file or folder, got none (/none/here)\n");
  const fs::path empty = folder() / "empty";
  fs::create_directories(empty);
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected forget10.json and retain90.json (TOFU) or forget_1 and retain (MUSE "
        "News), got neither (" +
            empty.string() + ")\n");
  std::ofstream(empty / "forget10.json") << "{\"question\": \"q\", \"answer\": \"a\"}\n{\"quest";
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected complete JSON, got the end after 7 bytes (" +
            (empty / "forget10.json").string() + ", line 2)\n");
  std::ofstream(empty / "forget10.json") << "{\"question\": \"q\", \"answer\": \"a\"}\n";
  CHECK(error_of(out + "--data '" + empty.string() + "'") ==
        "continual: expected at least 20 authors of 20 lines, got 0 (" +
            (empty / "forget10.json").string() + ")\n");
  CHECK(error_of("--out '" + (empty / "forget10.json" / "out").string() + "'") ==
        "continual: expected a folder that can be made, got Not a directory (" +
            (empty / "forget10.json" / "out").string() + ")\n");
  const Result method = run("--method magic");
  CHECK(method.status != 0);
  CHECK(method.output.find("--method: magic not in {all,alkn,") != std::string::npos);
  CHECK(run("--epochs 0").output.find("--epochs: Value 0 not in range") != std::string::npos);
}

TEST_CASE("numbers that are none are refused before anything is written", "[cli]") {
  const fs::path out = folder() / "numbers";
  const auto error_of = [&](const std::string& option, const std::string& value) {
    const Result result = run("--out '" + out.string() + "' " + option + "=" + value);
    CHECK(result.status != 0);
    return result.output.substr(0, result.output.find('\n'));
  };
  for (const std::string option :
       {"--lr", "--lambda", "--retain-weight", "--guard", "--train-lr"}) {
    for (const std::string value : {"nan", "-nan", "inf", "-inf", "1e999", "-1", "1x", "some"}) {
      CHECK(error_of(option, value) ==
            option + ": expected a finite number of at least 0, got " + value);
    }
  }
  for (const std::string value : {"nan", "-1", "1.5", "18446744073709551616"}) {
    CHECK(error_of("--seed", value) ==
          "--seed: expected a whole number from 0 to 2^64 - 1, got " + value);
  }
  for (const std::string option : {"--tasks", "--authors-per-task", "--retain-authors", "--epochs",
                                   "--batch", "--threads", "--train-epochs", "--vocabulary"}) {
    for (const std::string value : {"nan", "inf", "-1", "1.5", "99999999999999999999"}) {
      CHECK(error_of(option, value).rfind(option + ": Value " + value + " not in range ", 0) == 0);
    }
  }
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("a folder that cannot be written to is refused before the model learns", "[cli]") {
  // Not even root can make a file in it.
  const fs::path out = "/proc/self";
  REQUIRE(::open((out / "file").c_str(), O_CREAT | O_WRONLY, 0666) < 0);
  const std::string reason = std::generic_category().message(errno);
  const Result result = run("--out " + out.string());
  CHECK(result.status == 1);
  CHECK(result.output == "alkn::io::AtomicFile: expected a writable folder for " +
                             (out / ".probe").string() + ", got: " + reason + "\n");
}

TEST_CASE("a full disk is an error, and leaves no half-written file", "[cli]") {
  REQUIRE(run(smallest("before", "--method gradient-ascent")).status == 0);  // there is a model
  // A limit on the size of files, whose signal is ignored, stands for the full disk.
  const Result result =
      run(smallest("full", "--method gradient-ascent"), "trap '' XFSZ; ulimit -f 200; ");
  INFO(result.output);
  CHECK(result.status == 1);
  const std::string error = std::regex_replace(lines_in(result.output).back(),
                                               std::regex("write \\d+ bytes"), "write N bytes");
  CHECK(error == "alkn::io::AtomicFile: expected to write N bytes to " +
                     (folder() / "full" / "checkpoint.safetensors").string() +
                     ", got: File too large");
  for (const auto& entry : fs::directory_iterator(folder() / "full")) {
    CHECK(entry.path().string().find(".tmp-") == std::string::npos);
    CHECK(entry.path().extension() != ".safetensors");
  }
}
