// A fence around the files that a process may open (landlock(7)): a system call filter does not see which file a path names.
#pragma once

#include <string>
#include <vector>

namespace faultline::sandbox {

// From here on this thread, and the threads that it makes, can open these files for reading, what lies in those of them that are
// directories, and no other: for good. Files that are open already stay open. A file that is not there is left out;
// one that is put in its place later is another file. Before there is another thread. Throws std::system_error where the
// kernel has no such fences.
void fenceFiles(const std::vector<std::string>& readable);

}  // namespace faultline::sandbox
