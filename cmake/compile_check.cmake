# cmake -D DATABASE=.. -D PROBE=.. -D SOURCE=.. [-D MACRO=.. -D MESSAGE=..] [-D FLAG=..] -P compile_check.cmake
#
# Checks SOURCE's syntax with the compiler and the flags of the file PROBE in the compilation
# database. Without MACRO it must compile. With MACRO defined it must not, and the compiler's words
# must match the regular expression MESSAGE (line breaks in them count as spaces). FLAG is added to
# the flags together with MACRO.
cmake_minimum_required(VERSION 3.24)

file(READ "${DATABASE}" database)
string(JSON count LENGTH "${database}")
math(EXPR last "${count} - 1")
foreach(index RANGE ${last})
  string(JSON file GET "${database}" ${index} file)
  if(file MATCHES "/${PROBE}$")
    string(JSON command GET "${database}" ${index} command)
    break()
  endif()
endforeach()
if(NOT command)
  message(FATAL_ERROR "no ${PROBE} in ${DATABASE}")
endif()
string(REGEX REPLACE " -o .*$" "" command "${command}")
separate_arguments(command UNIX_COMMAND "${command}")
list(APPEND command -fsyntax-only)
if(MACRO)
  list(APPEND command "-D${MACRO}" ${FLAG})
endif()

execute_process(COMMAND ${command} "${SOURCE}" RESULT_VARIABLE result ERROR_VARIABLE words)
if(NOT MACRO)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${SOURCE} does not compile:\n${words}")
  endif()
  return()
endif()
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles with ${MACRO}, which it must not")
endif()
string(REGEX REPLACE "[ \n]+" " " words_in_a_line "${words}")
if(NOT words_in_a_line MATCHES "${MESSAGE}")
  message(FATAL_ERROR "${SOURCE} with ${MACRO}: expected an error that matches\n  ${MESSAGE}\n\
got\n${words}")
endif()
