#include "tests/cli/terminal.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "process/process.h"

namespace faultline::test {

Terminal::Terminal(const std::vector<std::string>& arguments) {
  std::string program = process::siblingExecutable("faultline");
  std::vector<std::string> words(arguments);
  words.insert(words.begin(), "faultline");
  std::vector<char*> argv;
  std::transform(words.begin(), words.end(), std::back_inserter(argv),
                 [](auto& word) { return word.data(); });
  argv.push_back(nullptr);
  const winsize size{20, 80, 0, 0};
  int terminal = -1;
  pid_ = forkpty(&terminal, nullptr, nullptr, &size);
  if (pid_ == 0) {
    execv(program.c_str(), argv.data());
    _exit(99);
  }
  terminal_ = kj::AutoCloseFd(terminal);
}

Terminal::~Terminal() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool Terminal::readOn() {
  pollfd ready{terminal_.get(), POLLIN, 0};
  if (poll(&ready, 1, 60'000) <= 0) return false;
  char part[4096];
  const ssize_t got = read(terminal_.get(), part, sizeof part);
  if (got <= 0) return false;
  text_.append(part, static_cast<std::size_t>(got));
  return true;
}

int Terminal::finish() {
  while (readOn()) continue;
  int status = -1;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace faultline::test
