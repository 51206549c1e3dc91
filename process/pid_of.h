// The pid behind a pidfd.
#pragma once

#include <sys/types.h>

namespace faultline::process {

// 0 where there is none in this pid namespace, the process has ended, or it cannot be told. For looking things up in /proc
// alone: by the time it is used the pid may be another's.
pid_t pidOf(int pidfd);

}  // namespace faultline::process
