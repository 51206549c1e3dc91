// A channel for file descriptors with names: a SOCK_SEQPACKET pair, one message an fd.
//
// The channel has two uses:
//  - supervisor and coordinator: the coordinator has the supervisor keep what must outlive it ("store NAME" with
//    the fd; "drop NAME"); the supervisor gives it all to the next coordinator ("fd NAME", then "start").
//  - coordinator and shard: a coordinator that comes to serve sends the shard an RPC connection ("connect").
// A message that was sent is safe even if the sender dies: it lies in the receiver's queue. The words of each
// use are where it is spoken: supervisor/supervisor.h, shard/main.cpp.
#pragma once

#include <kj/common.h>
#include <kj/io.h>
#include <kj/string.h>

#include <string>
#include <utility>

namespace faultline::process {

class FdChannel {
 public:
  struct Message {
    std::string verb;
    std::string name;    // may be empty
    kj::AutoCloseFd fd;  // -1: the message has none
    // The message had an fd, and the kernel has dropped it: this process has no room for it (RLIMIT_NOFILE).
    bool fdLost = false;
  };

  explicit FdChannel(kj::AutoCloseFd socket) : socket_(kj::mv(socket)) {}
  // The two ends, close-on-exec.
  static std::pair<kj::AutoCloseFd, kj::AutoCloseFd> pair();

  // Sends; waits while the peer's queue is full. false: the peer is gone. verb + name: at most 1000 bytes,
  // without line feeds. `fd` is borrowed.
  bool send(const std::string& verb, const std::string& name = "", int fd = -1);

  enum class Wait { no, yes };
  // The next message. Empty: no message is there (Wait::no), or the peer is gone for good, then closed() is
  // true.
  kj::Maybe<Message> receive(Wait wait);
  bool closed() const { return closed_; }

  int fd() const { return socket_.get(); }  // to poll; borrowed

 private:
  kj::AutoCloseFd socket_;
  bool closed_ = false;
};

}  // namespace faultline::process
