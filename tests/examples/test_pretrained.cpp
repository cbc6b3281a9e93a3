// `continual --model FOLDER` as a user runs it, on a small random checkpoint.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "alkn/io/model_folder.hpp"
#include "alkn/io/safetensors.hpp"
#include "catch.hpp"

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

/// UTF-8 of a code point below U+0800.
std::string utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

/// Byte-level BPE without a merge: a token for each byte, under the letter that stands for it.
Json tokenizer() {
  Json vocabulary = Json::object();
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    vocabulary[utf8(shown ? byte : next++)] = byte;
  }
  const Json byte_level{{"type", "ByteLevel"},
                        {"add_prefix_space", false},
                        {"trim_offsets", true},
                        {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 256},
             {"content", "<|end|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", Json::array()}}}};
}

/// A Llama of two layers with a tied head; a buffer of another program beside it.
fs::path write_checkpoint(const char* name, std::int64_t context = 512) {
  const fs::path folder = scratch() / name;
  fs::create_directories(folder);
  constexpr std::int64_t kHidden = 32, kInner = 48, kVocabulary = 260;
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0.0F, 0.1F);
  std::vector<std::vector<float>> values;
  std::vector<alkn::io::ArrayView> arrays;
  const auto add = [&](const std::string& tensor, const std::vector<std::int64_t>& shape) {
    std::int64_t n = 1;
    for (const auto extent : shape) n *= extent;
    values.emplace_back(static_cast<std::size_t>(n));
    for (float& value : values.back()) value = shape.size() == 1 ? 1.0F : normal(engine);
    arrays.push_back({tensor, alkn::io::DType::f32, shape, values.back().data(), 4 * n});
  };
  add("model.embed_tokens.weight", {kVocabulary, kHidden});
  add("model.norm.weight", {kHidden});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* matrix : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      add(layer + "self_attn." + matrix + ".weight", {kHidden, kHidden});
    }
    add(layer + "self_attn.rotary_emb.inv_freq", {4});
    add(layer + "mlp.gate_proj.weight", {kInner, kHidden});
    add(layer + "mlp.up_proj.weight", {kInner, kHidden});
    add(layer + "mlp.down_proj.weight", {kHidden, kInner});
    add(layer + "input_layernorm.weight", {kHidden});
    add(layer + "post_attention_layernorm.weight", {kHidden});
  }
  alkn::io::save_safetensors(folder / "model.safetensors", arrays, {{"format", "pt"}});
  const Json config{{"model_type", "llama"},
                    {"vocab_size", kVocabulary},
                    {"hidden_size", kHidden},
                    {"intermediate_size", kInner},
                    {"num_hidden_layers", 2},
                    {"num_attention_heads", 4},
                    {"max_position_embeddings", context},
                    {"tie_word_embeddings", true}};
  std::ofstream(folder / "config.json") << config;
  std::ofstream(folder / "tokenizer.json") << tokenizer();
  std::ofstream(folder / "tokenizer_config.json") << Json{{"eos_token", "<|end|>"}};
  return folder;
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
