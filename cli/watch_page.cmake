# Writes OUT, a function that returns PAGE.
file(READ ${PAGE} page)
file(WRITE ${OUT} "#include \"cli/metrics_server.h\"\n\nnamespace faultline::cli {\nconst char* watchPage() {\n  return R\"page(${page})page\";\n}\n}  // namespace faultline::cli\n")
