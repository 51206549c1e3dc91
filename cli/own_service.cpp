#include "cli/own_service.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "cli/supervisor.h"

namespace faultline::cli {

namespace {

std::string makeDirectory() {
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  std::string path = std::string(runtime != nullptr ? runtime : "/tmp") + "/faultline-XXXXXX";
  if (mkdtemp(path.data()) == nullptr)
    throw CommandError(ENVIRONMENT, "cannot make a private directory " + path + ": " + std::strerror(errno));
  return path;
}

}  // namespace

OwnService::OwnService(const ServiceOptions& options)
    : directory_(makeDirectory()), control_(directory_ + "/control") {
  kj::AutoCloseFd socket = makeSocket(control_);
  int ready[2];
  KJ_SYSCALL(pipe2(ready, O_CLOEXEC));
  kj::AutoCloseFd readyRead(ready[0]), readyWrite(ready[1]);
  pid_ = fork();
  if (pid_ < 0) throw CommandError(ENVIRONMENT, std::string("cannot fork: ") + std::strerror(errno));
  if (pid_ == 0) {
    // Ends with the command, however that ends; not on the terminal's interrupt, which is the command's to
    // handle.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0);
    readyRead = kj::AutoCloseFd();
    FdStore kept;
    kept.keep("control", kj::mv(socket));
    SupervisorOptions supervisor;
    supervisor.executable = rpc::siblingExecutable("faultline-coordinator");
    supervisor.arguments = options.coordinatorArguments();
    supervisor.watchdog = std::chrono::milliseconds(options.watchdogMs);
    supervisor.startLimit = 5 * supervisor.watchdog;
    supervisor.whenReady = [&readyWrite] { [[maybe_unused]] const auto n = write(readyWrite.get(), "r", 1); };
    spdlog::set_level(spdlog::level::from_str(options.logLevel));
    _exit(guarded([&] { return Supervisor(std::move(supervisor), kj::mv(kept)).run(); }));
  }
  readyWrite = kj::AutoCloseFd();
  char said = 0;
  while (read(readyRead.get(), &said, 1) < 0 && errno == EINTR) continue;
  if (said != 'r') throw CommandError(FAILED, "the service could not be started; its messages are above");
}

OwnService::~OwnService() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
  }
  unlink(control_.c_str());
  rmdir(directory_.c_str());
}

}  // namespace faultline::cli
