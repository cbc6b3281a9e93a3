// A model's folder: read into a module and written back, in one file and in shards; what does not
// fit is reported all at once, and a folder is there whole or not at all.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/nn/module.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "alkn/io/load_model.hpp"
#include "alkn/io/save_model.hpp"
#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using alkn::io::ModelFolder;
using Named = std::vector<std::pair<std::string, at::Tensor>>;

class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("alkn-folder-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    files[fs::relative(entry.path(), folder).string()] =
        entry.is_regular_file() ? text_of(entry.path()) : "";
  }
  return files;
}

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// The message, with the scratch folder's path as "~".
template <class Body>
std::string error_of(const Scratch& scratch, const Body& body) {
  std::string text = "no error";
  try {
    body();
  } catch (const std::exception& error) {
    text = error.what();
  }
  for (auto at = text.find(scratch.path().string()); at != std::string::npos;
       at = text.find(scratch.path().string())) {
    text.replace(at, scratch.path().string().size(), "~");
  }
  return text;
}

at::Tensor values(at::IntArrayRef shape, double first, at::ScalarType type = at::kFloat) {
  std::int64_t n = 1;
  for (const auto extent : shape) n *= extent;
  return at::arange(n, at::kDouble).add(first).to(type).view(shape);
}

/// Two shards, with a buffer of another program and an integer.
void write_shards(const fs::path& folder) {
  fs::create_directories(folder);
  alkn::io::save_tensors(
      folder / "model-00001-of-00002.safetensors",
      {{"embed.weight", values({4, 2}, 1, at::kBFloat16)}, {"ids", values({3}, 0, at::kLong)}},
      {{"format", "pt"}, {"note", "kept"}});
  alkn::io::save_tensors(folder / "model-00002-of-00002.safetensors",
                         {{"inv_freq", values({2}, 7)}, {"layer.weight", values({2, 3}, 10)}});
  put(folder / "model.safetensors.index.json",
      R"({"metadata": {"total_size": 1, "other": 5}, "weight_map": {
          "layer.weight": "model-00002-of-00002.safetensors",
          "embed.weight": "model-00001-of-00002.safetensors",
          "ids": "model-00001-of-00002.safetensors",
          "inv_freq": "model-00002-of-00002.safetensors"}})");
  put(folder / "config.json", "{\"a\": 1}");
  put(folder / "tokenizer.json", "{}");
}

bool is_buffer(std::string_view name) { return name == "inv_freq"; }

}  // namespace

TEST_CASE("shards are read into a model's tensors and written back as they were",
          "[model_folder]") {
  const Scratch scratch;
  write_shards(scratch / "in");
  const ModelFolder folder(scratch / "in");
  CHECK(folder.num_bytes() == 16 + 24 + 8 + 24);

  const at::Tensor embed = at::zeros({4, 2}, at::kFloat);
  const Named model{{"embed.weight", embed},
                    {"head.weight", embed},  // tied: absent from the folder
                    {"layer.weight", at::zeros({3, 2}, at::kFloat).t()}};
  const auto report = alkn::io::load_model(folder, model, is_buffer);
  CHECK(report.loaded == std::vector<std::string>{"embed.weight", "layer.weight"});
  CHECK(report.skipped == std::vector<std::string>{"ids"});
  CHECK(embed.equal(values({4, 2}, 1)));
  CHECK(model[2].second.equal(values({2, 3}, 10)));

  embed.fill_(1.0 + 1.0 / 512);  // rounds to 1 in bfloat16
  model[2].second.fill_(-3);
  alkn::io::save_model(scratch / "out", folder, model);
  const ModelFolder out(scratch / "out");
  CHECK(files_of(scratch / "out").size() == 5);
  CHECK(text_of(scratch / "out/config.json") == "{\"a\": 1}");
  REQUIRE(out.shards().size() == 2);
  for (std::size_t s = 0; s < 2; ++s) {
    CHECK(out.shards()[s].file == folder.shards()[s].file);
    const auto& before = folder.shards()[s].contents.arrays();
    const auto& after = out.shards()[s].contents.arrays();
    REQUIRE(after.size() == before.size());
    for (std::size_t a = 0; a < after.size(); ++a) {
      CHECK(after[a].name == before[a].name);
      CHECK(after[a].dtype == before[a].dtype);
      CHECK(after[a].shape == before[a].shape);
    }
  }
  CHECK(out.shards()[0].contents.metadata() ==
        alkn::io::Metadata{{"format", "pt"}, {"note", "kept"}});
  CHECK(out.shards()[1].contents.metadata() == alkn::io::Metadata{{"format", "pt"}});
  CHECK(out.index()->at("metadata") == nlohmann::ordered_json{{"total_size", 72}, {"other", 5}});
  CHECK(out.index()->at("weight_map").size() == 4);
  const auto read = [&](const char* name) {
    const auto place = out.find(name);
    return alkn::io::read_tensor(place->shard->contents, *place->array);
  };
  CHECK(read("embed.weight").equal(at::full({4, 2}, 1.0, at::kBFloat16)));
  CHECK(read("layer.weight").equal(at::full({2, 3}, -3.0, at::kFloat)));
  CHECK(read("inv_freq").equal(values({2}, 7)));
  CHECK(read("ids").equal(values({3}, 0, at::kLong)));
}

TEST_CASE("a single file is a model too, given as a folder or as the file", "[model_folder]") {
  const Scratch scratch;
  fs::create_directories(scratch / "in");
  alkn::io::save_tensors(scratch / "in/model.safetensors", {{"w", values({3}, 1, at::kHalf)}});
  put(scratch / "in/model.safetensors.index.json", "not read: there is a single file");
  put(scratch / "in/pytorch_model.bin", "not copied");
  for (const char* path : {"in", "in/model.safetensors"}) {
    const ModelFolder folder(scratch / path);
    const Named model{{"w", at::zeros({3}, at::kDouble)}};
    alkn::io::load_model(folder, model);
    CHECK(model[0].second.equal(values({3}, 1, at::kDouble)));
    alkn::io::save_model(scratch / "in", folder, model);  // over itself
    CHECK(files_of(scratch.path()).size() == 2);
  }
  CHECK(error_of(scratch, [&] { ModelFolder folder(scratch / "none"); }) ==
        "alkn::io::ModelFolder: expected a folder, got none (~/none)");
}

TEST_CASE("everything that does not fit is reported at once, before anything is loaded",
          "[model_folder]") {
  const Scratch scratch;
  write_shards(scratch / "in");
  const ModelFolder folder(scratch / "in");
  const at::Tensor embed = at::zeros({4, 2}, at::kFloat);
  const Named model{{"embed.weight", embed},
                    {"gone.b", at::zeros({1}, at::kFloat)},
                    {"gone.a", at::zeros({1}, at::kFloat)},
                    {"ids", at::zeros({3}, at::kInt)},
                    {"layer.weight", at::zeros({3, 2}, at::kFloat)}};
  const std::string report =
      "missing \"gone.a\", \"gone.b\"; unused \"inv_freq\"; misfitting \"ids\" I64 [3] for Int "
      "[3], \"layer.weight\" F32 [2, 3] for Float [3, 2]";
  CHECK(error_of(scratch, [&] { alkn::io::load_model(folder, model); }) ==
        "alkn::io::load_model: expected the model's names and shapes, got " + report + " (~/in)");
  CHECK(embed.equal(at::zeros({4, 2}, at::kFloat)));
  CHECK(alkn::io::compare_model(folder, model).text() == report);
  CHECK(error_of(scratch, [&] { alkn::io::save_model(scratch / "out", folder, model); }) ==
        "alkn::io::save_model: expected the names and shapes of ~/in, got missing \"gone.a\", "
        "\"gone.b\"; misfitting \"ids\" I64 [3] for Int [3], \"layer.weight\" F32 [2, 3] for Float "
        "[3, 2] (~/out)");
  CHECK_FALSE(fs::exists(scratch / "out"));

  const at::Tensor tied = at::zeros({2}, at::kFloat);
  fs::create_directories(scratch / "tied");
  alkn::io::save_tensors(scratch / "tied/model.safetensors",
                         {{"a", values({2}, 1)}, {"b", values({2}, 2)}});
  CHECK(error_of(
            scratch,
            [&] {
              alkn::io::load_model(ModelFolder(scratch / "tied"), Named{{"a", tied}, {"b", tied}});
            }) ==
        "alkn::io::load_model: expected the model's names and shapes, got misfitting \"b\", which "
        "the model ties to \"a\", with other values (~/tied)");
}

TEST_CASE("a folder that is no model says what is wrong with it", "[model_folder]") {
  const Scratch scratch;
  const auto open_error = [&](const char* path) {
    return error_of(scratch, [&] { ModelFolder folder(scratch / path); });
  };
  const std::string name = "alkn::io::ModelFolder: expected ";
  write_shards(scratch / "in");
  CHECK(open_error("in/model.safetensors.index.json") ==
        name +
            "a folder, got an index of shards: give the folder "
            "(~/in/model.safetensors.index.json)");
  CHECK(open_error("in/config.json") ==
        name + "a folder, got a JSON file: give the folder (~/in/config.json)");

  fs::create_directories(scratch / "empty");
  CHECK(open_error("empty") ==
        name + "model.safetensors or model.safetensors.index.json, got neither (~/empty)");
  put(scratch / "empty/pytorch_model.bin", "");
  CHECK(open_error("empty") == name +
                                   "model.safetensors or model.safetensors.index.json, got "
                                   "pytorch_model.bin alone: transformers' save_pretrained "
                                   "writes safetensors (~/empty)");

  const fs::path index = scratch / "in/model.safetensors.index.json";
  put(index, R"({"weight_map": {"ids": "model-00001-of-00002.safetensors", "x": "model-00001-of-)"
             R"(00002.safetensors", "layer.weight": "model-00001-of-00002.safetensors"}})");
  CHECK(open_error("in") == name +
                                "tensors that lie in the shards named for them, got an index "
                                "that names \"layer.weight\", \"x\" "
                                "(~/in/model.safetensors.index.json)");
  put(index, R"({"weight_map": {"a": "b.safetensors", "b": "a.safetensors"}})");
  CHECK(open_error("in") == name +
                                "every shard that the index names, got no \"a.safetensors\", "
                                "\"b.safetensors\" (~/in/model.safetensors.index.json)");
  put(index, R"({"weight_map": {"a": "../a.safetensors"}})");
  CHECK(open_error("in") == name +
                                "names of files in the folder itself, got "
                                "\"../a.safetensors\" (~/in/model.safetensors.index.json)");
  for (const char* text : {"[]", R"({"weight_map": 1})", R"({"weight_map": {"a": 1}})"}) {
    put(index, text);
    CHECK(open_error("in") == name +
                                  "an index in JSON with a weight_map from names to files, got "
                                  "another text (~/in/model.safetensors.index.json)");
  }
  put(index, "{\"weight_map\": ");
  CHECK(open_error("in") == name +
                                "complete JSON, got the end after 15 bytes "
                                "(~/in/model.safetensors.index.json)");
  put(index, R"({"weight_map": {"a": "b", "a": "c"}})");
  CHECK(open_error("in") ==
        name + "every key once, got \"a\" twice (~/in/model.safetensors.index.json)");
  put(index, std::string("{}\0{}", 5));
  CHECK(open_error("in") ==
        name + "JSON, got \"\\x00\" at byte 3 (~/in/model.safetensors.index.json)");
  fs::copy(scratch / "in/model-00001-of-00002.safetensors", scratch / "in/copy.safetensors");
  put(index, R"({"weight_map": {"ids": "model-00001-of-00002.safetensors", "embed.weight": )"
             R"("copy.safetensors"}})");
  CHECK(open_error("in") == name + "every name in one shard, got \"ids\" in two of them (~/in)");
}

TEST_CASE("a folder that cannot be written leaves everything as it was", "[model_folder]") {
  const Scratch scratch;
  write_shards(scratch / "in");
  const ModelFolder folder(scratch / "in");
  const Named model{{"layer.weight", at::full({2, 3}, 5.0, at::kFloat)},
                    {"embed.weight", at::full({4, 2}, 5.0, at::kDouble)}};
  put(scratch / "file", "text");
  CHECK(error_of(scratch, [&] { alkn::io::save_model(scratch / "file", folder, model); }) ==
        "alkn::io::AtomicFolder: expected no folder, or one with files of a model alone, got a "
        "file (~/file)");
  CHECK(error_of(scratch, [&] { alkn::io::save_model(scratch / "file/out", folder, model); }) ==
        "alkn::io::AtomicFolder: expected a writable folder for ~/file/out, got: Not a directory");
  fs::create_directories(scratch / "mine");
  put(scratch / "mine/thesis.tex", "text");
  CHECK(error_of(scratch, [&] { alkn::io::save_model(scratch / "mine", folder, model); }) ==
        "alkn::io::AtomicFolder: expected no folder, or one with files of a model alone, got "
        "\"thesis.tex\" in it (~/mine)");

  alkn::io::save_model(scratch / "out", folder, model);
  const auto before = files_of(scratch.path());
  model[1].second.fill_(1e39);
  CHECK(error_of(scratch, [&] { alkn::io::save_model(scratch / "out", folder, model); }) ==
        "alkn::io::save_model: expected finite values in BF16, got infinity or NaN in "
        "\"embed.weight\" (~/out)");
  CHECK(files_of(scratch.path()) == before);
}

TEST_CASE("a full disk, or a kill while writing, leaves the old folder whole", "[model_folder]") {
  const Scratch scratch;
  fs::create_directories(scratch / "in");
  put(scratch / "in/config.json", "{}");
  alkn::io::save_tensors(scratch / "in/model.safetensors",
                         {{"a", values({100'000}, 0)}, {"b", values({100'000}, 1)}});
  const ModelFolder folder(scratch / "in");
  Named model{{"a", at::full({100'000}, 5.0, at::kFloat)}};
  alkn::io::save_model(scratch / "out", folder, model);
  const auto before = files_of(scratch.path());
  model[0].second.fill_(6);
  for (const bool killed : {false, true}) {
    const ::pid_t child = ::fork();
    if (child == 0) {
      const struct ::rlimit half { 500'000, 500'000 };
      ::setrlimit(RLIMIT_FSIZE, &half);
      std::signal(SIGXFSZ, killed ? SIG_DFL : SIG_IGN);
      const std::string error =
          error_of(scratch, [&] { alkn::io::save_model(scratch / "out", folder, model); });
      const bool expected = error.find("bytes to ~/.alkn-") != std::string::npos &&
                            error.find("got: File too large") != std::string::npos;
      ::_exit(expected ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0));
    auto after = files_of(scratch.path());
    std::erase_if(after, [](const auto& file) { return file.first.rfind(".alkn-", 0) == 0; });
    CHECK(after == before);
    if (!killed) CHECK(files_of(scratch.path()) == before);
  }
  alkn::io::save_model(scratch / "out", folder, model);
  for (const auto& file : files_of(scratch.path())) {  // what the killed one left is gone
    CHECK(file.first.rfind(".alkn-", 0) != 0);
  }
  const ModelFolder out(scratch / "out");
  CHECK(alkn::io::read_tensor(out.find("a")->shard->contents, *out.find("a")->array)
            .equal(model[0].second));
}
