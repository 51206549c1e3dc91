# Writes OUT, the commit of SOURCE as a function; leaves it as it is where that has not changed.
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit ERROR_QUIET
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT commit MATCHES "^[0-9a-f]+$")
  set(commit unknown)
endif()
file(WRITE ${OUT}.new "#include \"cli/commit.h\"\n\nnamespace faultline::cli {\nconst char* commit() {\n  return \"${commit}\";\n}\n}  // namespace faultline::cli\n")
execute_process(COMMAND ${CMAKE_COMMAND} -E copy_if_different ${OUT}.new ${OUT})
