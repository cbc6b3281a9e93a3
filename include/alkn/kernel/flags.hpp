// Refuses compiler flags that would change the results, or hide NaN and infinity. clang has macros
// for the first two alone: the others are for its user to leave out.
#pragma once

#if defined(__FAST_MATH__)
#error "alkn: -ffast-math breaks the exactness of the step; compile without it"
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0
#error "alkn: -ffinite-math-only hides NaN and infinity from the checks; compile without it"
#elif defined(__ASSOCIATIVE_MATH__)
#error "alkn: -fassociative-math changes the order of sums; compile without it"
#elif defined(__RECIPROCAL_MATH__)
#error "alkn: -freciprocal-math changes quotients; compile without it"
#elif defined(__NO_SIGNED_ZEROS__)
#error "alkn: -fno-signed-zeros changes the bits of zeros; compile without it"
#endif
