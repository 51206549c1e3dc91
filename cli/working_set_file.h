// Working sets in files: read with every check, written whole or not at all.
#pragma once

#include <string>

#include "cli/memory_file.h"
#include "cli/working_set.h"

namespace faultline::cli {

// CommandError(USAGE) naming the file and what is wrong with it.
WorkingSet readWorkingSet(const std::string& path);

// Reads a working set of this snapshot only: refused where it was recorded with another one. `memory`: the
// opened memory file, borrowed; `memoryPath` is what it is called.
WorkingSet readWorkingSetFor(const std::string& path, int memory, const std::string& memoryPath);
// Names all the layers of a memory alike.
WorkingSet readWorkingSetFor(const std::string& path, const Memory& memory);

// Replaces `path` in one step: a reader sees the former file or the new one, also after a crash.
// CommandError(FAILED) where it can't be written; the former file is there still then.
void writeWorkingSet(const std::string& path, const WorkingSet& set);

// CommandError(USAGE) where writeWorkingSet() could not write there: asked before a recording begins.
void requireWritable(const std::string& path);

}  // namespace faultline::cli
