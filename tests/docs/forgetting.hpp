// What the trainer of docs/guide.md includes where the method is compiled in a file of its own.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <vector>

struct Sample {
  at::Tensor ids, tokens, labels;
};

class Forgetting {
 public:
  using Forward = std::function<at::Tensor(const at::Tensor& tokens)>;

  Forgetting(torch::nn::Module& model, Forward forward);
  ~Forgetting();
  void request(const std::vector<Sample>& forget, const std::vector<Sample>& retain);

 private:
  struct Method;
  std::unique_ptr<Method> method_;
};
