#include "tests/cli/supervised.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "cli/errors.h"
#include "cli/service_options.h"
#include "process/process.h"
#include "supervisor/supervisor.h"

namespace faultline::test {

namespace {

kj::AutoCloseFd pidfdOf(pid_t pid) {
  int fd;
  KJ_SYSCALL(fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0)), pid);
  return kj::AutoCloseFd(fd);
}

kj::AutoCloseFd listenForWords(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  kj::AutoCloseFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  KJ_SYSCALL(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
  KJ_SYSCALL(::listen(fd.get(), 16));
  return fd;
}

}  // namespace

void awaitReadable(int fd, const std::string& what) {
  pollfd poll{fd, POLLIN, 0};
  const auto patience = std::chrono::milliseconds(PATIENCE).count();
  if (::poll(&poll, 1, static_cast<int>(patience)) != 1)
    throw std::runtime_error("waited in vain for " + what);
}

kj::AutoCloseFd memoryWith(const std::string& content) {
  int fd;
  KJ_SYSCALL(fd = memfd_create("test", MFD_CLOEXEC));
  kj::AutoCloseFd result(fd);
  KJ_SYSCALL(write(fd, content.data(), content.size()));
  return result;
}

std::string contentOf(int fd) {
  char text[256];
  ssize_t got;
  KJ_SYSCALL(got = pread(fd, text, sizeof text, 0));
  return std::string(text, static_cast<std::size_t>(got));
}

// --- Incarnation ---

Incarnation::Incarnation(kj::AutoCloseFd connection) : channel_(kj::mv(connection)) {
  pid_ = static_cast<pid_t>(std::stoi(expect("hello").name));
  pidfd_ = pidfdOf(pid_);
}

process::FdChannel::Message Incarnation::next() {
  awaitReadable(channel_.fd(), "a word of the coordinator");
  auto received = channel_.receive(process::FdChannel::Wait::yes);
  KJ_IF_MAYBE (word, received) {
    return kj::mv(*word);
  }
  throw std::runtime_error("the coordinator has gone");
}

process::FdChannel::Message Incarnation::expect(const std::string& verb) {
  process::FdChannel::Message word = next();
  if (word.verb != verb)
    throw std::runtime_error("expected \"" + verb + "\", got \"" + word.verb + " " + word.name + "\"");
  return word;
}

process::FdChannel::Message Incarnation::skipTo(const std::string& verb) {
  for (;;) {
    process::FdChannel::Message word = next();
    if (word.verb == verb) return word;
  }
}

Incarnation::Introduction Incarnation::introduction() {
  Introduction result;
  for (;;) {
    process::FdChannel::Message word = next();
    if (word.verb == "fd") {
      result.names.push_back(word.name);
      result.fds[word.name] = kj::mv(word.fd);
    } else if (word.verb == "lost") {
      result.lost.push_back(word.name);
    } else if (word.verb == "event") {
      result.events.push_back(word.name);
    } else if (word.verb == "incarnation") {
      result.number = word.name;
    } else if (word.verb == "died") {
      result.died = word.name;
    } else if (word.verb == "diedat") {
      result.diedAt = std::stoull(word.name);
    } else if (word.verb == "asked") {
      result.asked = true;
    } else if (word.verb == "upgradegivenup") {
      result.upgradeGivenUp = word.name;
    } else if (word.verb == "end") {
      result.end = word.name;
    } else if (word.verb == "managed") {
      result.managed = true;
    } else if (word.verb == "start") {
      return result;
    } else if (word.verb != "pinged") {
      throw std::runtime_error("a strange word as it starts: " + word.verb);
    }
  }
}

void Incarnation::say(const std::string& verb, const std::string& name, int fd) {
  channel_.send(verb, name, fd);
  expect("said");
}

void Incarnation::signal(int number) const {
  KJ_SYSCALL(static_cast<int>(syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0)));
}

void Incarnation::kill() const {
  signal(SIGKILL);
  awaitReadable(pidfd_.get(), "a coordinator's death");
}

// --- Supervised ---

Supervised::Supervised(Beginning setup) {
  directory_ = std::filesystem::temp_directory_path() / "faultline-test-XXXXXX";
  KJ_REQUIRE(mkdtemp(directory_.data()) != nullptr);
  listening_ = listenForWords(directory_ + "/words");
  makeStartable();
  int ends[2];
  KJ_SYSCALL(pipe2(ends, O_CLOEXEC));
  ready_ = kj::AutoCloseFd(ends[0]);
  kj::AutoCloseFd ready(ends[1]);
  pid_ = fork();
  KJ_REQUIRE(pid_ >= 0);
  if (pid_ == 0) run(kj::mv(setup), ready.get());
  pidfd_ = pidfdOf(pid_);
}

void Supervised::run(Beginning setup, int ready) {
  // A broken supervisor must not outlive its test.
  setpgid(0, 0);
  const char* level = getenv("FAULTLINE_TEST_LOG");
  cli::setLogLevel(level != nullptr ? level : "off");
  if (setup.inChild) setup.inChild();
  supervisor::ServiceManager manager;
  if (setup.given) {
    ready = fcntl(ready, F_DUPFD_CLOEXEC, 200);
    const std::string names = setup.given();
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    setenv("LISTEN_FDS", std::to_string(1 + std::count(names.begin(), names.end(), ':')).c_str(), 1);
    setenv("LISTEN_FDNAMES", names.c_str(), 1);
    manager.giveBack(setup.kept);
  }
  supervisor::SupervisorOptions options;
  options.executable = directory_ + "/coordinator";
  options.arguments = {directory_ + "/words", std::to_string(setup.pingMs)};
  options.watchdog = setup.watchdog;
  options.startLimit = setup.startLimit;
  options.whenReady = [ready] { KJ_SYSCALL(write(ready, "r", 1)); };
  _exit(cli::guarded(
      [&] { return supervisor::Supervisor(std::move(options), kj::mv(setup.kept), kj::mv(manager)).run(); }));
}

Supervised::~Supervised() {
  if (pid_ > 0) {
    // Its coordinators are in its group.
    ::kill(-pid_, SIGKILL);
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void Supervised::signal(int number) const {
  KJ_SYSCALL(static_cast<int>(syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0)));
}

void Supervised::stop() const {
  signal(SIGSTOP);
  siginfo_t info{};
  KJ_SYSCALL(waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED));
}

Incarnation Supervised::next() {
  awaitReadable(listening_.get(), "the next coordinator");
  int fd;
  KJ_SYSCALL(fd = accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  return Incarnation(kj::AutoCloseFd(fd));
}

void Supervised::awaitReady() {
  awaitReadable(ready_.get(), "the supervisor to hear that the coordinator serves");
}

int Supervised::exitCode() {
  awaitReadable(pidfd_.get(), "the supervisor's end");
  int status = 0;
  KJ_SYSCALL(waitpid(pid_, &status, 0));
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void Supervised::makeUnstartable() {
  std::filesystem::remove(directory_ + "/coordinator");
}

void Supervised::makeStartable() {
  std::filesystem::create_symlink(process::siblingExecutable("fake-coordinator"),
                                  directory_ + "/coordinator");
}

Incarnation begin(Supervised& supervised) {
  Incarnation first = supervised.next();
  first.introduction();
  first.say("ready");
  supervised.awaitReady();
  return first;
}

}  // namespace faultline::test
