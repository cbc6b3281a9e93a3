// The step over tensors, to be compiled without OpenMP.
#include <alkn/detail/step_runner.hpp>
