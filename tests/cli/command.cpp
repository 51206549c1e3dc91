#include "tests/cli/command.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "process/process.h"

namespace faultline::test {

namespace {

constexpr int PATIENCE_MS = 60'000;

std::pair<kj::AutoCloseFd, kj::AutoCloseFd> makePipe() {
  int ends[2];
  KJ_SYSCALL(pipe2(ends, O_CLOEXEC));
  return {kj::AutoCloseFd(ends[0]), kj::AutoCloseFd(ends[1])};
}

}  // namespace

Command::Command(const std::vector<std::string>& arguments, const std::string& executable) {
  const std::string path = executable.front() == '/' ? executable : process::siblingExecutable(executable);
  std::vector<char*> argv{const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  auto [outRead, outWrite] = makePipe();
  auto [errRead, errWrite] = makePipe();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, outWrite.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errWrite.get(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  const int error = posix_spawn(&pid_, path.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  KJ_REQUIRE(error == 0, "cannot start", path.c_str());
  out_ = kj::mv(outRead);
  err_ = kj::mv(errRead);
}

Command::~Command() {
  if (pid_ < 0) return;
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Command::signal(int number) const {
  KJ_SYSCALL(kill(pid_, number));
}

void Command::awaitStop() const {
  siginfo_t seen;
  KJ_SYSCALL(waitid(P_PID, static_cast<id_t>(pid_), &seen, WSTOPPED | WNOWAIT));
}

bool Command::readOn() {
  pollfd fds[] = {{out_.get(), POLLIN, 0}, {err_.get(), POLLIN, 0}};
  if (out_.get() < 0 && err_.get() < 0) return false;
  if (poll(fds, 2, PATIENCE_MS) <= 0)
    throw std::runtime_error("it says nothing more:\n" + result_.out + result_.err);
  for (const auto& [poll, fd, text] :
       {std::tuple(&fds[0], &out_, &result_.out), std::tuple(&fds[1], &err_, &result_.err)}) {
    if (poll->revents == 0) continue;
    char buffer[4096];
    const ssize_t got = read(fd->get(), buffer, sizeof buffer);
    if (got > 0)
      text->append(buffer, static_cast<std::size_t>(got));
    else
      *fd = kj::AutoCloseFd();
  }
  return true;
}

void Command::await(const std::string& text) {
  auto said = [&] {
    return result_.out.find(text) != std::string::npos || result_.err.find(text) != std::string::npos;
  };
  while (!said())
    if (!readOn())
      throw std::runtime_error("it ended without \"" + text + "\":\n" + result_.out + result_.err);
}

Command::Result Command::finish() {
  while (readOn()) continue;
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  pid_ = -1;
  result_.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result_;
}

Command::Result run(const std::vector<std::string>& arguments) {
  return Command(arguments).finish();
}

// --- Directory ---

Directory::Directory() : path_(std::filesystem::temp_directory_path() / "faultline-test-XXXXXX") {
  KJ_REQUIRE(mkdtemp(path_.data()) != nullptr);
}

Directory::~Directory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Directory::file(const std::string& name, const std::string& content) const {
  std::ofstream(path_ + "/" + name) << content;
  return path_ + "/" + name;
}

std::string Directory::image(unsigned mib) const {
  std::string page(4096, 'p');
  std::ofstream out(path_ + "/image");
  for (unsigned i = 0; i < mib * 256; i++) {
    page.replace(0, 16, std::to_string(1'000'000'000 + i) + "pages!");
    out << page;
  }
  return path_ + "/image";
}

std::vector<std::string> Directory::content() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    names.push_back(entry.path().filename());
  return names;
}

}  // namespace faultline::test
