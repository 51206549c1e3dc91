#include "cli/user_command.h"

#include <kj/debug.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/errors.h"
#include "process/process.h"

namespace faultline::cli {

namespace {

std::vector<std::string> environmentWith(const std::map<std::string, std::string>& more) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; entry++) {
    const std::string text = *entry;
    if (more.count(text.substr(0, text.find('='))) == 0) all.push_back(text);
  }
  for (const auto& [name, value] : more) all.push_back(std::string(name).append("=").append(value));
  return all;
}

std::vector<char*> pointersTo(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

UserCommand::UserCommand(const std::vector<std::string>& arguments,
                         const std::map<std::string, std::string>& more) {
  auto texts = arguments, environment = environmentWith(more);
  // KJ blocks signals and catches some: both would be inherited.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  KJ_DEFER(posix_spawnattr_destroy(&attributes));
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  const int error = posix_spawnp(&pid_, texts.front().c_str(), nullptr, &attributes, pointersTo(texts).data(),
                                 pointersTo(environment).data());
  if (error != 0)
    throw CommandError(static_cast<Exit>(error == ENOENT ? NOT_FOUND_ON_PATH : NOT_RUN),
                       arguments.front() + ": " + std::strerror(error));
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  KJ_ASSERT(pidfd >= 0, "pidfd_open", std::strerror(errno));
  pidfd_ = kj::AutoCloseFd(pidfd);
}

void UserCommand::signal(int number) const {
  process::sendSignal(pidfd_.get(), number);
}

int UserCommand::wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace faultline::cli
