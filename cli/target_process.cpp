#include "cli/target_process.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rpc/process.h"

namespace faultline::cli {

namespace {

// With `output` as its stdout, and nothing of the signal handling that an event loop needs.
pid_t start(const std::string& executable, const std::vector<std::string>& arguments, int output) {
  std::vector<char*> argv{const_cast<char*>(executable.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  // Not the terminal's to interrupt: who started it ends it.
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  pid_t pid = -1;
  const int error = posix_spawn(&pid, executable.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  KJ_REQUIRE(error == 0, "cannot start", executable.c_str(), std::strerror(error));
  return pid;
}

}  // namespace

TargetProcess::TargetProcess(kj::AsyncIoContext& io, const std::vector<std::string>& arguments) {
  int ends[2];
  KJ_SYSCALL(pipe2(ends, O_CLOEXEC));
  kj::AutoCloseFd reading(ends[0]), writing(ends[1]);
  pid_ = start(rpc::siblingExecutable("faultline-target"), arguments, writing.get());
  output_ =
      io.lowLevelProvider->wrapInputFd(reading.release(), kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP |
                                                              kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
}

TargetProcess::~TargetProcess() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  wait();
}

kj::Promise<void> TargetProcess::whenReporting() {
  return output_->tryRead(first_, 1, CHUNK).then([this](std::size_t bytes) { firstBytes_ = bytes; });
}

kj::Promise<std::string> TargetProcess::report() {
  return output_->readAllText().then(
      [this](kj::String rest) { return std::string(first_, firstBytes_) + rest.cStr(); });
}

int TargetProcess::wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace faultline::cli
