// The kernels, to be compiled with flags under which they would be wrong.
#include <alkn/kernel/cpu/step.hpp>
