// Every family against transformers' logits and greedy tokens; what a checkpoint has beside them.
#include "models/heap.hpp"
#include "models/load.hpp"

#include <unistd.h>
#include <alkn/alkn.hpp>
#include <alkn/autograd/checkpointed.hpp>
#include <alkn/io/save_model.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

namespace fs = std::filesystem;
using alkn::io::ModelFolder;
using models::CausalModel;
using models::Json;

constexpr double kTolerance = 1e-4;  // of the largest absolute logit
constexpr double kMargin = 1e-3;     // tokens are compared while the best one leads by more

fs::path fixture(const std::string& name) { return fs::path(ALKN_MODEL_FIXTURES) / name; }

Json json_of(const fs::path& path) {
  std::ifstream stream(path);
  return Json::parse(stream);
}

at::Tensor tensor_of(const std::vector<std::int64_t>& tokens) {
  return at::tensor(tokens, at::kLong).unsqueeze(0);
}

/// As models::greedy, reading everything again for each token.
std::vector<std::int64_t> greedy_without_cache(CausalModel& model, std::vector<std::int64_t> tokens,
                                               std::size_t count) {
  const at::NoGradGuard no_grad;
  std::vector<std::int64_t> answer;
  while (answer.size() < count) {
    answer.push_back(
        model.forward(tensor_of(tokens)).select(1, -1).argmax(-1).item<std::int64_t>());
    tokens.push_back(answer.back());
  }
  return answer;
}

/// How many leading tokens have to be equal: up to the first that does not lead clearly.
std::size_t num_clear(const Json& margins) {
  std::size_t n = 0;
  while (n < margins.size() && margins[n].get<double>() > kMargin) ++n;
  return n;
}

void check_greedy(CausalModel& model, const Json& expected, bool with_cache) {
  const auto prompt = expected["prompt"].is_string() ? expected["tokens"] : expected["prompt"];
  const auto tokens = prompt.get<std::vector<std::int64_t>>();
  auto wanted = expected["greedy"].get<std::vector<std::int64_t>>();
  const std::size_t clear = num_clear(expected["margins"]);
  REQUIRE(clear == 50);
  auto got = with_cache ? models::greedy(model, tokens, 50)
                        : greedy_without_cache(model, tokens, wanted.size());
  CHECK(got == wanted);
}

const std::vector<std::string> kFamilies{"llama_plain",  "llama_grouped", "llama_3", "llama_3_old",
                                         "llama_linear", "qwen2",         "mistral", "phi",
                                         "gpt2",         "gpt2_bare"};

template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("logits and tokens are transformers'", "[models]") {
  for (const std::string& name : kFamilies) {
    INFO(name);
    const at::NoGradGuard no_grad;
    const Json expected = json_of(fixture(name) / "expected.json");
    const auto model = models::load(ModelFolder(fixture(name)));
    std::vector<at::Tensor> rows;
    for (const Json& row : expected["tokens"]) rows.push_back(tensor_of(row));
    const at::Tensor logits = model->forward(at::cat(rows));
    const double bound = kTolerance * expected["largest"].get<double>();
    double worst = 0;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      for (std::size_t i = 0; i < expected["positions"].size(); ++i) {
        const auto values = expected["logits"][row][i].get<std::vector<double>>();
        const at::Tensor got =
            logits[static_cast<std::int64_t>(row)][expected["positions"][i].get<std::int64_t>()];
        const at::Tensor difference = (got.to(at::kDouble) - at::tensor(values, at::kDouble)).abs();
        worst = std::max(worst, difference.max().item<double>());
      }
    }
    CHECK(worst <= bound);
    check_greedy(*model, expected, true);
    check_greedy(*model, expected, false);
  }
}

TEST_CASE("SmolLM2's logits and tokens are transformers'", "[models]") {
  if (!fs::exists(ALKN_SMOLLM2)) {
    std::puts("skipped: models/smollm2-135m is not here; `make model` puts it there");
    return;
  }
  const at::NoGradGuard no_grad;
  const auto model = models::load(ModelFolder(ALKN_SMOLLM2));
  for (const Json& expected : json_of(fixture("smollm2.json"))) {
    const at::Tensor logits = model->forward(tensor_of(expected["tokens"])).select(1, -1)[0];
    const auto [values, ids] = logits.topk(10);
    const auto wanted = expected["logits"].get<std::vector<double>>();
    CHECK(ids.equal(at::tensor(expected["ids"].get<std::vector<std::int64_t>>(), at::kLong)));
    CHECK((values.to(at::kDouble) - at::tensor(wanted, at::kDouble)).abs().max().item<double>() <=
          kTolerance * expected["largest"].get<double>());
    check_greedy(*model, expected, true);
  }
}

TEST_CASE("every folder is written back with the same bytes", "[models]") {
  const fs::path out = fs::temp_directory_path() / ("alkn-models-" + std::to_string(::getpid()));
  const auto bytes = [](const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  for (const std::string& name : kFamilies) {
    INFO(name);
    const ModelFolder folder(fixture(name));
    const auto model = models::load(folder);
    alkn::io::save_model(out, folder, model->named_parameters());
    const ModelFolder copy(out);
    CHECK(copy.names() == folder.names());
    for (const std::string& tensor : folder.names()) {
      const auto before = folder.find(tensor), after = copy.find(tensor);
      CHECK(after->shard->file == before->shard->file);
      CHECK(after->array->dtype == before->array->dtype);
      const auto read = [](const ModelFolder::Location& place) {
        std::string data(static_cast<std::size_t>(place.array->num_bytes()), ' ');
        place.shard->contents.read(*place.array, data.data());
        return data;
      };
      CHECK(read(*after) == read(*before));
    }
    CHECK(bytes(out / "config.json") == bytes(fixture(name) / "config.json"));
  }
  fs::remove_all(out);
}

TEST_CASE("a greedy answer ends before the end token", "[models]") {
  const auto model = models::load(ModelFolder(fixture("llama_plain")));
  const auto answer = models::greedy(*model, {5, 6, 7}, 20);
  REQUIRE(answer.size() == 20);
  const auto end = std::find(answer.begin(), answer.end(), answer[7]);
  CHECK(models::greedy(*model, {5, 6, 7}, 20, answer[7]) ==
        std::vector<std::int64_t>(answer.begin(), end));
}

TEST_CASE("chosen places have the logits and gradients of the whole, without what follows them",
          "[models]") {
  const at::Tensor tokens = at::arange(3, 63, at::kLong).view({3, 20});
  const at::Tensor chosen = at::tensor({9, 4, 5, 40, 58}, at::kLong);  // the second has none
  const auto close = [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).abs().max().item<double>() <= 1e-5 * std::max(1.0, b.abs().max().item<double>());
  };
  for (const std::string& name : kFamilies) {
    INFO(name);
    const auto model = models::load(ModelFolder(fixture(name)));
    const auto gradients = [&](const at::Tensor& logits) {
      model->zero_grad();
      logits.pow(2).sum().backward();
      std::vector<at::Tensor> all;
      for (const auto& item : model->named_parameters()) all.push_back(item.value().grad().clone());
      return all;
    };
    const at::Tensor whole = model->forward(tokens).flatten(0, 1).index_select(0, chosen);
    const auto wanted = gradients(whole);
    std::vector<std::int64_t> rows;
    model->set_run_block([&](models::Block&, const auto& body, const at::Tensor& x) {
      rows.push_back(x.size(0));
      return body(x);
    });
    const at::Tensor logits = model->logits(tokens, chosen);
    CHECK(std::count(rows.begin(), rows.end(), 10 + 0 + 19) == model->num_blocks());
    REQUIRE(logits.sizes() == whole.sizes());
    CHECK(close(logits, whole));
    const auto found = gradients(logits);
    for (std::size_t i = 0; i < wanted.size(); ++i) CHECK(close(found[i], wanted[i]));

    at::Tensor other = tokens.clone();
    other[0].narrow(0, 10, 10).fill_(7);
    other[1].fill_(7);
    CHECK(model->logits(other, chosen).equal(logits));
    CHECK(model->logits(tokens, at::empty({0}, at::kLong)).sizes() ==
          at::IntArrayRef({0, whole.size(1)}));
  }
}

TEST_CASE("a block may be run by another function, with its parameters known", "[models]") {
  const auto model = models::load(ModelFolder(fixture("qwen2")));
  const at::Tensor tokens = at::arange(3, 43, at::kLong).view({2, 20});
  const at::Tensor plain = model->forward(tokens).detach();
  std::vector<std::size_t> counts;
  model->set_run_block([&](models::Block& block, const auto& body, const at::Tensor& x) {
    counts.push_back(block.parameters().size());
    return body(x) + 0;
  });
  CHECK(model->forward(tokens).detach().equal(plain));
  CHECK(counts == std::vector<std::size_t>{12, 12});  // qwen2's: 3 biases, 7 matrices, 2 norms
}

TEST_CASE("blocks that run again in the backward pass have the gradients of the run without",
          "[models]") {
  for (const std::string& name : kFamilies) {
    INFO(name);
    const at::Tensor tokens = at::arange(3, 43, at::kLong).view({2, 20});
    at::Tensor labels = tokens.clone();
    labels[1].narrow(0, 12, 8).fill_(-100);
    const auto gradients = [&](bool again) {
      const auto model = models::load(ModelFolder(fixture(name)));
      if (again) {
        model->set_run_block([](models::Block& block, const auto& body, const at::Tensor& x) {
          return alkn::checkpointed(body, block.parameters(), x);
        });
      }
      const at::Tensor logits = model->logits(tokens, alkn::answer_rows(labels));
      alkn::mean_nll(logits, labels).backward();
      std::vector<at::Tensor> all;
      for (const auto& item : model->named_parameters()) all.push_back(item.value().grad());
      return all;
    };
    const auto with = gradients(true), without = gradients(false);
    for (std::size_t i = 0; i < with.size(); ++i) CHECK(with[i].equal(without[i]));
  }
}

TEST_CASE("freed memory stays until it is returned", "[models]") {
  constexpr std::size_t kBlock = 200 << 20;
  const auto resident = [] {
    std::ifstream stream("/proc/self/statm");
    std::size_t all = 0, pages = 0;
    stream >> all >> pages;
    return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  };
  models::keep_freed_memory();
  const std::size_t before = resident();
  std::optional<std::vector<char>> block(std::in_place, kBlock, '1');
  REQUIRE(resident() > before + kBlock / 2);
  block.reset();
#if defined(__GLIBC__)
  CHECK(resident() > before + kBlock / 2);
#endif
  models::return_freed_memory();
  CHECK(resident() < before + kBlock / 2);
}

TEST_CASE("norms have their own epsilon, and the RMS norm's quotient is float32", "[models]") {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::tensor({0.01, -0.02, 0.03, 0.02}, at::kFloat).view({1, 1, 4});
  for (const double epsilon : {1e-6, 1e-3}) {
    models::RmsNorm rms(4, epsilon, at::kFloat);
    rms.weight.fill_(2);
    const at::Tensor wanted = 2 * x / std::sqrt(4.5e-4 + epsilon);  // the mean of the squares
    CHECK((rms.forward(x) - wanted).abs().max().item<double>() < 1e-5);
    models::LayerNorm layer(4, epsilon, at::kFloat);
    layer.weight.fill_(2);
    layer.bias.fill_(3);
    const at::Tensor moved = x - 0.01;
    const at::Tensor centred = 2 * moved / std::sqrt(3.5e-4 + epsilon) + 3;
    CHECK((layer.forward(x) - centred).abs().max().item<double>() < 1e-5);
  }
  const at::Tensor large = at::arange(1, 65, at::kFloat).mul(3).to(at::kBFloat16);
  models::RmsNorm half(64, 1e-6, at::kBFloat16);
  half.weight.fill_(1);
  const at::Tensor wide = large.to(at::kFloat);
  const at::Tensor wanted = wide * at::rsqrt(wide.pow(2).mean() + 1e-6);
  CHECK(half.forward(large).equal(wanted.to(at::kBFloat16)));
}

TEST_CASE("angles are float32 whatever the model's type", "[models]") {
  models::Config config;
  config.head_size = 8;
  const at::Tensor frequencies = models::rope_frequencies(config);
  const auto tables = models::rope_tables(frequencies, 999, 2, at::kBFloat16);
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t i = 0; i < 8; ++i) {
      const auto position = static_cast<double>(999 + row);
      const double angle = position * std::pow(10000.0, -static_cast<double>(i % 4) / 4);
      // bfloat16 has eight bits; a position in it would be wrong by two
      CHECK(std::abs(tables.cos[row][i].item<double>() - std::cos(angle)) < 4e-3);
      CHECK(std::abs(tables.sin[row][i].item<double>() - std::sin(angle)) < 4e-3);
    }
  }
}

TEST_CASE("what the fixtures leave out: a head of its own, kept buffers, bfloat16", "[models]") {
  const at::NoGradGuard no_grad;
  const fs::path path = fs::temp_directory_path() / ("alkn-models-" + std::to_string(::getpid()));
  fs::create_directories(path);
  const auto write = [&](const std::string& name, const alkn::io::NamedTensors& tensors,
                         const Json& changes) {
    alkn::io::save_tensors(path / "model.safetensors", tensors);
    Json config = json_of(fixture(name) / "config.json");
    config.update(changes);
    std::ofstream(path / "config.json") << config;
  };
  const at::Tensor tokens = at::arange(3, 13, at::kLong).view({1, 10});
  {
    auto tensors = alkn::io::load_tensors(fixture("gpt2") / "model.safetensors");
    const auto tied = models::load(ModelFolder(fixture("gpt2")));
    const at::Tensor embedding = tied->named_parameters()["lm_head.weight"];
    tensors.emplace_back("lm_head.weight", embedding.mul(2));
    write("gpt2", tensors, {{"tie_word_embeddings", false}});
    const auto model = models::load(ModelFolder(path));
    CHECK(model->forward(tokens).equal(tied->forward(tokens).mul(2)));
  }
  {
    auto tensors = alkn::io::load_tensors(fixture("phi") / "model.safetensors");
    tensors.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::ones({2}));
    write("phi", tensors, Json::object());
    const auto model = models::load(ModelFolder(path));
    const auto plain = models::load(ModelFolder(fixture("phi")));
    CHECK(model->forward(tokens).equal(plain->forward(tokens)));
  }
  fs::remove_all(path);
  for (const std::string& name : kFamilies) {
    INFO(name);
    const auto half = models::load(ModelFolder(fixture(name)), at::kBFloat16);
    for (const auto& item : half->named_parameters()) {
      CHECK(item.value().scalar_type() == at::kBFloat16);
    }
    const at::Tensor logits = half->forward(tokens);
    CHECK(logits.scalar_type() == at::kBFloat16);
    const at::Tensor wide = models::load(ModelFolder(fixture(name)))->forward(tokens);
    CHECK((logits.to(at::kFloat) - wide).abs().max().item<double>() <
          0.1 * wide.abs().max().item<double>());
  }
}

TEST_CASE("only the named parameters are trained", "[models]") {
  const auto model = models::load(ModelFolder(fixture("llama_grouped")));
  CHECK(models::train_only(*model, R"(model\.layers\.1\..*norm.*)") == 64);
  std::vector<std::string> trained;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) trained.push_back(item.key());
  }
  CHECK(trained == std::vector<std::string>{"model.layers.1.input_layernorm.weight",
                                            "model.layers.1.post_attention_layernorm.weight"});
  CHECK(
      error_of([&] { models::train_only(*model, "layers"); }) ==
      "models: expected a pattern that matches a parameter, got \"layers\" (parameters are called "
      "\"model.embed_tokens.weight\" and so on)");
  CHECK(error_of([&] {
          models::train_only(*model, "(");
        }).find("models: expected a regular expression, got \"(\": ") == 0);
  models::train_only(*model, R"(lm_head\.weight)");  // tied
  CHECK(model->named_parameters()["model.embed_tokens.weight"].requires_grad());
}

TEST_CASE("what a model cannot do is said", "[models]") {
  const auto model = models::load(ModelFolder(fixture("mistral")));
  CHECK(error_of([&] {
          model->forward(at::full({1, 81}, 3, at::kLong));
        }) == "models::CausalModel: expected at most 80 tokens (sliding_window), got 81");
  models::KeyValueCache cache;
  model->forward(at::full({1, 3}, 3, at::kLong), &cache);
  CHECK(error_of([&] {
          model->forward(at::full({1, 2}, 3, at::kLong), &cache);
        }) == "models::CausalModel: expected one token after the first, got 2");
  cache = {};
  model->forward(at::full({1, 80}, 3, at::kLong), &cache);
  CHECK(error_of([&] {
          model->forward(at::full({1, 1}, 3, at::kLong), &cache);
        }) == "models::CausalModel: expected at most 80 tokens (sliding_window), got 81");

  const fs::path path = fs::temp_directory_path() / ("alkn-models-" + std::to_string(::getpid()));
  fs::create_directories(path);
  auto tensors = alkn::io::load_tensors(fixture("llama_plain") / "model.safetensors");
  tensors.emplace_back("model.layers.0.self_attn.rotary", at::full({1}, 1.0, at::kFloat));
  alkn::io::save_tensors(path / "model.safetensors", tensors);
  Json config = json_of(fixture("llama_plain") / "config.json");
  config["vocab_size"] = 97;
  std::ofstream(path / "config.json") << config;
  CHECK(error_of([&] { models::load(ModelFolder(path)); }) ==
        "alkn::io::load_model: expected the model's names and shapes, got unused "
        "\"model.layers.0.self_attn.rotary\"; misfitting \"lm_head.weight\" F32 [96, 32] for Float "
        "[97, 32], \"model.embed_tokens.weight\" F32 [96, 32] for Float [97, 32] (" +
            path.string() + ")");
  fs::remove_all(path);
}

TEST_CASE("the page's twenty lines unlearn in a checkpoint", "[models]") {
  const fs::path checkpoint = fixture("llama_grouped");
  const fs::path out = fs::temp_directory_path() / ("alkn-own-" + std::to_string(::getpid()));
  const at::Tensor tokens = at::arange(3, 43, at::kLong).view({2, 20});
  const struct Batch {
    at::Tensor ids, tokens, labels;
  } batch{at::arange(0, 2, at::kLong), tokens,
          tokens.clone().index_fill_(1, at::arange(0, 8, at::kLong), -100)};
  const std::vector<Batch> forget{batch}, retain{{batch.ids, tokens.flip(1), batch.labels.flip(1)}};
  // [load]
  const alkn::io::ModelFolder folder(checkpoint);
  const auto model = models::load(folder);             // float32, whatever the file has
  models::train_only(*model, R"(model\.layers\..*)");  // or leave it out, to train all
  model->set_run_block([](models::Block& block, const auto& body, const at::Tensor& x) {
    return alkn::checkpointed(body, block.parameters(), x);  // less memory, a third more time
  });
  const auto loss_rows = [&](const Batch& b) {  // logits of the answers alone
    return model->logits(b.tokens, alkn::answer_rows(b.labels));
  };
  // [load]
  // [unlearn]
  std::vector<alkn::NamedParameter> trained;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) trained.push_back({item.key(), item.value()});
  }
  alkn::ALKN<> unlearner(trained, alkn::ALKNOptions(), alkn::AdamWOptions(3e-5));
  auto task = unlearner.begin_task({.steps = 10});
  for (const Batch& b : forget) task.remember(b.ids, loss_rows(b).detach(), b.labels);
  for (const Batch& b : retain) {
    task.accumulate_retain_gradient(alkn::mean_nll(loss_rows(b), b.labels));
  }
  for (int step = 0; step < 10; ++step) {
    const Batch& b = forget[static_cast<std::size_t>(step) % forget.size()];
    unlearner.zero_grad();
    task.loss(b.ids, loss_rows(b), b.labels).backward();
    unlearner.step();
  }
  task.end(4.0);  // lambda
  alkn::io::save_model(out, folder, model->named_parameters());
  // [unlearn]
  const ModelFolder written(out);
  CHECK(written.names() == folder.names());
  const auto read = [](const ModelFolder& from, const std::string& name) {
    const auto place = from.find(name);
    return alkn::io::read_tensor(place->shard->contents, *place->array);
  };
  for (const std::string& name : folder.names()) {
    INFO(name);
    const bool may_change = name.find("model.layers.") == 0;
    CHECK((may_change || read(written, name).equal(read(folder, name))));
  }
  const std::string matrix = "model.layers.0.mlp.up_proj.weight";
  CHECK_FALSE(
      model->named_parameters()[matrix].detach().equal(read(folder, matrix).to(at::kFloat)));
  fs::remove_all(out);
}
