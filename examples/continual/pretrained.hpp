// The same job on a checkpoint that somebody else trained.
#pragma once

#include "continual/settings.hpp"

namespace continual {

/// Loads settings.pretrained.folder, teaches it the data if asked to, answers the requests, and
/// writes the folder `model` beside the results. Returns false if it was interrupted.
/// Throws std::runtime_error before anything is trained or written, where something does not fit.
bool run_pretrained(const Settings& settings);

}  // namespace continual
