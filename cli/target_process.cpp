#include "cli/target_process.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

namespace faultline::cli {

namespace {
constexpr std::chrono::seconds KILL_PATIENCE{10};
}

TargetProcess::TargetProcess(kj::AsyncIoContext& io, const std::vector<std::string>& arguments) {
  int ends[2];
  KJ_SYSCALL(pipe2(ends, O_CLOEXEC));
  kj::AutoCloseFd reading(ends[0]), writing(ends[1]);
  process_ = process::startProcess(process::siblingExecutable("faultline-target"), arguments, writing.get(),
                                   {.channelAs = STDOUT_FILENO, .ownGroup = true});
  output_ =
      io.lowLevelProvider->wrapInputFd(reading.release(), kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP |
                                                              kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
}

TargetProcess::~TargetProcess() {
  if (process_.pidfd.get() >= 0) process::endChild(process_.pidfd.get(), KILL_PATIENCE);
}

kj::Promise<void> TargetProcess::whenReporting() {
  return output_->tryRead(first_, 1, CHUNK).then([this](std::size_t bytes) { firstBytes_ = bytes; });
}

kj::Promise<std::string> TargetProcess::report() {
  return output_->readAllText().then(
      [this](kj::String rest) { return std::string(first_, firstBytes_) + rest.cStr(); });
}

int TargetProcess::wait() {
  siginfo_t info{};
  int result;
  KJ_SYSCALL(result = waitid(P_PIDFD, static_cast<id_t>(process_.pidfd.get()), &info, WEXITED),
             "wait for the target");
  process_.pidfd = nullptr;
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

}  // namespace faultline::cli
