// Batches and gradients for the task protocol: good ones, and those that a method has to refuse.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <alkn/alkn.hpp>

#include <cstdint>
#include <limits>
#include <vector>

#include "bytes.hpp"
#include "method/tiny.hpp"

namespace fuzz {

using at::Tensor;

/// What remember(), loss() and retain_loss() take.
struct Sample {
  Tensor ids, logits, labels;
};

/// @param forward tokens -> logits, of the model where it can be run
template <class Forward>
Sample draw_sample(Bytes& bytes, const Forward& forward) {
  const tiny::Batch batch(static_cast<std::int64_t>(bytes.pick(3)));
  Sample sample{batch.ids, forward(batch.tokens), batch.labels};
  Tensor &ids = sample.ids, &logits = sample.logits, &labels = sample.labels;
  switch (bytes.pick(32)) {
    case 0:
      ids = ids.to(at::kInt);
      break;
    case 1:
      ids = Tensor();
      break;
    case 2:
      ids = ids.narrow(0, 0, 2);
      break;
    case 3:
      ids = ids.unsqueeze(1);
      break;
    case 4:
      ids = at::zeros({3}, at::kLong);
      break;
    case 5:
      labels = Tensor();
      break;
    case 6:
      labels = labels.to(at::kFloat);
      break;
    case 7:
      labels = labels.narrow(1, 0, 4);
      break;
    case 8:
      labels = labels.narrow(1, 0, 1);
      break;
    case 9:
      labels = labels.narrow(1, 0, 0);
      break;
    case 10:
      labels = at::full({3, 5}, 11, at::kLong);
      break;
    case 11:
      labels = at::full({3, 5}, -1, at::kLong);
      break;
    case 12:
      labels = at::full({3, 5}, -100, at::kLong);
      break;
    case 13:
      labels = labels.clone().fill_(bytes.next() % 11);
      break;
    case 14:
      labels = labels[0];
      break;
    case 15:
      logits = Tensor();
      break;
    case 16:
      logits = logits.mul(std::numeric_limits<double>::quiet_NaN());
      break;
    case 17:
      logits = logits.add(std::numeric_limits<double>::infinity());
      break;
    case 18:
      logits = logits.mul(1e30);
      break;
    case 19:
      logits = logits.to(at::kDouble);
      break;
    case 20:
      logits = logits.to(at::kBFloat16);
      break;
    case 21:
      logits = logits.detach().to(at::kLong);
      break;
    case 22:
      logits = logits.narrow(2, 0, 1);
      break;
    case 23:
      logits = logits.narrow(0, 0, 0);
      break;
    case 24:
      logits = logits.flatten(0, 1).index_select(0, alkn::answer_rows(labels));
      break;
    case 25:
      logits = logits.flatten(0, 1);
      break;
    case 26:
      logits = logits.transpose(1, 2).contiguous().transpose(1, 2);
      break;
    case 27:
      logits = logits.sum();
      break;
    case 28:
      logits = logits.narrow(2, 0, 0);
      break;
    default:
      break;
  }
  return sample;
}

/// Gradients that a backward pass, a hook or a mistake may leave.
inline void draw_gradients(Bytes& bytes, const std::vector<alkn::NamedParameter>& params) {
  tiny::set_gradients(params, static_cast<double>(bytes.pick(5)));
  const auto one = bytes.pick(params.size());
  const Tensor& param = params[one].tensor;
  Tensor& grad = Tensor(param).mutable_grad();
  if (grad.numel() == 0) return;
  switch (bytes.pick(20)) {
    case 0:
      grad.view({-1})[0].fill_(std::numeric_limits<double>::quiet_NaN());
      break;
    case 1:
      grad.view({-1})[-1].fill_(-std::numeric_limits<double>::infinity());
      break;
    case 2:
      grad.fill_(1e38);
      break;
    case 3:
      grad.fill_(1e-40);
      break;
    case 4:
      grad.zero_();
      break;
    case 5:
      grad = Tensor();
      break;
    case 6:
      for (const auto& p : params) Tensor(p.tensor).mutable_grad() = Tensor();
      break;
    case 7:
      grad = at::zeros({2, 3}, grad.options());
      break;
    case 8:
      grad = grad.to(at::kDouble);
      break;
    case 9:
      grad = grad.to_sparse();
      break;
    case 10:
      grad = at::full({}, 0.1, grad.options()).expand(param.sizes());
      break;
    case 11:
      grad = grad.unsqueeze(0);
      break;
    case 12:
      grad = at::zeros({0}, grad.options());
      break;
    case 13:
      for (const auto& p : params) Tensor(p.tensor).mutable_grad().fill_(1);
      break;
    default:
      break;
  }
}

}  // namespace fuzz
