// The methods that the experiment compares, and their parts taken away one by one.
#pragma once

#include <alkn/task/state.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "continual/run.hpp"
#include "continual/settings.hpp"

namespace experiment {

/// A method with all settings but the learning rate, which is its axis of strength.
struct Arm {
  std::string name, title;
  std::string family;            ///< alkn, ablation or baseline
  std::string preset;            ///< of ALKN's options; empty for methods that have none
  continual::Strength strength;  ///< its lr is the first that is tried
  continual::Rows (*unlearn)(const continual::Run& run);
  bool random_mask = false;  ///< its mask is drawn, as dense as that of `alkn-no-modulation`
};

const std::vector<Arm>& arms();

/// The arm of a name; throws std::runtime_error where there is none.
const Arm& arm(const std::string& name);

/// How many entries of each tensor were trained in each step of a run, in the order of the steps.
using MaskTrace = std::vector<std::vector<std::int64_t>>;

/// For Run::after_step: writes a trace.
std::function<void(const std::vector<alkn::TensorReport>&)> record(MaskTrace& trace);

/// For Run::before_step of an arm with a random mask: clips the gradients, then keeps as many
/// entries of each as the trace says, drawn anew in every step.
/// @param model, trace outlive the function
std::function<void()> mask_at_random(continual::Transformer& model, const MaskTrace& trace,
                                     std::uint64_t seed);

}  // namespace experiment
