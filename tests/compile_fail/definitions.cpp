// A header of definitions, in a file without alkn::compiled.
#include <alkn/step/runner_definitions.hpp>
