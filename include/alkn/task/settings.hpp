// What a method is set to, as plain values: the choices that a user makes, and what the core and
// the step read of them.
#pragma once

#include <alkn/backend.hpp>
#include <alkn/kernel/step.hpp>
#include <alkn/parameters.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace alkn {

using kernel::Masked;
using kernel::PenaltyScale;

/// How a localized mask scores an entry (spec: section 3).
using Score = kernel::ScoreKind;

/// Where the low learning rate applies from the second task on (spec: section 5).
enum class Modulation : std::uint8_t {
  none,
  tensor,     ///< to the half of the tensors with the largest share of entries in M
  parameter,  ///< to the entries in M
};

/// The precision in which the retain gradient is kept.
enum class RetainPrecision : std::uint8_t {
  automatic,  ///< bfloat16 for a bfloat16 parameter, else the precision of the step
  full,       ///< fp32; double for double
  bfloat16,
};

/// The loss on retain data that is added to the forget loss.
enum class RetainTerm : std::uint8_t {
  none,
  nll,  ///< mean token NLL
  kl,   ///< KL(p_ref, p) against logits computed under the weights of the start of the task
};

namespace detail {

/// A localized mask's options as plain values.
struct LocalizedSettings {
  kernel::ScoreFormula score = {.alignment = -1, .penalty = 0.5};
  double unmask_ratio = 0.8;
  double trim_ratio = 0.15;
  std::int64_t threshold_every = 1;
  Masked masked = Masked::gradient;
  Modulation modulation = Modulation::tensor;
  double low_lr_ratio = 0.1;
  RetainPrecision retain_precision = RetainPrecision::automatic;
  bool compact_state = false;
};

/// A method's options and policies as plain values.
struct MethodSettings {
  std::string owner = "Unlearner";  ///< the class in error texts
  double max_norm = 1, lr_decay = 1;
  RetainTerm retain_term = RetainTerm::none;
  double retain_weight = 1;
  bool rollback = false, start_on_host = false;
  Backend backend = Backend::automatic;
  kernel::MaskKind mask = kernel::MaskKind::none;
  LocalizedSettings localized;
  Masked masked = Masked::gradient;
  std::vector<NamedParameter> given;
  bool negates = false;
  double negation = 1, negation_decay = 1;
  bool remembers = false;
};

}  // namespace detail
}  // namespace alkn
