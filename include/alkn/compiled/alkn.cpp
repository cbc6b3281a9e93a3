// The source of alkn::compiled: all that does not depend on a user's types, and the four methods
// over alkn::AdamW.
#define ALKN_COMPILING
#include <alkn/alkn.hpp>

namespace alkn {

template class Unlearner<EntropicSoftLabels, LocalizedMask, Negate, AdamW>;
template class Unlearner<TokenNLL, NoMask, Negate, AdamW>;
template class Unlearner<NegatedTokenNLL, NoMask, Keep, AdamW>;
template class Unlearner<NegativePreference, NoMask, Keep, AdamW>;

}  // namespace alkn
