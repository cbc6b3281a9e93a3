// config.json of a Hugging Face folder: the fields of the decoder-only families, and what is
// refused by name because the result would differ from transformers'.
#pragma once

#include <alkn/io/input_file.hpp>
#include <alkn/io/json.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace models {

using Json = nlohmann::json;

/// How angles of the rotary embedding grow with the position.
struct RopeConfig {
  double theta = 10000;
  std::string type = "default";                                            ///< or linear, llama3
  double factor = 1;                                                       ///< linear, llama3
  double low_freq_factor = 1, high_freq_factor = 4, original_context = 0;  ///< llama3
  double rotated = 1;  ///< the part of a head that turns: partial_rotary_factor
};

/// What the families have in common.
struct Config {
  std::string family;  ///< llama, phi or gpt2
  std::int64_t vocabulary = 0, hidden = 0, layers = 0, heads = 0, key_value_heads = 0;
  std::int64_t head_size = 0, intermediate = 0;
  std::int64_t context = 0;   ///< tokens at most
  std::string context_is_of;  ///< the field that says so
  double norm_epsilon = 1e-5;
  bool query_bias = false, output_bias = false, mlp_bias = false;  ///< llama's
  bool tied = false;                                               ///< the head is the embedding
  bool per_layer_scale = false;  ///< gpt2's scale_attn_by_inverse_layer_idx
  RopeConfig rope;
};

/// Fields of one JSON object, with errors that name them.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    throw std::runtime_error("models: expected " + expected + ", got " + got + " (" + where_ + ")");
  }

  /// Whether the field is there and not null.
  [[nodiscard]] bool has(const char* name) const {
    return json_.contains(name) && !json_[name].is_null();
  }

  [[nodiscard]] std::string text(const char* name) const {
    return has(name) ? alkn::io::shown(json_[name]) : "none";
  }

  /// The first of the names that is there, or the default; none where there is no default.
  std::int64_t size(std::initializer_list<const char*> names, std::int64_t otherwise = 0) const {
    for (const char* name : names) {
      if (!has(name)) continue;
      if (!json_[name].is_number_integer() || json_[name] < 1 || json_[name] > (1LL << 40)) {
        fail(std::string("a positive integer ") + name, text(name));
      }
      return json_[name].get<std::int64_t>();
    }
    if (otherwise == 0) fail(*names.begin(), "none");
    return otherwise;
  }

  double number(const char* name, double otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_number() || !(json_[name].get<double>() > 0)) {
      fail(std::string("a positive number ") + name, text(name));
    }
    return json_[name].get<double>();
  }

  bool flag(const char* name, bool otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_boolean()) fail(std::string("true or false for ") + name, text(name));
    return json_[name].get<bool>();
  }

  std::string word(const char* name, const char* otherwise) const {
    if (!has(name)) return otherwise;
    if (!json_[name].is_string()) fail(std::string("a text ") + name, text(name));
    return json_[name].get<std::string>();
  }

  [[nodiscard]] const Json& json() const { return json_; }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

/// rope_theta with rope_scaling, or transformers 5's rope_parameters.
inline RopeConfig read_rope(const Fields& fields, double rotated) {
  RopeConfig rope;
  rope.theta = fields.number("rope_theta", rope.theta);
  rope.rotated = fields.number("partial_rotary_factor", rotated);
  rope.original_context = static_cast<double>(fields.size({"max_position_embeddings"}, 2048));
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(name)) continue;
    if (!fields.json()[name].is_object()) fields.fail(name, fields.text(name));
    const Fields inner(fields.json()[name], fields.where() + ", " + name);
    for (const auto& [key, value] : inner.json().items()) {
      if (value.is_object()) inner.fail("one rotary embedding for all layers", key);
    }
    rope.type = inner.word("rope_type", inner.word("type", "default").c_str());
    if (rope.type != "default" && rope.type != "linear" && rope.type != "llama3") {
      inner.fail("rope_type default, linear or llama3", "\"" + rope.type + "\"");
    }
    rope.theta = inner.number("rope_theta", rope.theta);
    rope.rotated = inner.number("partial_rotary_factor", rope.rotated);
    if (rope.type == "default") continue;
    if (!inner.has("factor")) inner.fail("factor", "none");
    rope.factor = inner.number("factor", 1);
    rope.low_freq_factor = inner.number("low_freq_factor", rope.low_freq_factor);
    rope.high_freq_factor = inner.number("high_freq_factor", rope.high_freq_factor);
    rope.original_context = inner.number("original_max_position_embeddings", rope.original_context);
  }
  return rope;
}

inline void expect_word(const Fields& fields, const char* name, const char* otherwise,
                        std::initializer_list<const char*> known) {
  const std::string got = fields.word(name, otherwise);
  std::string list;
  for (const char* word : known) {
    if (got == word) return;
    list += (list.empty() ? "" : " or ") + std::string(word);
  }
  fields.fail(std::string(name) + " " + list, "\"" + got + "\"");
}

/// Attention that looks back only so far is not built: it does nothing up to that many tokens,
/// which is then the context.
inline void limit_to_window(Config& config, const Fields& fields, const std::string& model_type) {
  std::int64_t window = 0;
  if (model_type == "mistral" &&
      !(fields.json().contains("sliding_window") && fields.json()["sliding_window"].is_null())) {
    window = fields.size({"sliding_window"}, 4096);
  }
  if (model_type == "qwen2" && fields.flag("use_sliding_window", false) &&
      fields.size({"max_window_layers"}, 28) < config.layers) {
    window = fields.size({"sliding_window"}, 4096);
  }
  if (window > 0 && window < config.context) {
    config.context = window;
    config.context_is_of = "sliding_window";
  }
}

inline Config read_llama(const Fields& fields, const std::string& model_type) {
  Config config;
  config.family = "llama";
  config.hidden = fields.size({"hidden_size"});
  config.layers = fields.size({"num_hidden_layers"});
  config.heads = fields.size({"num_attention_heads"});
  const bool is_mistral = model_type == "mistral";
  config.key_value_heads = fields.size({"num_key_value_heads"}, is_mistral ? 8 : config.heads);
  config.head_size = fields.size({"head_dim"}, config.hidden / config.heads);
  config.intermediate = fields.size({"intermediate_size"});
  config.norm_epsilon = fields.number("rms_norm_eps", 1e-6);
  const bool is_qwen = model_type == "qwen2";  // its biases have no flag
  config.query_bias = is_qwen || fields.flag("attention_bias", false);
  config.output_bias = !is_qwen && fields.flag("attention_bias", false);
  config.mlp_bias = fields.flag("mlp_bias", false);
  config.tied = fields.flag("tie_word_embeddings", false);
  config.rope = read_rope(fields, 1);
  if (config.rope.rotated != 1) {
    fields.fail("partial_rotary_factor 1", fields.text("partial_rotary_factor"));
  }
  expect_word(fields, "hidden_act", "silu", {"silu", "swish"});
  return config;
}

inline Config read_phi(const Fields& fields) {
  Config config;
  config.family = "phi";
  config.hidden = fields.size({"hidden_size"});
  config.layers = fields.size({"num_hidden_layers"});
  config.heads = fields.size({"num_attention_heads"});
  config.key_value_heads = fields.size({"num_key_value_heads"}, config.heads);
  config.head_size = fields.size({"head_dim"}, config.hidden / config.heads);
  config.intermediate = fields.size({"intermediate_size"});
  config.norm_epsilon = fields.number("layer_norm_eps", 1e-5);
  if (fields.flag("tie_word_embeddings", false)) fields.fail("tie_word_embeddings false", "true");
  config.rope = read_rope(fields, 0.5);
  expect_word(fields, "hidden_act", "gelu_new", {"gelu_new", "gelu_pytorch_tanh"});
  if (fields.flag("qk_layernorm", false)) fields.fail("qk_layernorm false", "true");
  return config;
}

inline Config read_gpt2(const Fields& fields) {
  Config config;
  config.family = "gpt2";
  config.hidden = fields.size({"n_embd", "hidden_size"});
  config.layers = fields.size({"n_layer", "num_hidden_layers"});
  config.heads = fields.size({"n_head", "num_attention_heads"});
  config.key_value_heads = config.heads;
  config.head_size = config.hidden / config.heads;
  config.intermediate = fields.size({"n_inner"}, 4 * config.hidden);
  config.norm_epsilon = fields.number("layer_norm_epsilon", 1e-5);
  config.tied = fields.flag("tie_word_embeddings", true);
  config.per_layer_scale = fields.flag("scale_attn_by_inverse_layer_idx", false);
  expect_word(fields, "activation_function", "gelu_new", {"gelu_new", "gelu_pytorch_tanh"});
  if (!fields.flag("scale_attn_weights", true)) fields.fail("scale_attn_weights true", "false");
  if (fields.flag("add_cross_attention", false)) fields.fail("add_cross_attention false", "true");
  return config;
}

/// Reads config.json of a folder. Throws std::runtime_error that names the field.
inline Config read_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  Json json;
  const Fields fields(json, path.string());
  try {
    json = alkn::io::parse_json(alkn::io::read_text(path));
  } catch (const alkn::io::Unexpected& error) {
    fields.fail(error.expected, error.got);
  }
  if (!json.is_object()) fields.fail("a JSON object", alkn::io::shown(json));
  if (fields.has("quantization_config")) {
    fields.fail("weights that are not quantized", "quantization_config");
  }
  const std::string model_type = fields.word("model_type", "");
  Config config;
  if (model_type == "llama" || model_type == "mistral" || model_type == "qwen2") {
    config = read_llama(fields, model_type);
  } else if (model_type == "phi") {
    config = read_phi(fields);
  } else if (model_type == "gpt2") {
    config = read_gpt2(fields);
  } else {
    fields.fail("model_type llama, mistral, qwen2, phi or gpt2", "\"" + model_type + "\"");
  }
  config.vocabulary = fields.size({"vocab_size"});
  config.context = fields.size({"max_position_embeddings", "n_positions"}, 2048);
  config.context_is_of = "max_position_embeddings";
  limit_to_window(config, fields, model_type);
  if (config.family == "gpt2" && config.hidden % config.heads != 0) {
    fields.fail("n_embd that n_head divides",
                std::to_string(config.hidden) + " and " + std::to_string(config.heads));
  }
  if (config.heads % config.key_value_heads != 0) {
    fields.fail("num_attention_heads that num_key_value_heads divides",
                std::to_string(config.heads) + " and " + std::to_string(config.key_value_heads));
  }
  return config;
}

}  // namespace models
