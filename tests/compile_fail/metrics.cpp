// The metrics, to be compiled with flags under which a NaN goes by unseen.
#include <alkn/eval/forget_quality.hpp>
