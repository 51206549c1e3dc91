// Starting, watching and ending our own processes. Decisions rest on pidfds, never on a pid.
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace faultline::rpc {

struct ChildProcess {
  pid_t pid = 0;          // to show to people
  kj::AutoCloseFd pidfd;  // readable once the process has ended
};

// The fd that a child finds its channel at.
inline constexpr int CHANNEL_FD = 3;

// Starts `executable` with `arguments` (argv[1..]). The child has our standard streams, `channel` as
// CHANNEL_FD, and nothing else of ours; default signal dispositions, empty signal mask (KJ changes both and
// they would be inherited). Throws naming the executable where it cannot be started.
ChildProcess startProcess(const std::string& executable, const std::vector<std::string>& arguments,
                          int channel);

// The path of an executable that is installed beside the running one.
std::string siblingExecutable(const std::string& name);

// Why the process behind `pidfd` ended, for people: "killed by signal 9 (Killed)", "exited with code 1", or
// "ended (reason unknown)" where it was not our child and the kernel is older than 6.15. Reaps it if it is
// ours.
std::string describeExit(int pidfd);

// SIGKILLs and waits until the process has ended, at most `patience`. false: it has not. Blocks.
bool killAndWait(int pidfd, std::chrono::milliseconds patience);
bool hasEnded(int pidfd);

}  // namespace faultline::rpc
