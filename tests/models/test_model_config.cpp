// config.json: fields of every family, old and new spellings, and what is refused by name.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "catch.hpp"
#include "models/config.hpp"

namespace {

namespace fs = std::filesystem;
using models::Config;
using models::Json;

Config read(const std::string& text) {
  const fs::path folder = fs::temp_directory_path() / ("alkn-config-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << text;
  try {
    const Config config = models::read_config(folder);
    fs::remove_all(folder);
    return config;
  } catch (...) {
    fs::remove_all(folder);
    throw;
  }
}

const Json kLlama = Json::parse(R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 12,
    "max_position_embeddings": 64})");

Config read(Json json, const Json& changes) {
  json.update(changes);
  return read(json.dump());
}

/// The message without the folder.
std::string error_of(const Json& changes) {
  try {
    read(kLlama, changes);
  } catch (const std::exception& error) {
    std::string text = error.what();
    const auto begin = text.find(" (") + 2, end = text.find("config.json");
    return text.replace(begin, end - begin, "");
  }
  return "no error";
}

}  // namespace

TEST_CASE("defaults are transformers'", "[model_config]") {
  const Config c = read(kLlama, Json::object());
  CHECK(c.key_value_heads == 4);
  CHECK(c.head_size == 2);
  CHECK(c.context == 64);
  CHECK(c.context_is_of == "max_position_embeddings");
  CHECK(c.norm_epsilon == 1e-6);
  CHECK(c.rope.theta == 10000);
  CHECK(c.rope.type == "default");
  CHECK_FALSE((c.tied || c.query_bias || c.output_bias || c.mlp_bias));

  const Config m = read(
      kLlama,
      {{"model_type", "mistral"}, {"num_attention_heads", 8}, {"max_position_embeddings", 10000}});
  CHECK(m.key_value_heads == 8);
  CHECK(m.context == 4096);
  CHECK(m.context_is_of == "sliding_window");
  CHECK(read(kLlama, {{"model_type", "mistral"},
                      {"num_attention_heads", 8},
                      {"max_position_embeddings", 10000},
                      {"sliding_window", nullptr}})
            .context == 10000);

  const Json window{{"model_type", "qwen2"},
                    {"sliding_window", 16},
                    {"use_sliding_window", true},
                    {"max_window_layers", 1},
                    {"attention_bias", false}};
  const Config q = read(kLlama, window);
  CHECK((q.query_bias && !q.output_bias));
  CHECK(q.context == 16);
  Json off = window;
  off["use_sliding_window"] = false;
  CHECK(read(kLlama, off).context == 64);
  off = window;
  off["max_window_layers"] = 2;
  CHECK(read(kLlama, off).context == 64);

  const Config p = read(kLlama, {{"model_type", "phi"}});
  CHECK(p.rope.rotated == 0.5);
  CHECK(p.norm_epsilon == 1e-5);
  const Config g = read(R"({"model_type": "gpt2", "vocab_size": 10, "n_embd": 8, "n_layer": 2,
                            "n_head": 2, "n_positions": 32, "n_inner": null})");
  CHECK(g.tied);
  CHECK(g.intermediate == 32);
  CHECK(g.context == 32);
}

TEST_CASE("rotary settings are read in every spelling", "[model_config]") {
  const Json llama3{{"factor", 8},
                    {"low_freq_factor", 2},
                    {"high_freq_factor", 5},
                    {"original_max_position_embeddings", 48}};
  for (const char* type : {"type", "rope_type"}) {
    Json scaling = llama3;
    scaling[type] = "llama3";
    Json parameters = scaling;
    parameters["rope_theta"] = 500;
    for (const Json& changes : {Json{{"rope_scaling", scaling}, {"rope_theta", 500}},
                                Json{{"rope_parameters", parameters}}}) {
      const auto rope = read(kLlama, changes).rope;
      CHECK(rope.type == "llama3");
      CHECK(rope.theta == 500);
      CHECK(rope.factor == 8);
      CHECK(rope.low_freq_factor == 2);
      CHECK(rope.high_freq_factor == 5);
      CHECK(rope.original_context == 48);
    }
  }
  CHECK(
      read(kLlama, {{"rope_scaling", {{"type", "llama3"}, {"factor", 2}}}}).rope.original_context ==
      64);
  CHECK(read(kLlama, {{"rope_scaling", nullptr}}).rope.type == "default");
}

TEST_CASE("what is not built is refused by its name", "[model_config]") {
  const std::string name = "models: expected ";
  CHECK(error_of({{"model_type", "mamba"}}) ==
        name + "model_type llama, mistral, qwen2, phi or gpt2, got \"mamba\" (config.json)");
  CHECK(error_of({{"quantization_config", {{"bits", 4}}}}) ==
        name + "weights that are not quantized, got quantization_config (config.json)");
  CHECK(error_of({{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}}}) ==
        name + "rope_type default, linear or llama3, got \"yarn\" (config.json, rope_scaling)");
  CHECK(error_of({{"rope_parameters", {{"full_attention", {{"rope_theta", 1}}}}}}) ==
        name +
            "one rotary embedding for all layers, got full_attention (config.json, "
            "rope_parameters)");
  CHECK(error_of({{"rope_scaling", {{"type", "linear"}}}}) ==
        name + "factor, got none (config.json, rope_scaling)");
  CHECK(error_of({{"rope_scaling", 3}}) == name + "rope_scaling, got 3 (config.json)");
  CHECK(error_of({{"partial_rotary_factor", 0.5}}) ==
        name + "partial_rotary_factor 1, got 0.5 (config.json)");
  CHECK(error_of({{"hidden_act", "relu"}}) ==
        name + "hidden_act silu or swish, got \"relu\" (config.json)");
  CHECK(error_of({{"num_attention_heads", 3}, {"num_key_value_heads", 2}}) ==
        name + "num_attention_heads that num_key_value_heads divides, got 3 and 2 (config.json)");
  CHECK(error_of({{"hidden_size", nullptr}}) == name + "hidden_size, got none (config.json)");
  CHECK(error_of({{"hidden_size", 0}}) ==
        name + "a positive integer hidden_size, got 0 (config.json)");
  CHECK(error_of({{"hidden_size", "8"}}) ==
        name + "a positive integer hidden_size, got \"8\" (config.json)");
  CHECK(error_of({{"rope_theta", -1}}) ==
        name + "a positive number rope_theta, got -1 (config.json)");
  CHECK(error_of({{"mlp_bias", 1}}) == name + "true or false for mlp_bias, got 1 (config.json)");
  CHECK(error_of({{"model_type", "phi"}, {"hidden_act", "gelu_new"}, {"qk_layernorm", true}}) ==
        name + "qk_layernorm false, got true (config.json)");
  CHECK_THROWS_AS(read("[1]"), std::runtime_error);
  CHECK_THROWS_AS(read("{"), std::runtime_error);
}
