#include "process/process.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <filesystem>

namespace faultline::process {

namespace {

// include/uapi/linux/pidfd.h of Linux 6.13 and later; Debian 12's headers have neither.
struct PidfdInfo {
  std::uint64_t mask, cgroupid;
  std::uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  std::int32_t exitCode;
};
constexpr std::uint64_t PIDFD_INFO_EXIT_BIT = 1u << 3;  // since 6.15

Exit ofStatus(int status) {
  if (!WIFSIGNALED(status)) return {"exited with code " + std::to_string(WEXITSTATUS(status))};
  const int signal = WTERMSIG(status);
  return {"killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")", signal};
}

}  // namespace

ChildProcess startProcess(const std::string& executable, const std::vector<std::string>& arguments,
                          int channel, const ChildOptions& options) {
  std::vector<char*> argv{const_cast<char*>(executable.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  // Out of the way of the channel; gone with the exec.
  kj::AutoCloseFd program;
  std::string path = executable;
  if (options.image >= 0) {
    int high;
    KJ_SYSCALL(high = fcntl(options.image, F_DUPFD_CLOEXEC, options.channelAs + 1));
    program = kj::AutoCloseFd(high);
    path = "/proc/self/fd/" + std::to_string(high);
  }

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // Clears close-on-exec also where the number is already right (glibc >= 2.29).
  posix_spawn_file_actions_adddup2(&actions, channel, options.channelAs);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  const int group = options.ownGroup ? POSIX_SPAWN_SETPGROUP : 0;
  posix_spawnattr_setflags(&attributes,
                           static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | group));

  pid_t pid = 0;
  const int error = posix_spawn(&pid, path.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  KJ_REQUIRE(error == 0, "cannot start", executable.c_str(), std::strerror(error));

  // The child's number is not taken anew: it stays a zombie until this process waits for it.
  int pidfd;
  KJ_SYSCALL(pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0)), "pidfd_open");
  return {pid, kj::AutoCloseFd(pidfd)};
}

std::string ownDirectory() {
  // " (deleted)" stands behind the name of the file: its directory is right all the same.
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

std::string siblingExecutable(const std::string& name) {
  return ownDirectory() + "/" + name;
}

void nameProcess(const std::string& name) {
  prctl(PR_SET_NAME, name.c_str());
}

void passNoFdsOn() {
  KJ_SYSCALL(close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC));
}

void keepMemoryPrivate() {
  const rlimit none{0, 0};
  KJ_SYSCALL(setrlimit(RLIMIT_CORE, &none));
  KJ_SYSCALL(prctl(PR_SET_DUMPABLE, 0));
}

std::string describeExit(int pidfd) {
  return exitOf(pidfd).text;
}

Exit exitOf(int pidfd) {
  siginfo_t info{};
  if (waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0)
    return info.si_code == CLD_EXITED ? Exit{"exited with code " + std::to_string(info.si_status)}
                                      : ofStatus(info.si_status);
  PidfdInfo exit{};
  exit.mask = PIDFD_INFO_EXIT_BIT;
  if (ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &exit) == 0 && (exit.mask & PIDFD_INFO_EXIT_BIT) != 0)
    return ofStatus(exit.exitCode);
  return {"ended (reason unknown)"};
}

bool hasEnded(int pidfd) {
  pollfd poll{pidfd, POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

bool sendSignal(int pidfd, int number) {
  return syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0) == 0;
}

bool killAndWait(int pidfd, std::chrono::milliseconds patience) {
  sendSignal(pidfd, SIGKILL);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd poll{pidfd, POLLIN, 0};
    const int ready = ::poll(&poll, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready == 1) return true;
    if (ready == 0) return false;
  }
}

void endChild(int pidfd, std::chrono::milliseconds patience) {
  killAndWait(pidfd, patience);
  describeExit(pidfd);
}

}  // namespace faultline::process
