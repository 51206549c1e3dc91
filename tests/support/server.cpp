#include "tests/support/server.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "process/process.h"
#include "rpc/fd.h"

namespace faultline::test {

namespace {

// A page server that ends takes its shards with it; this bounds how long a broken one may hold the suite up.
constexpr int FETCHING_MS = 2000, END_PATIENCE_MS = 20'000;

std::string logLevel(const ServerOptions& options) {
  if (!options.logFile.empty()) return "info";
  const char* wanted = getenv("FAULTLINE_TEST_LOG");
  return wanted == nullptr ? "critical" : wanted;
}

pid_t start(const std::vector<std::string>& arguments, const ServerOptions& options) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("cannot start " + arguments[0]);
  if (pid == 0) {
    // Goes with the test program, however that ends.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setpgid(0, 0);
    if (!options.logFile.empty()) {
      const int log = open(options.logFile.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
      for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) dup2(log, fd);
    }
    if (options.before) options.before();
    execv(argv[0], argv.data());
    _exit(127);
  }
  setpgid(pid, pid);
  return pid;
}

}  // namespace

Server::Server(const Image& image, ServerOptions options)
    : socket_(image.directory() + "/socket"), control_(image.directory() + "/control") {
  const std::string program =
      options.programs.empty() ? process::siblingExecutable("faultline") : options.programs + "/faultline";
  std::vector<std::string> arguments = {program,
                                        "serve",
                                        "--test-hooks",
                                        "--control",
                                        control_,
                                        "--socket",
                                        socket_,
                                        "--memory",
                                        options.memory.empty() ? image.path() : options.memory,
                                        "--name",
                                        "vm",
                                        "--shards",
                                        std::to_string(options.shards),
                                        "--owners",
                                        std::to_string(options.owners),
                                        "--workers",
                                        std::to_string(options.workers),
                                        "--watchdog-ms",
                                        std::to_string(options.watchdogMs),
                                        "--log-level",
                                        logLevel(options)};
  if (options.lockDeadlineMs.has_value())
    arguments.insert(arguments.end(), {"--lock-deadline-ms", std::to_string(*options.lockDeadlineMs)});
  if (!options.prefault) arguments.push_back("--no-prefault");
  arguments.insert(arguments.end(), {"--around", options.around});
  if (options.keepServing) arguments.push_back("--keep-serving");
  arguments.insert(arguments.end(), options.more.begin(), options.more.end());
  pid_ = start(arguments, options);
  reconnect();
}

Server::~Server() {
  lastStatus_ = nullptr;
  client_ = nullptr;
  if (pid_ < 0) return;
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  kill(pid_, SIGTERM);
  pollfd ended{pidfd, POLLIN, 0};
  // It fetches what targets miss: where a test holds that up, the second signal has it end all the same.
  if (poll(&ended, 1, FETCHING_MS) != 1) kill(pid_, SIGINT);
  if (poll(&ended, 1, END_PATIENCE_MS) != 1) {
    ADD_FAILURE() << "the server did not end on SIGTERM";
    kill(-pid_, SIGKILL);
  }
  close(pidfd);
  int status = 0;
  waitpid(pid_, &status, 0);
  // Where a test has killed it, its children end by themselves.
  if (WIFSIGNALED(status)) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(END_PATIENCE_MS);
    await([&] { return kill(-pid_, 0) != 0 || std::chrono::steady_clock::now() >= end; });
  }
  // The server must leave no socket file, and no process of its group.
  for (const std::string& path : {socket_, control_})
    if (access(path.c_str(), F_OK) == 0) ADD_FAILURE() << "the server left " << path << " behind";
  if (kill(-pid_, 0) == 0) {
    ADD_FAILURE() << "the server left processes behind";
    kill(-pid_, SIGKILL);
  }
}

void Server::reconnect() {
  await([this] {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      throw std::runtime_error("the server has ended");
    }
    try {
      if (client_ == nullptr)
        client_ = std::make_unique<rpc::ControlClient>(control_);
      else
        client_->reconnect();
      client_->wait(client_->coordinator().listRequest().send());
      return true;
    } catch (const kj::Exception&) {
      return false;
    }
  });
}

rpc::Restore::Client Server::restore(unsigned n) {
  return restoreNamed(restoreName(n));
}

rpc::Restore::Client Server::restoreNamed(const std::string& name) {
  await([&] {
    auto response = wait(client_->coordinator().listRequest().send());
    for (auto info : response.getRestores())
      if (info.getName() == name.c_str()) return true;
    return false;
  });
  auto restore = client_->restore(name);
  wait(restore.waitReadyRequest().send());
  return restore;
}

rpc::TestHooks::Client Server::hooks() {
  return wait(client_->coordinator().castAs<rpc::TestCoordinator>().testHooksRequest().send()).getHooks();
}

shm::Segment Server::segment(unsigned n) {
  auto request = hooks().segmentRequest();
  request.setRestore(restoreName(n).c_str());
  auto response = wait(request.send());
  return shm::Segment::attach(wait(rpc::requireFd(response.getSegment(), "segment")).get());
}

rpc::Barrier::Client Server::barrier(std::uint64_t page, rpc::FaultPoint point, unsigned n) {
  auto request = hooks().installFaultBarrierRequest();
  request.setRestore(restoreName(n).c_str());
  request.setPage(page);
  request.setPoint(point);
  return wait(request.send()).getBarrier();
}

rpc::ServiceInfo::Reader Server::status() {
  auto response = wait(client_->coordinator().statusRequest().send());
  lastStatus_ = std::make_unique<capnp::MallocMessageBuilder>();
  lastStatus_->setRoot(response.getService());
  return lastStatus_->getRoot<rpc::ServiceInfo>().asReader();
}

pid_t Server::coordinatorPid() {
  return static_cast<pid_t>(status().getCoordinatorPid());
}

pid_t Server::shardPid(unsigned index) {
  return static_cast<pid_t>(status().getShards()[index].getPid());
}

unsigned Server::ownerOf(std::uint64_t page, unsigned n) {
  auto request = hooks().ownerOfRequest();
  request.setRestore(restoreName(n).c_str());
  request.setPage(page);
  return wait(request.send()).getShard();
}

std::uint64_t Server::sum(std::uint64_t (rpc::ShardStats::Reader::*figure)() const, unsigned n) {
  const auto response = wait(client_->restore(restoreName(n)).statsRequest().send());
  std::uint64_t total = 0;
  for (auto shard : response.getStats().getShards()) total += (shard.*figure)();
  return total;
}

std::string Server::eventWith(const std::vector<std::string>& words) {
  for (auto event : status().getEvents()) {
    std::string text = event.getText().cStr();
    if (std::all_of(words.begin(), words.end(),
                    [&text](const std::string& word) { return text.find(word) != std::string::npos; }))
      return text;
  }
  return "";
}

std::string textOf(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace faultline::test
