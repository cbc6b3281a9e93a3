// JSON whose keys keep their order.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>

namespace continual {

using Json = nlohmann::ordered_json;

/// NaN and infinities, which JSON does not have, become null.
inline Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace continual
