// One metric after every deletion request, for every request (past and future) and for kept
// authors: forgetting that comes back, decline that adds up, requests damaged before they are made.
#pragma once

#include <string>
#include <string_view>

#include "alkn/eval/arrays.hpp"

namespace alkn::eval {

/// A metric that is high for what the model knows (answer probability, ROUGE-L, extraction
/// strength), in the course of N requests. Row t holds the model after t requests, row 0 the
/// original.
struct TaskMatrix {
  Eigen::ArrayXXd requests;    ///< [N + 1, N]: column j the data of request j + 1
  Eigen::ArrayXd kept_shown;   ///< [N + 1]: kept authors that the method was shown; may be empty
  Eigen::ArrayXd kept_unseen;  ///< [N + 1]: kept authors that it never saw; may be empty

  /// @throws std::invalid_argument for sizes that do not fit and values that are not finite
  void validate() const {
    constexpr const char* kName = "TaskMatrix";
    detail::require_table(kName, "requests", requests);
    if (requests.rows() != requests.cols() + 1) {
      detail::fail(kName, "one row more than columns",
                   std::to_string(requests.rows()) + " rows, " + std::to_string(requests.cols()) +
                       " columns",
                   "requests");
    }
    require_kept("kept_shown", kept_shown);
    require_kept("kept_unseen", kept_unseen);
  }

 private:
  void require_kept(std::string_view name, const Eigen::ArrayXd& kept) const {
    if (kept.size() == 0) return;
    detail::require_size("TaskMatrix", name, requests.rows(), kept.size());
    detail::require_values("TaskMatrix", name, kept);
  }
};

/// How far kept authors have fallen: value before the first request minus value after t of them, [N
/// + 1]. The last entry is what all requests cost together.
/// @param kept `kept_shown` or `kept_unseen`
/// @throws std::invalid_argument if there are none or one is not finite
inline Eigen::ArrayXd accumulated_decline(const Values& kept) {
  detail::require_values("accumulated_decline", "kept", kept);
  return kept[0] - kept;
}

/// How far each request's data has come back: the highest value since its own request minus the
/// value right after it, [N], at least 0.
/// @throws std::invalid_argument as `TaskMatrix::validate`
inline Eigen::ArrayXd returned_knowledge(const TaskMatrix& matrix) {
  matrix.validate();
  Eigen::ArrayXd result(matrix.requests.cols());
  for (Eigen::Index j = 0; j < result.size(); ++j) {
    const auto since = matrix.requests.col(j).tail(matrix.requests.rows() - j - 1);
    result[j] = since.maxCoeff() - since[0];
  }
  return result;
}

/// How far each request's data had fallen before anybody asked for it: value in the original model
/// minus value right before its own request, [N]; 0 for the first.
/// @throws std::invalid_argument as `TaskMatrix::validate`
inline Eigen::ArrayXd early_damage(const TaskMatrix& matrix) {
  matrix.validate();
  return matrix.requests.row(0).transpose() - matrix.requests.matrix().diagonal().array();
}

}  // namespace alkn::eval
