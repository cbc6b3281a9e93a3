// The program tofu_metrics: published logs, made-up logs, bad logs.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "alkn/eval/eval.hpp"
#include "catch.hpp"
#include "checks.hpp"

using nlohmann::json;

namespace {

struct Run {
  int status;
  std::string output;
};

/// Runs the program in a folder; `streams` says which of its streams count.
Run run(const std::filesystem::path& folder, const std::string& arguments,
        const std::string& streams = "2>&1") {
  const std::string command =
      "cd '" + folder.string() + "' && '" ALKN_TOFU_METRICS "' " + arguments + " " + streams;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  std::array<char, 4096> buffer;
  for (std::size_t size; (size = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    output.append(buffer.data(), size);
  }
  const int status = pclose(pipe);
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), output};
}

/// A folder that goes when the test does.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() /
              ("alkn-eval-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  std::filesystem::path path_;
};

json set_of(int questions, double shift) {
  json set;
  for (int i = 0; i < questions; ++i) {
    const std::string id = std::to_string(i);
    set["avg_gt_loss"][id] = .1 * (i + 1) + shift;
    set["avg_paraphrased_loss"][id] = 1 + .2 * i + shift;
    set["average_perturb_loss"][id] = {1.5, 2.5 - .1 * i};
    set["rougeL_recall"][id] = 1 - .1 * i;
  }
  return set;
}

json small_log() {
  return {{"eval_log.json", set_of(4, 0)},
          {"eval_real_author_wo_options.json", set_of(2, .1)},
          {"eval_real_world_wo_options.json", set_of(3, .2)},
          {"eval_log_forget.json", set_of(5, .3)}};
}

void check_set(const json& report, double probability, double rouge, double truth_ratio) {
  CHECK(std::abs(report.at("probability").get<double>() - probability) < 1e-12);
  CHECK(std::abs(report.at("rouge").get<double>() - rouge) < 1e-12);
  CHECK(std::abs(report.at("truth_ratio").get<double>() - truth_ratio) < 1e-12);
}

std::filesystem::path published_logs() {
  const auto folder = checks::shared_folder() / "oracle" / "tofu_logs";
  if (!std::filesystem::exists(folder / "phi_full.json")) {
    WARN("skipped: no published logs in " << folder.string() << " (set ALKN_SHARED_DIR)");
    return {};
  }
  return folder;
}

}  // namespace

TEST_CASE("the published logs give the published values", "[tofu_metrics]") {
  const auto folder = published_logs();
  if (folder.empty()) return;
  const Run full = run(folder, "phi_full.json phi_retain90.json --json");
  REQUIRE(full.status == 0);
  const json a = json::parse(full.output);
  CHECK(checks::relative_error(a.at("forget_quality"), 2.194274302189e-16) < 1e-12);
  CHECK(std::abs(a.at("forget_distance").get<double>() - 104.0 / 300) < 1e-15);
  CHECK(std::abs(a.at("model_utility").get<double>() - .522073713204) < 1e-12);
  check_set(a.at("retain"), .926088416051, .929252509719, .482683008321);
  check_set(a.at("real_authors"), .377360325968, .415666666666667, .456009021340);
  check_set(a.at("world_facts"), .408998452214, .777350427350, .492336913877);
  check_set(a.at("forget"), .928239484242, .924861262263, .483355585668);

  const Run gold = run(folder, "phi_retain90.json --json");
  REQUIRE(gold.status == 0);
  const json b = json::parse(gold.output);
  CHECK(b.at("forget_quality").is_null());
  CHECK(std::abs(b.at("model_utility").get<double>() - .531990911780) < 1e-12);
  check_set(b.at("retain"), .923114031255, .920043118590, .484739159968);
  check_set(b.at("real_authors"), .384187278306, .475333333333333, .463836108797);
  check_set(b.at("world_facts"), .408088436189, .755698005698, .488263468799);
  check_set(b.at("forget"), .134906961587, .427867428218, .628841713214);

  const Run itself = run(folder, "phi_full.json phi_full.json --json");
  REQUIRE(itself.status == 0);
  CHECK(json::parse(itself.output).at("forget_quality") == 1.0);
}

TEST_CASE("ROUGE-L recall of every published answer", "[tofu_metrics]") {
  const auto folder = published_logs();
  if (folder.empty()) return;
  std::ifstream stream(folder / "phi_full.json");
  const json log = json::parse(stream);
  int pairs = 0, wrong = 0;
  for (const auto& set : log.items()) {
    for (const auto& question : set.value().at("generated_text").items()) {
      const auto generated = question.value().at(0).get<std::string>();
      const auto reference = question.value().at(1).get<std::string>();
      const double stored = set.value().at("rougeL_recall").at(question.key());
      ++pairs;
      if (std::abs(alkn::eval::rouge_l_recall(reference, generated) - stored) > 1e-12) {
        ++wrong;
        UNSCOPED_INFO(set.key() << " " << question.key() << ": stored " << stored << ", got "
                                << alkn::eval::rouge_l_recall(reference, generated));
      }
    }
  }
  CHECK(pairs == 817);
  CHECK(wrong == 0);
}

TEST_CASE("a made-up log with sets of different length", "[tofu_metrics]") {
  const Folder folder;
  json other = small_log();
  other["eval_log_forget.json"] = set_of(7, -.5 + .6);
  folder.write("log.json", small_log().dump());
  folder.write("other.json", other.dump());
  const Run result = run(folder.path(), "log.json other.json --json");
  INFO(result.output);
  REQUIRE(result.status == 0);
  const json report = json::parse(result.output);
  double probability = 0, choices = 0, forget = 0, retain = 0;
  for (int i = 0; i < 4; ++i) probability += std::exp(-.1 * (i + 1)) / 4;
  for (int i = 0; i < 2; ++i) {
    const double right = std::exp(-(.1 * (i + 1) + .1));
    choices += right / (right + std::exp(-1.5) + std::exp(-2.5 + .1 * i)) / 2;
  }
  for (int i = 0; i < 5; ++i) {
    const double t = std::exp(1 + .2 * i + .3 - (4 - .1 * i) / 2);
    forget += std::min(t, 1 / t) / 5;
  }
  for (int i = 0; i < 4; ++i)
    retain += std::max(0.0, 1 - std::exp(1 + .2 * i - (4 - .1 * i) / 2)) / 4;
  check_set(report.at("retain"), probability, .85, retain);
  CHECK(std::abs(report.at("real_authors").at("probability").get<double>() - choices) < 1e-12);
  CHECK(std::abs(report.at("forget").at("truth_ratio").get<double>() - forget) < 1e-12);
  CHECK(report.at("world_facts").at("questions") == 3);
  CHECK(report.at("forget_quality").get<double>() > 0);
  for (const char* name : {"retain", "real_authors", "world_facts", "forget"}) {
    for (const char* metric : {"probability", "rouge", "truth_ratio"}) {
      const json& interval = report.at(name).at(std::string(metric) + "_interval");
      CHECK(interval.at(0).get<double>() <= report.at(name).at(metric).get<double>() + 1e-15);
      CHECK(interval.at(1).get<double>() >= report.at(name).at(metric).get<double>() - 1e-15);
    }
  }
  // The same run gives the same text, another seed another one.
  CHECK(run(folder.path(), "log.json other.json --json").output == result.output);
  CHECK(run(folder.path(), "log.json other.json --json --seed 5").output != result.output);
}

TEST_CASE("lists may be arrays, and questions in any order", "[tofu_metrics]") {
  const Folder folder;
  const json log = small_log();
  json arrays = log;
  for (auto& set : arrays) {
    for (auto& list : set) {
      json array = json::array();
      for (const auto& entry : list.items()) array.push_back(entry.value());
      list = array;
    }
  }
  // Entries are paired by their question, wherever they stand in the file.
  std::string text = log.dump();
  const std::string in_order = R"("rougeL_recall":{"0":1.0,"1":0.9})";
  const std::size_t place = text.find(in_order);
  REQUIRE(place != std::string::npos);
  text.replace(place, in_order.size(), R"("rougeL_recall":{"1":0.9,"0":1.0})");
  folder.write("log.json", log.dump());
  folder.write("arrays.json", arrays.dump());
  folder.write("shuffled.json", text);
  const Run expected = run(folder.path(), "log.json --json");
  REQUIRE(expected.status == 0);
  CHECK(run(folder.path(), "arrays.json --json").output == expected.output);
  CHECK(run(folder.path(), "shuffled.json --json").output == expected.output);
}

TEST_CASE("the table fits a terminal", "[tofu_metrics]") {
  const Folder folder;
  folder.write("log.json", small_log().dump());
  for (const char* arguments : {"log.json", "log.json log.json"}) {
    const Run result = run(folder.path(), arguments);
    REQUIRE(result.status == 0);
    std::istringstream lines(result.output);
    int number = 0;
    for (std::string line; std::getline(lines, line); ++number) CHECK(line.size() <= 100);
    CHECK(number >= 12);
    for (const char* text : {"retain", "real_authors", "world_facts", "forget", "model utility",
                             "forget quality", "probability", "ROUGE-L recall", "truth ratio"}) {
      CHECK(result.output.find(text) != std::string::npos);
    }
  }
  CHECK(run(folder.path(), "log.json").output.find("needs a reference log") != std::string::npos);
  CHECK(run(folder.path(), "log.json log.json").output.find("p = 1,") != std::string::npos);
}

TEST_CASE("a bad log is refused with file and key", "[tofu_metrics]") {
  const Folder folder;
  const json good = small_log();
  folder.write("good.json", good.dump());
  const auto refused = [&](const std::string& text, const std::string& expected) {
    folder.write("bad.json", text);
    for (const char* arguments : {"bad.json", "bad.json --json", "good.json bad.json"}) {
      const Run result = run(folder.path(), arguments);
      CHECK(result.status == 1);
      CHECK(result.output == "tofu_metrics: expected " + expected + "\n");
      CHECK(run(folder.path(), arguments, "2>/dev/null").output.empty());
    }
  };
  const auto without = [&](const std::string& set, const std::string& key) {
    json log = good;
    if (key.empty()) {
      log.erase(set);
    } else {
      log[set].erase(key);
    }
    return log.dump();
  };
  const auto with = [&](const std::string& pointer, const json& value) {
    json log = good;
    log[json::json_pointer(pointer)] = value;
    return log.dump();
  };
  const auto replaced = [&](const std::string& what, const std::string& by) {
    std::string text = good.dump();
    const std::size_t place = text.find(what);
    REQUIRE(place != std::string::npos);
    return text.replace(place, what.size(), by);
  };
  for (const auto& set : good.items()) {
    refused(without(set.key(), ""),
            "the key " + set.key() + ", got none (bad.json, " + set.key() + ")");
    for (const auto& list : set.value().items()) {
      refused(without(set.key(), list.key()), "the key " + list.key() + ", got none (bad.json, " +
                                                  set.key() + "/" + list.key() + ")");
    }
  }
  refused(with("/eval_log.json/rougeL_recall", json::object()),
          "at least one entry, got an empty list (bad.json, eval_log.json/rougeL_recall)");
  refused(with("/eval_log.json/avg_gt_loss", json::array()),
          "at least one entry, got an empty list (bad.json, eval_log.json/avg_gt_loss)");
  refused(with("/eval_log_forget.json/average_perturb_loss/1", json::array()),
          "at least one number, got an empty list (bad.json, "
          "eval_log_forget.json/average_perturb_loss/1)");
  refused(with("/eval_log_forget.json/average_perturb_loss/0", json::array()),
          "at least one number, got an empty list (bad.json, "
          "eval_log_forget.json/average_perturb_loss/0)");
  refused(with("/eval_log_forget.json/average_perturb_loss/2", {1.5}),
          "2 numbers as for question 0, got 1 (bad.json, "
          "eval_log_forget.json/average_perturb_loss/2)");
  refused(with("/eval_log.json/average_perturb_loss/2/1", nullptr),
          "a finite number, got null (bad.json, eval_log.json/average_perturb_loss/2/1)");
  refused(with("/eval_log.json/average_perturb_loss/2", 3),
          "a list of numbers, got 3 (bad.json, eval_log.json/average_perturb_loss/2)");
  refused(with("/eval_log.json/avg_paraphrased_loss/3", "nan"),
          "a finite number, got \"nan\" (bad.json, eval_log.json/avg_paraphrased_loss/3)");
  refused(with("/eval_log.json/avg_gt_loss/3", -.5),
          "a number of at least 0, got -0.5 (bad.json, eval_log.json/avg_gt_loss/3)");
  refused(with("/eval_log.json/rougeL_recall/3", 1.5),
          "a number of at most 1, got 1.5 (bad.json, eval_log.json/rougeL_recall/3)");
  refused(with("/eval_log.json/rougeL_recall", 1.5),
          "a list of entries, got 1.5 (bad.json, eval_log.json/rougeL_recall)");
  refused(with("/eval_log.json/rougeL_recall/9", .5),
          "4 entries as in avg_gt_loss, got 5 (bad.json, eval_log.json/rougeL_recall)");
  {
    json log = good;
    log["eval_real_world_wo_options.json"]["avg_paraphrased_loss"].erase("1");
    refused(log.dump(),
            "3 entries as in avg_gt_loss, got 2 (bad.json, "
            "eval_real_world_wo_options.json/avg_paraphrased_loss)");
    log["eval_real_world_wo_options.json"]["avg_paraphrased_loss"]["7"] = 1.5;
    refused(log.dump(),
            "an entry for question 1, got none (bad.json, "
            "eval_real_world_wo_options.json/avg_paraphrased_loss)");
  }
  refused("[1, 2]", "an object of four sets, got [1,2] (bad.json)");
  refused(with("/eval_log.json", 3), "an object, got 3 (bad.json, eval_log.json)");
  for (const std::string word : {"NaN", "Infinity", "-Infinity"}) {
    refused(
        replaced(R"("rougeL_recall":{"0":1.0,"1":0.9)", R"("rougeL_recall":{"0":1.0,"1":)" + word),
        "a finite number, got " + word + " (bad.json, eval_log.json/rougeL_recall/1)");
    refused(replaced("[1.5,2.4]", "[1.5, " + word + "]"),
            "a finite number, got " + word + " (bad.json, eval_log.json/average_perturb_loss/1/1)");
  }
  refused(replaced("[1.5,2.4]", "[1.5,1e999]"),
          "a finite number, got 1e999 (bad.json, eval_log.json/average_perturb_loss/1/1)");
  refused(replaced(R"("rougeL_recall":{"0":1.0)", R"("rougeL_recall":{"0":1.0,"0":1.0)"),
          "every key once, got \"0\" twice (bad.json, eval_log.json/rougeL_recall/0)");
  const std::size_t byte = good.dump().find("[1.5,2.4]") + 8;
  refused(replaced("[1.5,2.4]", "[1.5 2.4]"),
          "JSON, got \"2.4\" at byte " + std::to_string(byte) +
              " (bad.json, eval_log.json/average_perturb_loss/1/1)");
  refused(good.dump() + " x",
          "JSON, got \"x\" at byte " + std::to_string(good.dump().size() + 2) + " (bad.json)");
  refused(good.dump() + std::string("\0 anything", 10),
          "JSON, got \"\\x00\" at byte " + std::to_string(good.dump().size() + 1) + " (bad.json)");
  refused("\xFF\xFE{}", "a text in UTF-8, got the byte-order mark of UTF-16 or UTF-32 (bad.json)");
  refused("{\"caf\xE9\": 1}", "JSON, got \"\"caf\\xE9\"\" at byte 7 (bad.json)");
  refused(
      std::string(75'000, '['), "JSON of at most 64 levels, got more (bad.json, " + [] {
        std::string path = "0";
        for (int level = 1; level < 64; ++level) path += "/0";
        return path;
      }() + ")");
  refused("", "JSON, got nothing (bad.json)");
  refused(" \n", "JSON, got nothing (bad.json)");
  const std::string text = good.dump();
  const std::size_t cut = text.find(R"("1":0.9)", text.find("rougeL_recall"));
  refused(text.substr(0, cut), "complete JSON, got the end after " + std::to_string(cut) +
                                   " bytes (bad.json, eval_log.json/rougeL_recall/0)");
  for (std::size_t size = 1; size < text.size(); size += 97) {
    folder.write("bad.json", text.substr(0, size));
    const Run result = run(folder.path(), "bad.json");
    CHECK(result.status == 1);
    CHECK(result.output.rfind("tofu_metrics: expected complete JSON, got the end after ", 0) == 0);
    CHECK(result.output.find("bad.json") != std::string::npos);
  }
}

TEST_CASE("files that are not there and wrong arguments", "[tofu_metrics]") {
  const Folder folder;
  folder.write("log.json", small_log().dump());
  CHECK(run(folder.path(), "absent.json").output ==
        "tofu_metrics: expected a readable file, got none (absent.json)\n");
  CHECK(run(folder.path(), "log.json absent.json").status == 1);
  CHECK(run(folder.path(), ".").status == 1);
  CHECK(run(folder.path(), "").status != 0);
  CHECK(run(folder.path(), "log.json --resamples 0").status != 0);
  CHECK(run(folder.path(), "log.json --unknown").status != 0);
  for (const std::string seed : {"-1", "1.5", "nan", "18446744073709551616", "1x"}) {
    const Run result = run(folder.path(), "log.json --seed=" + seed);
    CHECK(result.status != 0);
    CHECK(result.output.rfind("--seed: expected a whole number from 0 to 2^64 - 1, got " + seed,
                              0) == 0);
  }
  CHECK(run(folder.path(), "log.json --seed=18446744073709551615").status == 0);
  folder.write("marked.json", "\xEF\xBB\xBF" + small_log().dump());
  CHECK(run(folder.path(), "marked.json --json").output ==
        run(folder.path(), "log.json --json").output);
  CHECK(run(folder.path(), "--help").status == 0);
  CHECK(run(folder.path(), "log.json", "2>&1 >/dev/full").output ==
        "tofu_metrics: expected to write the result, got an error\n");
}
