// The step over tensors, to be compiled without OpenMP.
#include <alkn/step/runner.hpp>
