# Defines alkn::compiled: a static library with everything of alkn::alkn that does not depend on the
# user's types, compiled in the project that uses it, with its compiler, flags and LibTorch. It is
# built only where something links it. Needs alkn's base target and ALKN_COMPILED_SOURCE.
add_library(alkn_compiled STATIC EXCLUDE_FROM_ALL "${ALKN_COMPILED_SOURCE}")
add_library(alkn::compiled ALIAS alkn_compiled)
target_link_libraries(alkn_compiled PUBLIC alkn::base)
target_compile_definitions(alkn_compiled PUBLIC ALKN_COMPILED)
set_target_properties(alkn_compiled PROPERTIES CXX_STANDARD 20 CXX_EXTENSIONS OFF
  POSITION_INDEPENDENT_CODE ON
  INTERFACE_alkn_form compiled COMPATIBLE_INTERFACE_STRING alkn_form)
