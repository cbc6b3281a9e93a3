// `continual --model FOLDER` as a user runs it, on a small random checkpoint.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "alkn/io/model_folder.hpp"
#include "catch.hpp"
#include "small_checkpoint.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using alkn::io::ModelFolder;

const fs::path& scratch() {
  static const struct Folder {
    fs::path path = fs::temp_directory_path() / ("pretrained-e2e-" + std::to_string(::getpid()));
    Folder() { fs::create_directories(path); }
    ~Folder() { fs::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
  } kept;
  return kept.path;
}

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct Result {
  int status = 0;
  std::string output;  ///< of both streams

  [[nodiscard]] bool says(const std::string& text) const {
    return output.find(text) != std::string::npos;
  }
};

constexpr const char* kFormat = R"( --format 'Question: {question}\nAnswer: {answer}')";
constexpr const char* kSmall =
    " --tasks 1 --authors-per-task 1 --retain-authors 2 --epochs 2 --batch 8 --threads 1";

Result run(const std::string& arguments) {
  const fs::path log = scratch() / "log.txt";
  const std::string command =
      "'" ALKN_CONTINUAL "' " + arguments + " > '" + log.string() + "' 2>&1";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(log)};
}

fs::path write_checkpoint(const char* name, std::int64_t context = 512) {
  return write_small_checkpoint(scratch() / name, context);
}

std::string bytes_of(const ModelFolder& folder, const std::string& name) {
  const auto place = folder.find(name);
  std::string data(static_cast<std::size_t>(place->array->num_bytes()), ' ');
  place->shard->contents.read(*place->array, data.data());
  return data;
}

}  // namespace

TEST_CASE("a checkpoint is taught, unlearned in and written back", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = scratch() / "out";
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
    const fs::path out = scratch() / ("recompute" + std::to_string(again));
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
          " --teach 5 --teach-until 0.001 --out '" + (scratch() / "until").string() + "'");
  CHECK(result.says("taught 1 of 5 passes"));
  CHECK_FALSE(result.says("taught 2 of 5 passes"));
}

TEST_CASE("a dry run plans, and writes no model", "[pretrained]") {
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = scratch() / "dry";
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
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = scratch() / "narrow";
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
  const fs::path checkpoint = write_checkpoint("checkpoint"), out = scratch() / "errors";
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
  CHECK(error(scratch() / "none", kFormat) ==
        "alkn::io::ModelFolder: expected a folder, got none (" + (scratch() / "none").string() +
            ")\n");
  const fs::path narrow = write_checkpoint("narrow-embedding");
  Json config = Json::parse(text_of(narrow / "config.json"));
  config["vocab_size"] = 200;
  std::ofstream(narrow / "config.json") << config;
  CHECK(error(narrow, kFormat).find("continual: expected an embedding of at least 257 rows") == 0);
  CHECK(error(checkpoint, std::string(kFormat) + " --teach-until 1.5")
            .find("expected a probability between 0 and 1, got 1.5") != std::string::npos);
}
