// The methods by name.
#pragma once

#include <string>
#include <vector>

#include "continual/run.hpp"
#include "continual/settings.hpp"

namespace continual {

struct MethodEntry {
  std::string name;   ///< on the command line
  std::string title;  ///< in tables
  Strength strength;  ///< fits the small model
  Rows (*unlearn)(const Run& run);
};

struct PresetEntry {
  std::string name;
  Strength strength;
};

/// Everything that can be compared; ALKN is the first.
const std::vector<MethodEntry>& methods();

/// The presets of ALKN.
const std::vector<PresetEntry>& presets();

/// The strength of a method under a preset and under what the command line says.
Strength strength_of(const MethodEntry& method, const Settings& settings);

}  // namespace continual
