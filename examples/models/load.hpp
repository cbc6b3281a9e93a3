// From a folder to a model, and words out of it.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <alkn/io/load_model.hpp>
#include <alkn/io/model_folder.hpp>

#include <cstdint>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/config.hpp"
#include "models/gpt2.hpp"
#include "models/llama.hpp"
#include "models/phi.hpp"

namespace models {

/// The folder's model with its weights as `type`, float32 or bfloat16.
/// Throws std::runtime_error that names the field of config.json or the tensors that do not fit.
inline std::shared_ptr<CausalModel> load(const alkn::io::ModelFolder& folder,
                                         at::ScalarType type = at::kFloat) {
  const Config config = read_config(folder.path());
  std::shared_ptr<CausalModel> model;
  if (config.family == "llama") model = std::make_shared<Llama>(config, type);
  if (config.family == "phi") model = std::make_shared<Phi>(config, type);
  if (config.family == "gpt2") {
    model = std::make_shared<Gpt2>(config, folder.find("transformer.wte.weight").has_value(), type);
  }
  alkn::io::load_model(folder, model->named_parameters(),
                       [&](std::string_view name) { return model->is_kept_buffer(name); });
  return model;
}

/// Leaves only the parameters trainable whose whole name matches. Returns how many elements.
/// Throws std::runtime_error where none matches, or the pattern is none; nothing has changed then.
inline std::int64_t train_only(CausalModel& model, const std::string& pattern) {
  std::regex regex;
  try {
    regex = std::regex(pattern);
  } catch (const std::regex_error& error) {
    throw std::runtime_error("models: expected a regular expression, got \"" + pattern +
                             "\": " + error.what());
  }
  std::int64_t count = 0;
  const auto parameters = model.named_parameters();
  for (const auto& item : parameters) {
    if (std::regex_match(item.key(), regex)) count += item.value().numel();
  }
  if (count == 0) {
    throw std::runtime_error("models: expected a pattern that matches a parameter, got \"" +
                             pattern + "\" (parameters are called \"" + parameters[0].key() +
                             "\" and so on)");
  }
  for (const auto& item : parameters) item.value().set_requires_grad(false);
  for (const auto& item : parameters) {  // a tied one is trained where either name matches
    if (std::regex_match(item.key(), regex)) item.value().set_requires_grad(true);
  }
  return count;
}

/// The most probable next tokens one after another, `count` of them or up to `end`.
inline std::vector<std::int64_t> greedy(CausalModel& model, std::vector<std::int64_t> tokens,
                                        std::int64_t count, std::int64_t end = -1) {
  const at::NoGradGuard no_grad;
  KeyValueCache cache;
  std::vector<std::int64_t> answer;
  while (static_cast<std::int64_t>(answer.size()) < count) {
    const Tensor hidden = model.hidden(at::tensor(tokens, at::kLong).unsqueeze(0), &cache);
    const Tensor logits = model.head(hidden.select(1, hidden.size(1) - 1));
    tokens = {logits.argmax(-1).item<std::int64_t>()};
    if (tokens.front() == end) break;
    answer.push_back(tokens.front());
  }
  return answer;
}

}  // namespace models
