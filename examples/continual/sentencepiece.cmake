# Target `sentencepiece`: SentencePiece with its trainer, which brings no CMake package in Debian;
# and `continual_headers`, the folder of the example's headers.
if(NOT TARGET continual_headers)
  find_path(SENTENCEPIECE_INCLUDE_DIR sentencepiece_trainer.h)
  find_library(SENTENCEPIECE_LIBRARY sentencepiece)
  find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train)
  if(NOT (SENTENCEPIECE_INCLUDE_DIR AND SENTENCEPIECE_LIBRARY AND SENTENCEPIECE_TRAIN_LIBRARY))
    message(FATAL_ERROR "continual needs SentencePiece: install libsentencepiece-dev (scripts/setup \
does so on Debian), or set ALKN_BUILD_EXAMPLES=OFF")
  endif()
  add_library(sentencepiece INTERFACE)
  target_include_directories(sentencepiece SYSTEM INTERFACE "${SENTENCEPIECE_INCLUDE_DIR}")
  target_link_libraries(sentencepiece INTERFACE "${SENTENCEPIECE_TRAIN_LIBRARY}"
                                                "${SENTENCEPIECE_LIBRARY}")
  add_library(continual_headers INTERFACE)
  target_include_directories(continual_headers INTERFACE "${CMAKE_CURRENT_LIST_DIR}/..")
endif()
