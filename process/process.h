// Starting, watching and ending our own processes. Decisions rest on pidfds, never on a pid.
#pragma once

#include <kj/async-unix.h>
#include <kj/io.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace faultline::process {

struct ChildProcess {
  pid_t pid = 0;          // to show to people
  kj::AutoCloseFd pidfd;  // readable once the process has ended
};

// The fd that a child of ours finds its channel at.
inline constexpr int CHANNEL_FD = 3;

struct ChildOptions {
  // The program itself, open (O_PATH), so that it is this one whatever file is at the executable's path by
  // now; -1: the file at the path.
  int image = -1;
  int channelAs = CHANNEL_FD;
  bool ownGroup = false;  // not the terminal's to interrupt: its parent ends it
};

// Starts `executable` with `arguments` (argv[1..]). The child has our standard streams, `channel` as the fd
// that the options say, and nothing else of ours; default signal dispositions, empty signal mask (KJ changes
// both and they would be inherited). Throws naming the executable where it cannot be started.
ChildProcess startProcess(const std::string& executable, const std::vector<std::string>& arguments,
                          int channel, const ChildOptions& options = {});

// The directory of the running program.
std::string ownDirectory();
// The path of an executable that is installed beside it.
std::string siblingExecutable(const std::string& name);

// Sets the name that tools show for this process: started from an open program, it would be a number.
void nameProcess(const std::string& name);

// Marks all fds besides stdin, stdout and stderr close-on-exec, so that no child inherits one that this process was
// started with. To be called first of all in main().
void passNoFdsOn();

// For a process that sees guests' memory: it leaves no core dump, and no other process of the same user may
// trace it or look into its memory or fds (prctl(2), PR_SET_DUMPABLE).
void keepMemoryPrivate();

// Why a process has ended.
struct Exit {
  std::string text;  // for people: "killed by signal 9 (Killed)", "exited with code 1"
  int signal = 0;    // 0: by none, or that is not known
};
// The exit of the process behind `pidfd`; "ended (reason unknown)" where it was not our child and the kernel is older than 6.15.
// Reaps it if it is ours.
Exit exitOf(int pidfd);
// Its text.
std::string describeExit(int pidfd);

// false: there is no such process any more, or we may not; errno says which.
bool sendSignal(int pidfd, int number);
// The exit codes by which a program says that it cannot begin with what it was given (sysexits.h).
constexpr bool refusedItsStart(int exitCode) {
  return exitCode >= 64 && exitCode <= 78;
}
// SIGKILLs and waits until the process has ended, at most `patience`. false: it has not. Blocks.
bool killAndWait(int pidfd, std::chrono::milliseconds patience);
bool hasEnded(int pidfd);
// killAndWait() of a child that no other code reaps.
void endChild(int pidfd, std::chrono::milliseconds patience);

}  // namespace faultline::process
