// The methods by name, as combinations of policies. A new method is a new objective, and a line
// here.
#pragma once

#include <alkn/compiled.hpp>
#include <alkn/method/unlearner.hpp>
#include <alkn/objective/entropic_soft_labels.hpp>
#include <alkn/objective/negated_token_nll.hpp>
#include <alkn/objective/negative_preference.hpp>
#include <alkn/objective/token_nll.hpp>

namespace alkn {

using ALKNOptions = MethodOptions<EntropicSoftLabels, LocalizedMask, Negate>;
using TaskVectorOptions = MethodOptions<TokenNLL, NoMask, Negate>;
using GradientAscentOptions = MethodOptions<NegatedTokenNLL, NoMask, Keep>;
using NPOOptions = MethodOptions<NegativePreference, NoMask, Keep>;

// the names in error texts, found by argument-dependent lookup
inline const char* method_title(const ALKNOptions&) { return "ALKN"; }
inline const char* method_title(const TaskVectorOptions&) { return "TaskVector"; }
inline const char* method_title(const GradientAscentOptions&) { return "GradientAscent"; }
inline const char* method_title(const NPOOptions&) { return "NPO"; }

/// Adaptive Localization of Knowledge Negation (Wuerkaixi et al., ICML 2025): entropic soft labels
/// under a localized mask, then negation. The presets of its options: conflict (default), paper,
/// reference, ratio (experimental).
template <class Base = AdamW>
using ALKN = Unlearner<EntropicSoftLabels, LocalizedMask, Negate, Base>;

/// Task-vector negation (Ilharco et al. 2023): token NLL, then negation.
template <class Base = AdamW>
using TaskVector = Unlearner<TokenNLL, NoMask, Negate, Base>;

/// Gradient ascent on the token NLL (Jang et al. 2023); with retain_term(nll) gradient difference
/// (Liu et al. 2022).
template <class Base = AdamW>
using GradientAscent = Unlearner<NegatedTokenNLL, NoMask, Keep, Base>;

/// Negative preference optimisation (Zhang et al. 2024).
template <class Base = AdamW>
using NPO = Unlearner<NegativePreference, NoMask, Keep, Base>;

#if !ALKN_DEFINITIONS
extern template class Unlearner<EntropicSoftLabels, LocalizedMask, Negate, AdamW>;
extern template class Unlearner<TokenNLL, NoMask, Negate, AdamW>;
extern template class Unlearner<NegatedTokenNLL, NoMask, Keep, AdamW>;
extern template class Unlearner<NegativePreference, NoMask, Keep, AdamW>;
#endif

}  // namespace alkn
