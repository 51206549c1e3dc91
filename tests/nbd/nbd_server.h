// Real NBD servers for tests: nbdkit and qemu-nbd, as Debian has them.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/support/image.h"
#include "tests/support/server.h"

namespace faultline::test {

// A server on a Unix socket in a folder of its own. Killed with the object.
class NbdServer {
 public:
  // What is missing for tests with `program`; empty: nothing.
  static std::string whyNot(const std::string& program = "nbdkit");

  // `command`: the program and its arguments, {} for the path of the socket. Waits until it answers. `host`: an IPv4
  // address where it listens on the usual port; empty: the socket.
  explicit NbdServer(std::vector<std::string> command, std::string host = "");
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  // nbdkit's file plugin, with filters and their options. One request at a time of each connection: with more, nbdkit 1.32 ends
  // itself (an assertion) where a client goes while some are under way.
  static std::vector<std::string> ofFile(const std::string& path, std::vector<std::string> filters = {},
                                         std::vector<std::string> options = {});

  std::string uri() const {
    return host_.empty() ? "nbd+unix:///?socket=" + socket() : "nbd://" + host_ + "/";
  }
  std::string socket() const { return directory_ / "nbd"; }
  // What it said.
  std::string log() const { return textOf(directory_ / "log"); }

  void awaitAnswer() const;
  // Sockets that it has open.
  std::size_t sockets() const;
  void kill();
  void start();
  void startAs(std::vector<std::string> command);
  // Stops it where it is, all of it when this returns; and has it go on.
  void stall() const;
  void goOn() const;

 private:
  const Directory directory_;
  std::vector<std::string> command_;
  const std::string host_;
  pid_t pid_ = -1;
};

ServerOptions serving(const NbdServer& source, ServerOptions options = {});

// An IPv4 address of this host at which no other test program listens.
std::string ownAddress();

// Runs a program to its end; throws with what it said where it fails.
void runTool(const std::vector<std::string>& command);

}  // namespace faultline::test
