// The report of a run, for people and for programs; and the exit codes.
#pragma once

#include "client/target_run.h"

namespace faultline::target {

enum ExitCode { OK = 0, MISMATCH = 1, USAGE = 2, ENVIRONMENT = 3, GONE = 4, POISONED = 5 };

enum class Format { text, json };

// Prints to stdout; returns the exit code.
int report(const Run& run, const RunOptions& options, const RunResult& result, Format format);
// Reports a run that did not end in time, and returns the exit code. Any thread.
int reportTimeout(const Run& run, const RunOptions& options, unsigned seconds, Format format);

}  // namespace faultline::target
