# Target `tokenizers`: the tokenizers of Hugging Face folders, headers alone, with PCRE2, utf8proc,
# SentencePiece and nlohmann/json.
if(NOT TARGET tokenizers)
  include("${CMAKE_CURRENT_LIST_DIR}/../continual/sentencepiece.cmake")
  find_package(nlohmann_json QUIET)
  find_path(PCRE2_INCLUDE_DIR pcre2.h)
  find_library(PCRE2_LIBRARY pcre2-8)
  find_path(UTF8PROC_INCLUDE_DIR utf8proc.h)
  find_library(UTF8PROC_LIBRARY utf8proc)
  if(NOT (PCRE2_INCLUDE_DIR AND PCRE2_LIBRARY AND UTF8PROC_INCLUDE_DIR AND UTF8PROC_LIBRARY
          AND TARGET nlohmann_json::nlohmann_json))
    message(FATAL_ERROR "the tokenizers need PCRE2, utf8proc and nlohmann/json: install \
libpcre2-dev, libutf8proc-dev and nlohmann-json3-dev (scripts/setup does so on Debian), or set \
ALKN_BUILD_EXAMPLES=OFF")
  endif()
  add_library(tokenizers INTERFACE)
  target_compile_definitions(tokenizers INTERFACE PCRE2_CODE_UNIT_WIDTH=8)
  target_include_directories(tokenizers SYSTEM INTERFACE "${PCRE2_INCLUDE_DIR}"
                                                         "${UTF8PROC_INCLUDE_DIR}")
  target_link_libraries(tokenizers INTERFACE alkn::kernel continual_headers sentencepiece
                                             nlohmann_json::nlohmann_json "${PCRE2_LIBRARY}"
                                             "${UTF8PROC_LIBRARY}")
endif()
