#include "tests/operations/fake_systemd.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "process/process.h"
#include "tests/support/server.h"

namespace faultline::test {

namespace {

bool sameOpenFile(int one, int other) {
  const long result = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, one, other);
  KJ_REQUIRE(result >= 0, "kcmp", errno);
  return result == 0;
}

}  // namespace

FakeSystemd::FakeSystemd(std::vector<std::string> arguments)
    : arguments_(std::move(arguments)), directory_("/tmp/faultline-test-XXXXXX") {
  KJ_REQUIRE(mkdtemp(directory_.data()) != nullptr);
  socket_ = kj::AutoCloseFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  stop_ = kj::AutoCloseFd(eventfd(0, EFD_CLOEXEC));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (directory_ + "/notify").copy(address.sun_path, sizeof address.sun_path - 1);
  KJ_SYSCALL(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address));
  // All the time: a full queue would hold the service up.
  hearing_ = std::thread([this] {
    for (;;) {
      pollfd fds[] = {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      poll(fds, 2, -1);
      hear();
      if (fds[1].revents != 0) return;
    }
  });
}

FakeSystemd::~FakeSystemd() {
  if (pid_ > 0) kill();
  const std::uint64_t one = 1;
  KJ_SYSCALL(write(stop_.get(), &one, sizeof one));
  hearing_.join();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void FakeSystemd::give(const std::string& name, kj::AutoCloseFd fd) {
  const threads::Lock lock(mutex_);
  kept_.emplace(name, kj::mv(fd));
}

void FakeSystemd::start(const std::vector<std::string>& more) {
  const threads::Lock lock(mutex_);
  std::string names;
  for (const auto& [name, fd] : kept_) names += (names.empty() ? "" : ":") + name;
  pid_ = fork();
  KJ_REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    // First out of the way of the numbers that they are to have.
    std::vector<int> high;
    for (const auto& [name, fd] : kept_) high.push_back(fcntl(fd.get(), F_DUPFD_CLOEXEC, 1000));
    int number = 3;
    for (const int fd : high) dup2(fd, number++);
    setenv("NOTIFY_SOCKET", (directory_ + "/notify").c_str(), 1);
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    setenv("LISTEN_FDS", std::to_string(high.size()).c_str(), 1);
    setenv("LISTEN_FDNAMES", names.c_str(), 1);
    const std::string program = process::siblingExecutable("faultline");
    std::vector<char*> argv{const_cast<char*>(program.c_str()), const_cast<char*>("serve")};
    for (const auto* arguments : {&arguments_, &more})
      for (const std::string& argument : *arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  setpgid(pid_, pid_);
}

int FakeSystemd::end(int signal) {
  ::kill(pid_, signal);
  int status = 0;
  KJ_SYSCALL(waitpid(pid_, &status, 0));
  ::kill(-pid_, SIGKILL);
  await([this] { return ::kill(-pid_, 0) != 0; });
  pid_ = -1;
  // Its last messages may still lie there.
  hear();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void FakeSystemd::kill() {
  ::kill(-pid_, SIGKILL);
  end(SIGKILL);
}

std::vector<std::string> FakeSystemd::kept() {
  const threads::Lock lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, fd] : kept_) names.push_back(name);
  return names;
}

// Messages are taken one at a time and in their order, by whichever thread.
void FakeSystemd::hear() {
  const threads::Lock lock(mutex_);
  for (;;) {
    char text[512];
    iovec body{text, sizeof text};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &body;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got < 0) return;
    kj::AutoCloseFd fd;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_type != SCM_RIGHTS) continue;
      int number;
      std::memcpy(&number, CMSG_DATA(header), sizeof number);
      fd = kj::AutoCloseFd(number);
    }
    take(std::string(text, static_cast<std::size_t>(got)), kj::mv(fd));
  }
}

void FakeSystemd::take(const std::string& text, kj::AutoCloseFd fd) {
  std::istringstream lines(text);
  std::string name;
  bool store = false, remove = false;
  for (std::string line; std::getline(lines, line);) {
    store |= line == "FDSTORE=1";
    remove |= line == "FDSTOREREMOVE=1";
    if (line.starts_with("FDNAME=")) name = line.substr(7);
  }
  // Of one name it keeps as many as it is given; of one open file description only the first, whatever its
  // name (core/service.c, service_add_fd_store).
  const auto same = [&fd](const auto& entry) { return sameOpenFile(entry.second.get(), fd.get()); };
  if (store && fd.get() >= 0 && std::none_of(kept_.begin(), kept_.end(), same))
    kept_.emplace(name, kj::mv(fd));
  if (remove) kept_.erase(name);
}

}  // namespace faultline::test
