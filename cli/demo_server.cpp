#include "cli/demo_server.h"

#include <kj/exception.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "cli/errors.h"
#include "process/clock.h"
#include "rpc/connection.h"

namespace faultline::cli {

namespace {

constexpr std::uint64_t PATIENCE = 10'000'000'000;  // ns
constexpr int LOOK_MS = 5;

bool answers(const std::string& socket) {
  bool connected = false;
  kj::runCatchingExceptions([&] {
    rpc::connectTo(socket);
    connected = true;
  });
  return connected;
}

}  // namespace

DemoServer::DemoServer(std::string file, std::string socket)
    : file_(std::move(file)), socket_(std::move(socket)) {
  start();
}

DemoServer::~DemoServer() {
  kill();
}

void DemoServer::start() {
  // What is left of one that was killed would be in its way.
  unlink(socket_.c_str());
  try {
    process_ = std::make_unique<UserCommand>(
        std::vector<std::string>{"nbdkit", "--foreground", "--readonly", "--exit-with-parent", "--threads",
                                 "1", "--unix", socket_, "file", file_},
        std::map<std::string, std::string>());
  } catch (const CommandError& error) {
    throw CommandError(ENVIRONMENT, std::string("no NBD server can be started: ") + error.what() +
                                        "; install nbdkit (Debian: apt install nbdkit libnbd0)");
  }
  for (const std::uint64_t end = process::nowNs() + PATIENCE; !answers(socket_);) {
    pollfd ended{process_->pidfd(), POLLIN, 0};
    if (poll(&ended, 1, LOOK_MS) == 1 || process::nowNs() > end)
      throw CommandError(ENVIRONMENT, "nbdkit does not serve " + file_);
  }
}

void DemoServer::kill() {
  if (process_ == nullptr) return;
  process_->signal(SIGKILL);
  process_->wait();
  process_ = nullptr;
}

}  // namespace faultline::cli
