// A real NBD server for the demonstration, which is killed in the middle of it.
#pragma once

#include <memory>
#include <string>

#include "cli/user_command.h"

namespace faultline::cli {

// nbdkit, which serves a file on a Unix socket. Killed with the object.
class DemoServer {
 public:
  // `socket`: an absolute path where nothing is. CommandError(ENVIRONMENT) where there is no nbdkit.
  DemoServer(std::string file, std::string socket);
  ~DemoServer();
  DemoServer(const DemoServer&) = delete;

  // Of what it serves.
  std::string uri() const { return "nbd+unix:///?socket=" + socket_; }
  // Waits until it answers; 10 s at most, then CommandError(ENVIRONMENT).
  void start();
  // SIGKILL.
  void kill();

 private:
  const std::string file_, socket_;
  std::unique_ptr<UserCommand> process_;
};

}  // namespace faultline::cli
