// Every public function, through alkn.hpp alone.
#include <alkn/alkn.hpp>

namespace {

template <class... Functions>
bool all(Functions... functions) {
  return ((functions != nullptr) && ...);
}

}  // namespace

bool names() {
  return all(&alkn::answer_rows, &alkn::mean_nll, &alkn::retain_kl, &alkn::sequence_nll,
             &alkn::soft_label_weight, &alkn::token_log_probability, &alkn::valid_tokens);
}
