// `continual --model FOLDER` as a user runs it, on a small random checkpoint.
#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "alkn/io/model_folder.hpp"
#include "catch.hpp"
#include "small_checkpoint.hpp"
#include "trainer.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using alkn::io::ModelFolder;
using trainer::folder, trainer::lines_of, trainer::Result, trainer::run, trainer::text_of;

constexpr const char* kFormat = R"( --format 'Question: {question}\nAnswer: {answer}')";
constexpr const char* kSmall =
    " --tasks 1 --authors-per-task 1 --retain-authors 2 --epochs 2 --batch 8 --threads 1";

fs::path write_checkpoint(const char* name, std::int64_t context = 512) {
  return write_small_checkpoint(folder() / name, context);
}

std::string bytes_of(const ModelFolder& model, const std::string& name) {
  const auto place = model.find(name);
  std::string data(static_cast<std::size_t>(place->array->num_bytes()), ' ');
  place->shard->contents.read(*place->array, data.data());
  return data;
}

}  // namespace

TEST_CASE("a checkpoint is taught, unlearned in and written back", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = folder() / "out";
  const std::string command = "--model '" + checkpoint.string() + "'" + kFormat + kSmall +
                              " --teach 2 --train 'model\\.(layers\\.1|norm).*' --out '" +
                              out.string() + "'";
  const Result first = run(command);
  INFO(first.output);
  REQUIRE(first.status == 0);
  CHECK(first.says("taught 2 of 2 passes"));
  CHECK(first.says("  peak "));
  CHECK(first.says("ALKN"));

  const ModelFolder before(checkpoint), taught(out / "taught"), after(out / "model");
  CHECK(after.names() == before.names());
  CHECK(taught.names() == before.names());
  std::vector<std::string> changed, taught_changed;
  for (const std::string& name : before.names()) {
    CHECK(after.find(name)->array->dtype == before.find(name)->array->dtype);
    CHECK(after.find(name)->array->shape == before.find(name)->array->shape);
    if (bytes_of(taught, name) != bytes_of(before, name)) taught_changed.push_back(name);
    if (bytes_of(after, name) != bytes_of(taught, name)) changed.push_back(name);
  }
  std::vector<std::string> trained;
  for (const std::string& name : before.names()) {
    const bool named = name.find("model.layers.1.") == 0 || name == "model.norm.weight";
    if (named && name.find("inv_freq") == std::string::npos) trained.push_back(name);
  }
  CHECK(taught_changed == trained);
  CHECK(changed == trained);
  for (const char* file : {"config.json", "tokenizer.json", "tokenizer_config.json"}) {
    CHECK(text_of(out / "model" / file) == text_of(checkpoint / file));
  }
  const Json summary = Json::parse(text_of(out / "summary.json"));
  CHECK(summary["method"] == "ALKN");
  CHECK(summary["before"]["forgotten"].is_number());

  const std::string model = text_of(out / "model" / "model.safetensors");
  const Result again = run(command);
  CHECK(again.status == 0);
  CHECK(again.says("taught before"));
  CHECK_FALSE(again.says("passes"));
  CHECK(text_of(out / "model" / "model.safetensors") == model);
  CHECK(run(command + " --teach-lr 1e-3").says("taught 2 of 2 passes"));

  const Result further = run("--model '" + (out / "model").string() + "'" + kFormat + kSmall +
                             " --out '" + out.string() + "'");
  CHECK(further.status == 1);
  CHECK(further.output == "continual: expected --out and --cache apart from the checkpoint, got " +
                              out.string() + " (" + (out / "model").string() + ")\n");
  CHECK(fs::exists(out / "model" / "model.safetensors"));
}

TEST_CASE("blocks that run again leave the same bits", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  std::string models[2];
  for (const int again : {0, 1}) {
    const fs::path out = folder() / ("recompute" + std::to_string(again));
    const Result result = run("--model '" + checkpoint.string() + "'" + kFormat + kSmall +
                              (again == 1 ? " --recompute" : "") + " --out '" + out.string() + "'");
    INFO(result.output);
    REQUIRE(result.status == 0);
    CHECK(result.says("--recompute ") == (again == 0));  // what the plan says it would save
    models[again] = text_of(out / "model" / "model.safetensors");
  }
  CHECK(models[0] == models[1]);
}

TEST_CASE("teaching ends where the answers are known well enough", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  const Result result =
      run("--model '" + checkpoint.string() + "'" + kFormat + kSmall +
          " --teach 5 --teach-until 0.001 --out '" + (folder() / "until").string() + "'");
  CHECK(result.says("taught 1 of 5 passes"));
  CHECK_FALSE(result.says("taught 2 of 5 passes"));
}

TEST_CASE("teaching goes on where Ctrl-C or a kill ended it, to the same bits", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  const auto arguments = [&](const char* out, const char* more) {
    return "--model '" + checkpoint.string() + "'" + kFormat + kSmall + " --teach 12 --out '" +
           (folder() / out).string() + "'" + more;
  };
  REQUIRE(run(arguments("taught-whole", "")).status == 0);
  const std::string whole = text_of(folder() / "taught-whole" / "taught" / "model.safetensors");
  for (const bool killed : {false, true}) {
    const char* out = killed ? "taught-killed" : "taught-cut";
    const fs::path kept = folder() / out / "teaching.checkpoint";
    const int status = trainer::stop(
        arguments(out, killed ? " --save-every 0" : ""), killed ? SIGKILL : SIGINT, [&] {
          return text_of(trainer::child_log()).find("taught 2 of 12") != std::string::npos &&
                 (!killed || fs::exists(kept));
        });
    CHECK(status == (killed ? -1 : 130));
    REQUIRE(fs::exists(kept));
    CHECK_FALSE(fs::exists(folder() / out / "taught"));

    const Result other = run(arguments(out, " --resume --teach-lr 1e-3"));
    CHECK(other.status == 1);
    CHECK(
        other.says("continual: expected --resume with the teaching that was interrupted, lr "
                   "0.0003, got 0.001 (" +
                   (folder() / out / "teaching.json").string() + ")\n"));
    const Result resumed = run(arguments(out, " --resume"));
    INFO(resumed.output);
    REQUIRE(resumed.status == 0);
    CHECK_FALSE(resumed.says("taught 1 of 12"));
    CHECK(resumed.says("taught 12 of 12"));
    CHECK((text_of(folder() / out / "taught" / "model.safetensors") == whole));
    CHECK_FALSE(fs::exists(kept));
  }
}

TEST_CASE("micro-batches leave losses and gradients as they are", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  for (const std::string method : {"alkn", "npo+retain", "task-vector"}) {
    std::vector<Json> lines[2];
    for (const int small : {0, 1}) {
      const fs::path out = folder() / ("micro" + std::to_string(small));
      const Result result =
          run("--model '" + checkpoint.string() + "'" + kFormat + kSmall + " --method " + method +
              " --lr 1e-3 --out '" + out.string() + "'" + (small == 1 ? " --micro-batch 3" : ""));
      INFO(result.output);
      REQUIRE(result.status == 0);
      lines[small] = lines_of(out / "metrics.jsonl");
    }
    REQUIRE(lines[0].size() == lines[1].size());
    for (std::size_t i = 0; i < lines[0].size(); ++i) {
      INFO(method << ", line " << i);
      for (const char* key : {"loss", "retain_loss", "grad_norm", "forgotten", "shown"}) {
        if (!lines[0][i].contains(key)) continue;
        const auto whole = lines[0][i][key].get<double>(), parts = lines[1][i][key].get<double>();
        CHECK(parts == Approx(whole).epsilon(2e-3));
        if (i == 0) CHECK(parts == Approx(whole).epsilon(2e-6));  // nothing has moved yet
      }
    }
    // The mask comes from the retain gradient.
    CHECK(lines[1][0]["fraction_trained"].get<double>() ==
          Approx(lines[0][0]["fraction_trained"].get<double>()).epsilon(1e-3));
  }
}

TEST_CASE("a sweep shows what each strength would leave, and changes nothing", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  const auto arguments = [&](const char* out, const std::string& more) {
    return "--model '" + checkpoint.string() + "'" + kFormat + kSmall + " --lr 3e-3 --out '" +
           (folder() / out).string() + "' " + more;
  };
  const auto request = [&](const char* out) {
    return lines_of(folder() / out / "metrics.jsonl").back();
  };
  REQUIRE(run(arguments("plain", "--lambda 2")).status == 0);
  const Result swept = run(arguments("swept", "--lambda 2 --sweep 0.5,2,4"));
  INFO(swept.output);
  REQUIRE(swept.status == 0);
  CHECK((text_of(folder() / "plain" / "model" / "model.safetensors") ==
         text_of(folder() / "swept" / "model" / "model.safetensors")));
  const Json sweep = request("swept")["sweep"];
  REQUIRE(sweep.size() == 3);
  CHECK(sweep[0]["lambda"] == 0.5);
  for (const char* key : {"forgotten", "shown", "unseen", "general"}) {
    CHECK(sweep[1][key] == request("plain")[key]);  // what end(2) leaves, to the bit
  }
  CHECK(sweep[0]["forgotten"].get<double>() > sweep[1]["forgotten"].get<double>());
  CHECK(sweep[1]["forgotten"].get<double>() > sweep[2]["forgotten"].get<double>());
  CHECK(swept.says("    lambda  this request   kept, shown  kept, unseen general facts\n"));
  CHECK_FALSE(request("plain").contains("sweep"));

  // A bound between two of them is met by a lambda between theirs.
  const double bound =
      (sweep[0]["forgotten"].get<double>() + sweep[1]["forgotten"].get<double>()) / 2;
  const Result target = run(arguments("target", "--forget-until " + std::to_string(bound)));
  INFO(target.output);
  REQUIRE(target.status == 0);
  CHECK(request("target")["target_met"] == true);
  CHECK(request("target")["forgotten"].get<double>() <= bound);
  CHECK(request("target")["lambda"].get<double>() > 0.5);
  CHECK(request("target")["lambda"].get<double>() < 2);
  CHECK(target.says(": the smallest that forgets enough\n"));

  const Result bounded = run(arguments("bounded", "--forget-until 1e-12 --lambda 0.25"));
  INFO(bounded.output);
  CHECK(request("bounded")["target_met"] == false);
  CHECK(request("bounded")["lambda"] == 0.25);

  const Result none = run(arguments("none", "--forget-until 0.1 --lambda 0"));
  CHECK(none.status == 1);
  CHECK(none.output ==
        "continual: expected a largest lambda above 0 with --forget-until, got 0 (--lambda)\n");
  CHECK_FALSE(fs::exists(folder() / "none"));

  const Result guarded = run(arguments("guarded", "--forget-until 1e-12 --guard 1e-4"));
  CHECK(request("guarded")["target_met"] == false);
  CHECK(guarded.says(": none within the bounds forgets enough\n"));
  const Result ascent = run(arguments("ascent", "--method gradient-ascent --sweep 1,2"));
  CHECK(ascent.status == 1);
  CHECK(ascent.output ==
        "continual: expected a method that negates, got gradient-ascent (--sweep)\n");
  CHECK_FALSE(fs::exists(folder() / "ascent"));
}

TEST_CASE("a run says what its numbers cannot: few steps, and how long one takes", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = folder() / "warned";
  const Result result = run("--model '" + checkpoint.string() + "'" + kFormat + kSmall +
                            " --out '" + out.string() + "'");
  REQUIRE(result.status == 0);
  const std::string few =
      "6 steps, fewer than 10: they move little, and a schedule has no room in them";
  CHECK(result.says("continual: warning: ALKN: " + few + "\n"));
  CHECK(result.output.find(few) == result.output.rfind(few));  // once
  CHECK(result.says(" s a step\n"));
  const Json request = lines_of(out / "metrics.jsonl").back();
  CHECK(request["warnings"][0] == few);
  CHECK(request["seconds_a_step"].get<double>() > 0);
  const Json summary = Json::parse(text_of(out / "summary.json"));
  CHECK(summary["seconds_a_step"] == request["seconds_a_step"]);
  for (const char* when : {"before", "after"}) {  // general knowledge beside what is kept
    CHECK(summary[when]["general"].get<double>() > 0);
  }
  CHECK(result.says("general facts"));
  std::istringstream lines(result.output);
  for (std::string line; std::getline(lines, line);) {
    const bool table = line.find("continual: ") != 0 && line.find(folder().string()) > line.size();
    if (table) CHECK(line.size() <= 100);
  }
}

TEST_CASE("the paper's strengths for real models have names", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint");
  struct Expected {
    const char* preset;
    double lr;
    int epochs, batch;
  };
  for (const auto& [preset, lr, epochs, batch] :
       {Expected{"paper", 3e-5, 5, 32}, Expected{"paper-news", 3e-6, 2, 6},
        Expected{"paper-books", 3e-6, 10, 6}}) {
    const fs::path out = folder() / preset;
    const Result result =
        run("--model '" + checkpoint.string() + "'" + kFormat +
            " --tasks 1 --authors-per-task 1 --retain-authors 2 --threads 1 --preset " + preset +
            " --out '" + out.string() + "'");
    INFO(result.output);
    REQUIRE(result.status == 0);
    const Json config = Json::parse(text_of(out / "config.json"));
    CHECK(config["lr"] == lr);
    CHECK(config["lambda"] == 0.8);
    CHECK(config["epochs"] == epochs);
    CHECK(config["batch"] == batch);
    const Json last = lines_of(out / "metrics.jsonl")[1];
    CHECK(last["unmask_ratio"].get<double>() > 0);
  }
}

TEST_CASE("a dry run plans, and writes no model", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = folder() / "dry";
  const Result result = run("--model '" + checkpoint.string() + "'" + kFormat + kSmall +
                            " --teach 2 --dry-run --out '" + out.string() + "'");
  CHECK(result.status == 0);
  CHECK(result.says("memory, MiB:"));
  CHECK(result.says("  peak "));
  CHECK(result.says("--dtype bfloat16"));
  CHECK_FALSE(fs::exists(out / "model"));
  CHECK_FALSE(fs::exists(out / "taught"));
}

TEST_CASE("bfloat16 weights are trained and written in the file's type", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = folder() / "narrow";
  const Result result = run("--model '" + checkpoint.string() + "'" + kFormat + kSmall +
                            " --dtype bfloat16 --lr 0.01 --out '" + out.string() + "'");
  INFO(result.output);
  REQUIRE(result.status == 0);
  const ModelFolder after(out / "model");
  CHECK(after.find("model.norm.weight")->array->dtype == alkn::io::DType::f32);
  CHECK(bytes_of(after, "model.norm.weight") !=
        bytes_of(ModelFolder(checkpoint), "model.norm.weight"));
}

TEST_CASE("what does not fit is said before anything is written", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = folder() / "errors";
  const auto error = [&](const fs::path& folder, const std::string& more) {
    const Result result =
        run("--model '" + folder.string() + "'" + kSmall + " --out '" + out.string() + "'" + more);
    CHECK(result.status != 0);
    CHECK_FALSE(fs::exists(out / "model"));
    CHECK_FALSE(fs::exists(out / "config.json"));
    return result.output;
  };
  CHECK(error(checkpoint, "").find("continual: expected a chat template that is known") == 0);
  CHECK(error(checkpoint, std::string(kFormat) + " --train nothing")
            .find("models: expected a pattern that matches a parameter, got \"nothing\"") !=
        std::string::npos);
  CHECK(error(write_checkpoint("short", 40), kFormat)
            .find("continual: expected a prompt shorter than the context of 40 tokens") !=
        std::string::npos);
  CHECK(error(folder() / "none", kFormat) ==
        "alkn::io::ModelFolder: expected a folder, got none (" + (folder() / "none").string() +
            ")\n");
  const fs::path narrow = write_checkpoint("narrow-embedding");
  Json config = Json::parse(text_of(narrow / "config.json"));
  config["vocab_size"] = 200;
  std::ofstream(narrow / "config.json") << config;
  CHECK(error(narrow, kFormat).find("continual: expected an embedding of at least 257 rows") == 0);
  CHECK(error(checkpoint, std::string(kFormat) + " --teach-until 1.5")
            .find("expected a probability between 0 and 1, got 1.5") != std::string::npos);
}
