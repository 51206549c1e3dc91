// Sets of CPUs as people write them: 0-3,8 (taskset(1), cpuset(7)).
#pragma once

#include <string>

namespace faultline::process {

// Reason why `list` is not right for this process (with what would be right), or an empty string.
std::string whyNotCpuList(const std::string& list);

// The calling thread, and all that it starts from now on, runs on these CPUs only. `list` must be right;
// throws kj::Exception where the kernel refuses all the same.
void runOnCpus(const std::string& list);

}  // namespace faultline::process
