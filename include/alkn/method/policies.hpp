// What the four policies of a method must have.
#pragma once

#include <torch/optim/optimizer.h>
#include <alkn/kernel/step.hpp>

#include <concepts>

namespace torch::optim {
class LBFGS;
}

namespace alkn {

/// What an objective must have; see objective/objective.hpp.
template <class T>
concept ObjectivePolicy = requires {
  { T::kName } -> std::convertible_to<const char*>;
  { T::kRemembers } -> std::convertible_to<bool>;
  typename T::template Options<int>;
};

/// What a mask must have; see method/masks.hpp.
template <class T>
concept MaskPolicy = requires {
  { T::kName } -> std::convertible_to<const char*>;
  { T::kKind } -> std::convertible_to<kernel::MaskKind>;
  typename T::template Options<int>;
};

/// What an ending must have; see method/endings.hpp.
template <class T>
concept EndingPolicy = requires {
  { T::kName } -> std::convertible_to<const char*>;
  { T::kNegates } -> std::convertible_to<bool>;
  typename T::template Options<int>;
};

/// A first-order optimizer whose step needs no closure.
template <class T>
concept BaseOptimizer =
    std::derived_from<T, torch::optim::Optimizer> && !std::derived_from<T, torch::optim::LBFGS>;

}  // namespace alkn
