#include "tests/nbd/nbd_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>

namespace faultline::test {

namespace {

std::string pathOf(const std::string& program) {
  for (const char* folder : {"/usr/bin/", "/usr/sbin/", "/bin/"})
    if (std::filesystem::exists(folder + program)) return folder + program;
  return "";
}

// What the program says goes into `log`.
pid_t started(std::vector<std::string> command, const std::string& log) {
  command[0] = pathOf(command[0]);
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(out, 1);
  dup2(out, 2);
  execv(argv[0], argv.data());
  _exit(127);
}

bool answersAt(const std::string& host) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(10809);
  inet_pton(AF_INET, host.c_str(), &address.sin_addr);
  const kj::AutoCloseFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

bool answers(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const kj::AutoCloseFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

std::string NbdServer::whyNot(const std::string& program) {
  return pathOf(program).empty() ? program + " is not installed (scripts/deps)" : "";
}

NbdServer::NbdServer(std::vector<std::string> command, std::string host)
    : command_(std::move(command)), host_(std::move(host)) {
  start();
}

NbdServer::~NbdServer() {
  kill();
}

std::vector<std::string> NbdServer::ofFile(const std::string& path, std::vector<std::string> filters,
                                           std::vector<std::string> options) {
  std::vector<std::string> command{"nbdkit", "-f", "-U", "{}", "-t", "1"};
  for (const std::string& filter : filters) command.push_back("--filter=" + filter);
  command.insert(command.end(), {"file", path});
  command.insert(command.end(), options.begin(), options.end());
  return command;
}

void NbdServer::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void NbdServer::startAs(std::vector<std::string> command) {
  command_ = std::move(command);
  start();
}

void NbdServer::start() {
  std::filesystem::remove(socket());
  std::vector<std::string> command = command_;
  for (std::string& argument : command)
    if (const std::size_t at = argument.find("{}"); at != std::string::npos)
      argument.replace(at, 2, socket());
  pid_ = started(std::move(command), directory_ / "log");
  awaitAnswer();
}

void NbdServer::awaitAnswer() const {
  await([&] {
    if (waitpid(pid_, nullptr, WNOHANG) != 0) throw std::runtime_error(command_[0] + " has ended: " + log());
    return host_.empty() ? answers(socket()) : answersAt(host_);
  });
}

std::size_t NbdServer::sockets() const {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/fd")) {
    std::error_code closed;
    count += std::filesystem::read_symlink(entry.path(), closed).string().rfind("socket:", 0) == 0;
  }
  return count;
}

void NbdServer::stall() const {
  ::kill(pid_, SIGSTOP);
  // Each of its threads by itself.
  await([&] {
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task"))
      if (textOf(thread.path() / "stat").find(") T ") == std::string::npos) return false;
    return true;
  });
}

void NbdServer::goOn() const {
  ::kill(pid_, SIGCONT);
}

ServerOptions serving(const NbdServer& source, ServerOptions options) {
  options.memory = source.uri();
  return options;
}

std::string ownAddress() {
  const auto pid = static_cast<unsigned>(getpid());  // below 2^22, include/linux/threads.h
  return "127." + std::to_string(128 + (pid >> 16)) + "." + std::to_string(pid >> 8 & 0xff) + "." +
         std::to_string(pid & 0xff);
}

void runTool(const std::vector<std::string>& command) {
  const Directory directory;
  const pid_t pid = started(command, directory / "log");
  int status = 0;
  waitpid(pid, &status, 0);
  if (status != 0) throw std::runtime_error(command[0] + ": " + textOf(directory / "log"));
}

}  // namespace faultline::test
