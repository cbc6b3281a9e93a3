// model_probe FOLDER TOKENS OUT COPY: the model of FOLDER on the tokens [B, T] of the safetensors
// file TOKENS; logits and greedy tokens into the file OUT, the model itself into the folder COPY.
#include <alkn/io/save_model.hpp>
#include <alkn/io/tensors.hpp>

#include <cstdio>
#include <exception>
#include <string>

#include "models/load.hpp"

int main(int count, char** arguments) {
  if (count != 5) {
    std::fputs("model_probe: expected FOLDER TOKENS OUT COPY\n", stderr);
    return 2;
  }
  try {
    const at::NoGradGuard no_grad;
    const alkn::io::ModelFolder folder(arguments[1]);
    const auto model = models::load(folder);
    const at::Tensor tokens = alkn::io::load_tensors(arguments[2]).at(0).second;
    const at::Tensor first = tokens[0].contiguous();
    const auto* begin = first.const_data_ptr<std::int64_t>();
    const auto answer = models::greedy(*model, {begin, begin + first.numel()}, 50);
    alkn::io::save_tensors(arguments[3], {{"logits", model->forward(tokens)},
                                          {"greedy", at::tensor(answer, at::kLong)}});
    alkn::io::save_model(arguments[4], folder, model->named_parameters());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_probe: %s\n", error.what());
    return 1;
  }
  return 0;
}
