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
// `image`: the program itself, open (O_PATH), so that it is this one whatever file is at `executable` by now;
// -1: what is at `executable`.
ChildProcess startProcess(const std::string& executable, const std::vector<std::string>& arguments,
                          int channel, int image = -1);

// The path of an executable that is installed beside the running one.
std::string siblingExecutable(const std::string& name);

// What tools that list processes call us: started from an open program, we would be a number to them.
void nameProcess(const std::string& name);

// Why the process behind `pidfd` ended, for people: "killed by signal 9 (Killed)", "exited with code 1", or
// "ended (reason unknown)" where it was not our child and the kernel is older than 6.15. Reaps it if it is
// ours.
std::string describeExit(int pidfd);

// SIGKILLs and waits until the process has ended, at most `patience`. false: it has not. Blocks.
bool killAndWait(int pidfd, std::chrono::milliseconds patience);
bool hasEnded(int pidfd);

}  // namespace faultline::rpc
