// The example's batches and model.
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "continual/author_generator.hpp"
#include "continual/batch.hpp"
#include "continual/evaluate.hpp"
#include "continual/model.hpp"
#include "continual/run_folder.hpp"
#include "continual/tokenizer.hpp"

// Last: LibTorch has a CHECK of its own.
#include "catch.hpp"

namespace {

using continual::Samples;
using continual::Tokenizer;
using continual::Transformer;

constexpr std::int64_t kContext = 64;

const Tokenizer& tokenizer() {
  static const Tokenizer trained = [] {
    std::vector<std::string> texts;
    for (const auto& author : continual::generate_authors(1, 6)) {
      for (const auto& pair : author.pairs) {
        texts.push_back(pair.question);
        texts.push_back(pair.answer);
      }
    }
    return Tokenizer::train(texts, 500);
  }();
  return trained;
}

Samples samples() {
  Samples all;
  for (const auto& author : continual::generate_authors(1, 6)) {
    const auto encoded = continual::encode_pairs(tokenizer(), author.pairs, kContext);
    all.insert(all.end(), encoded.begin(), encoded.end());
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].id = static_cast<std::int64_t>(i);
  }
  return all;
}

std::shared_ptr<Transformer> model() {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(3);
  continual::ModelConfig config;
  config.vocabulary = tokenizer().size();
  config.context = kContext;
  return std::make_shared<Transformer>(config);
}

/// A file that is gone after the test.
struct TemporaryFile {
  std::filesystem::path path = std::filesystem::temp_directory_path() /
                               ("test-model-" + std::to_string(::getpid()) + ".safetensors");
  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { std::filesystem::remove(path); }
};

std::string bytes_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().contiguous();
  return {static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()};
}

}  // namespace

TEST_CASE("labels count the answer and its end, nothing else", "[batch]") {
  const auto sample = continual::encode_pair(tokenizer(), {"Who?", "Nobody."}, kContext);
  const auto question = tokenizer().encode("Who?");
  const auto answer = tokenizer().encode("Nobody.");
  std::vector<std::int64_t> tokens{Tokenizer::kBegin};
  tokens.insert(tokens.end(), question.begin(), question.end());
  tokens.push_back(Tokenizer::kAnswer);
  std::vector<std::int64_t> labels(tokens.size(), continual::kNotCounted);
  for (auto* list : {&tokens, &labels}) {
    list->insert(list->end(), answer.begin(), answer.end());
    list->push_back(Tokenizer::kEnd);
  }
  CHECK(sample.tokens == tokens);
  CHECK(sample.labels == labels);
  CHECK_FALSE(sample.cut);
  const auto prompt = static_cast<std::ptrdiff_t>(question.size()) + 2;
  const auto cut = continual::encode_pair(tokenizer(), {"Who?", "Nobody."}, prompt + 1);
  CHECK(cut.tokens == std::vector<std::int64_t>(tokens.begin(), tokens.begin() + prompt + 1));
  CHECK(cut.labels == std::vector<std::int64_t>(labels.begin(), labels.begin() + prompt + 1));
  CHECK(cut.cut);
  // Nothing of the answer would be left.
  const auto error_of = [&](const std::string& where) -> std::string {
    try {
      continual::encode_pair(tokenizer(), {"Who?", "Nobody.", where}, prompt);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string error = "continual: expected a question of at most " +
                            std::to_string(prompt - 3) + " tokens, got " +
                            std::to_string(question.size());
  CHECK(error_of("file.json, line 7") == error + " (file.json, line 7)");
  CHECK(error_of("") == error + " (\"Who?\")");
}

TEST_CASE("plain text is cut into chunks that cover it", "[batch]") {
  const std::vector<continual::Pair> text{{"", "one two three four five six"}, {"", "seven"}};
  const auto chunks = continual::encode_text(tokenizer(), text, 5, 100);
  std::vector<std::int64_t> all;
  for (const auto& chunk : chunks) {
    CHECK(chunk.tokens.front() == Tokenizer::kBegin);
    CHECK(chunk.tokens.size() <= 6);
    CHECK(chunk.labels.front() == continual::kNotCounted);
    CHECK(std::vector<std::int64_t>(chunk.labels.begin() + 1, chunk.labels.end()) ==
          std::vector<std::int64_t>(chunk.tokens.begin() + 1, chunk.tokens.end()));
    all.insert(all.end(), chunk.tokens.begin() + 1, chunk.tokens.end());
  }
  auto expected = tokenizer().encode(text[0].answer);
  expected.push_back(Tokenizer::kEnd);
  const auto second = tokenizer().encode(text[1].answer);
  expected.insert(expected.end(), second.begin(), second.end());
  expected.push_back(Tokenizer::kEnd);
  CHECK(all == expected);
  REQUIRE(chunks.size() > 3);
  CHECK(continual::encode_text(tokenizer(), text, 5, 3).size() == 3);
}

TEST_CASE("a shuffled pass has every sample once, padded where it is short", "[batch]") {
  const Samples all = samples();
  std::set<std::int64_t> seen;
  for (const auto& batch : continual::shuffled_batches(all, 7, {1, 2})) {
    for (std::int64_t row = 0; row < batch.ids.size(0); ++row) {
      const auto id = batch.ids[row].item<std::int64_t>();
      CHECK(seen.insert(id).second);
      const auto& sample = all[static_cast<std::size_t>(id)];
      const auto length = static_cast<std::int64_t>(sample.tokens.size());
      for (std::int64_t t = 0; t < batch.tokens.size(1); ++t) {
        const auto at = static_cast<std::size_t>(t);
        const auto token = batch.tokens[row][t].item<std::int64_t>();
        const auto label = batch.labels[row][t].item<std::int64_t>();
        if (token != (t < length ? sample.tokens[at] : Tokenizer::kPad) ||
            label != (t < length ? sample.labels[at] : continual::kNotCounted)) {
          FAIL_CHECK("sample " << id << " differs at " << t);
        }
      }
    }
  }
  CHECK(seen.size() == all.size());
  const auto first = continual::shuffled_batches(all, 7, {1, 2});
  const auto again = continual::shuffled_batches(all, 7, {1, 2});
  const auto other = continual::shuffled_batches(all, 7, {1, 3});
  CHECK(first[0].ids.equal(again[0].ids));
  CHECK_FALSE(first[0].ids.equal(other[0].ids));
}

TEST_CASE("padding changes no logit before it", "[model]") {
  const at::NoGradGuard no_grad;
  const auto net = model();
  const Samples all = samples();
  const auto batch = continual::make_batch({&all[0], &all[12], &all[30]});
  const at::Tensor together = net->forward(batch.tokens);
  for (std::int64_t row = 0; row < 3; ++row) {
    const auto& sample = all[static_cast<std::size_t>(batch.ids[row].item<std::int64_t>())];
    const at::Tensor alone = net->forward(continual::make_batch({&sample}).tokens)[0];
    const at::Tensor same = together[row].narrow(0, 0, alone.size(0));
    CHECK(same.sub(alone).abs().max().item<double>() < 1e-5);
  }
}

TEST_CASE("no token sees a later one", "[model]") {
  const at::NoGradGuard no_grad;
  const auto net = model();
  const at::Tensor tokens = continual::make_batch({&samples()[3]}).tokens;
  at::Tensor changed = tokens.clone();
  const std::int64_t last = tokens.size(1) - 1;
  changed[0][last] = 20;
  const at::Tensor difference = net->forward(tokens).sub(net->forward(changed)).abs()[0];
  CHECK(difference.narrow(0, 0, last).max().item<double>() == 0);
  CHECK(difference[last].max().item<double>() > 0);
}

TEST_CASE("decoding with a cache gives the logits of decoding without", "[model]") {
  const at::NoGradGuard no_grad;
  const auto net = model();
  const at::Tensor tokens = continual::make_batch({&samples()[0]}).tokens.repeat({2, 1});
  const at::Tensor full = net->forward(tokens);
  continual::KeyValueCache cache;
  at::Tensor logits = net->forward(tokens.narrow(1, 0, 5), &cache);
  CHECK(logits.sub(full.narrow(1, 0, 5)).abs().max().item<double>() < 1e-5);
  for (std::int64_t t = 5; t < tokens.size(1); ++t) {
    CHECK(cache.length() == t);
    logits = net->forward(tokens.narrow(1, t, 1), &cache);
    CHECK(logits.sub(full.narrow(1, t, 1)).abs().max().item<double>() < 1e-5);
  }
  CHECK_THROWS_WITH(net->forward(tokens.narrow(1, 0, 2), &cache),
                    Catch::Matchers::ContainsSubstring(
                        "continual::Transformer: expected one token after the first, got 2"));
  CHECK_THROWS_WITH(net->forward(at::full({1, kContext + 1}, 5, at::kLong)),
                    Catch::Matchers::ContainsSubstring(
                        "continual::Transformer: expected at most 64 tokens, got 65"));
}

TEST_CASE("answer probability against the definition", "[evaluate]") {
  const at::NoGradGuard no_grad;
  const auto net = model();
  Samples few = samples();
  few.resize(5);
  double expected = 0;
  for (const auto& sample : few) {
    const at::Tensor log_p =
        net->forward(continual::make_batch({&sample}).tokens)[0].to(at::kDouble).log_softmax(-1);
    double sum = 0;
    std::int64_t count = 0;
    for (std::size_t t = 1; t < sample.tokens.size(); ++t) {
      if (sample.labels[t] != continual::kNotCounted) {
        sum += log_p[static_cast<std::int64_t>(t) - 1][sample.labels[t]].item<double>();
        ++count;
      }
    }
    expected += std::exp(sum / static_cast<double>(count)) / 5;
  }
  CHECK(std::abs(continual::answer_probability(*net, few) - expected) < 1e-6 * expected);
  CHECK(std::isnan(continual::answer_probability(*net, {})));
  // A sample without a token that counts is none, and not one of probability 1.
  few.push_back(few[1]);
  std::fill(few.back().labels.begin(), few.back().labels.end(), continual::kNotCounted);
  CHECK(std::abs(continual::answer_probability(*net, few) - expected) < 1e-6 * expected);
  CHECK(std::isnan(continual::answer_probability(*net, {few.back()})));
}

TEST_CASE("a model's file has each parameter's name, dtype, shape and bytes", "[model]") {
  const auto net = model();
  const TemporaryFile file;
  continual::save_model(file.path, *net);

  // By the description of safetensors: 8 bytes, little endian, the size of a JSON header; then the
  // header; then the data, at the offsets that the header gives.
  std::ifstream stream(file.path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(stream), {}};
  REQUIRE(all.size() > 8);
  std::uint64_t size = 0;
  for (int i = 7; i >= 0; --i) {
    size = size << 8U | static_cast<unsigned char>(all[static_cast<std::size_t>(i)]);
  }
  REQUIRE(size < all.size() - 8);
  nlohmann::json header = nlohmann::json::parse(all.substr(8, size));
  CHECK(header["__metadata__"]["format"] == "pt");
  header.erase("__metadata__");
  const std::string data = all.substr(8 + size);
  std::size_t num_bytes = 0;
  for (const auto& item : net->named_parameters()) {
    INFO(item.key());
    REQUIRE(header.contains(item.key()));
    const auto entry = header[item.key()];
    CHECK(entry["dtype"] == "F32");
    CHECK(entry["shape"].get<std::vector<std::int64_t>>() == item.value().sizes().vec());
    const auto begin = entry["data_offsets"][0].get<std::size_t>();
    const auto end = entry["data_offsets"][1].get<std::size_t>();
    REQUIRE((begin <= end && end <= data.size()));
    CHECK((data.substr(begin, end - begin) == bytes_of(item.value())));
    num_bytes += end - begin;
  }
  CHECK(header.size() == net->named_parameters().size());
  CHECK(num_bytes == data.size());
}

TEST_CASE("a model comes back from its file to the bit", "[model]") {
  const auto saved = model();
  const TemporaryFile file;
  continual::save_model(file.path, *saved);
  const auto loaded = model();
  {
    const at::NoGradGuard no_grad;
    for (auto& parameter : loaded->parameters()) {
      parameter.add_(1);
    }
  }
  continual::load_model(file.path, *loaded);
  const auto parameters = saved->named_parameters();
  for (const auto& item : loaded->named_parameters()) {
    INFO(item.key());
    CHECK((bytes_of(item.value()) == bytes_of(parameters[item.key()])));
    CHECK(item.value().requires_grad());
  }
}

TEST_CASE("a file of another model names the tensor, and changes nothing", "[model]") {
  const auto net = model();
  const TemporaryFile file;
  alkn::io::NamedTensors tensors;
  for (const auto& item : net->named_parameters()) {
    tensors.emplace_back(item.key(), item.value().detach().add(1));
  }
  const auto error_of = [&](const std::string& name, const at::Tensor& tensor) {
    auto changed = tensors;
    std::erase_if(changed, [&](const auto& entry) { return entry.first == name; });
    if (tensor.defined()) {
      changed.emplace_back(name, tensor);
    }
    alkn::io::save_tensors(file.path, changed, {});
    try {
      continual::load_model(file.path, *net);
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string where = " (" + file.path.string() + ")";
  const std::string expected = "continual: expected block1.qkv.weight as Float [384, 128], got ";
  CHECK(error_of("block1.qkv.weight", at::full({384, 127}, 0.5)) ==
        expected + "Float [384, 127]" + where);
  CHECK(error_of("block1.qkv.weight", at::full({128, 384}, 0.5)) ==
        expected + "Float [128, 384]" + where);
  CHECK(error_of("block1.qkv.weight", at::full({384, 128}, 0.5, at::kDouble)) ==
        expected + "Double [384, 128]" + where);
  CHECK(error_of("block1.qkv.weight", {}) == expected + "none" + where);
  CHECK(error_of("block9.qkv.weight", at::full({1}, 0.5)) ==
        "continual: expected a tensor of this model, got block9.qkv.weight" + where);
  const auto fresh = model();
  const auto parameters = fresh->named_parameters();
  for (const auto& item : net->named_parameters()) {
    CHECK(item.value().equal(parameters[item.key()]));
  }
}
