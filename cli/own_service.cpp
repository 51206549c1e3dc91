#include "cli/own_service.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cli/errors.h"
#include "process/close_errors.h"
#include "process/kept_name.h"
#include "process/log.h"
#include "process/process.h"
#include "supervisor/supervisor.h"

namespace faultline::cli {

namespace {

std::string runtimeDirectory() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  return runtime != nullptr && access(runtime, W_OK) == 0 ? runtime : "/tmp";
}

int supervise(const ServiceOptions& options, kj::AutoCloseFd control, int ready) {
  logToStderr();
  setLogLevel(options.logLevel);
  supervisor::FdStore kept;
  kept.keep(process::KeptName::service(process::KeptName::Part::control).text(), kj::mv(control));
  const process::CloseErrorsLogged closing;
  supervisor::SupervisorOptions parent;
  parent.build = process::Build::open(process::ownDirectory());
  parent.arguments = options.coordinatorArguments();
  parent.watchdog = std::chrono::milliseconds(options.watchdogMs);
  parent.whenReady = [ready] { [[maybe_unused]] const auto n = write(ready, "r", 1); };
  return supervisor::Supervisor(std::move(parent), kj::mv(kept)).run();
}

}  // namespace

OwnService::OwnService(const ServiceOptions& options)
    : directory_(runtimeDirectory(), "set XDG_RUNTIME_DIR to a directory of yours"),
      control_(directory_.path() + "/control") {
  int ready[2];
  KJ_SYSCALL(pipe2(ready, O_CLOEXEC));
  kj::AutoCloseFd readyRead(ready[0]), readyWrite(ready[1]);
  kj::AutoCloseFd socket = control_.take();
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ < 0)
    throw CommandError(ENVIRONMENT,
                       std::string("cannot start a process for the service: ") + std::strerror(errno) +
                           "; is a limit of processes reached (ulimit -u, TasksMax=), or of memory?");
  if (pid_ == 0) {
    // Ends with the command, however that ends; not on the terminal's interrupt, which is the command's to
    // handle.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(FAILED);
    setpgid(0, 0);
    readyRead = kj::AutoCloseFd();
    const int code = guarded([&] { return supervise(options, kj::mv(socket), readyWrite.get()); });
    process::flushLog();
    _exit(code);
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  KJ_ASSERT(pidfd >= 0, "pidfd_open", std::strerror(errno));
  pidfd_ = kj::AutoCloseFd(pidfd);
  // Its end of the pipe must be the only one.
  readyWrite = kj::AutoCloseFd();
  waitUntilReady(kj::mv(readyRead));
}

void OwnService::waitUntilReady(kj::AutoCloseFd ready) {
  char said = 0;
  while (read(ready.get(), &said, 1) < 0 && errno == EINTR) continue;
  if (said == 'r') return;
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  const bool refused = WIFEXITED(status) && process::refusedItsStart(WEXITSTATUS(status));
  throw CommandError(refused ? ENVIRONMENT : FAILED,
                     "the service could not be started; its messages are above");
}

bool OwnService::gone() const {
  return process::hasEnded(pidfd_.get());
}

OwnService::~OwnService() {
  // Of two that are equal it would hear once.
  process::sendSignal(pidfd_.get(), SIGTERM);
  if (hurried_) process::sendSignal(pidfd_.get(), SIGINT);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

}  // namespace faultline::cli
