// A small random checkpoint, as a Hugging Face folder: for programs that take one.
#pragma once

#include <alkn/io/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

/// UTF-8 of a code point below U+0800.
inline std::string utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0U | (code >> 6U)), static_cast<char>(0x80U | (code & 0x3FU))};
}

/// Byte-level BPE without a merge: a token for each byte, under the letter that stands for it.
inline nlohmann::json byte_tokenizer() {
  using Json = nlohmann::json;
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
inline std::filesystem::path write_small_checkpoint(const std::filesystem::path& folder,
                                                    std::int64_t context = 512) {
  using Json = nlohmann::json;
  std::filesystem::create_directories(folder);
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
  std::ofstream(folder / "tokenizer.json") << byte_tokenizer();
  std::ofstream(folder / "tokenizer_config.json") << Json{{"eos_token", "<|end|>"}};
  return folder;
}
