// A transformer of one layer for tests of the trainer's parts.
#pragma once

#include <ATen/Context.h>

#include <cstdint>
#include <memory>

#include "continual/model.hpp"

/// The same weights each time, for texts of eight tokens.
template <class Model = continual::Transformer>
std::shared_ptr<Model> tiny_transformer(std::int64_t vocabulary) {
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(3);
  continual::ModelConfig config;
  config.vocabulary = vocabulary;
  config.layers = 1;
  config.width = 16;
  config.heads = 2;
  config.context = 8;
  return std::make_shared<Model>(config);
}
