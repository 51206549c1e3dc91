// The listening sockets among the fds that a supervisor keeps, and the connections that came by them.
//
// A handshake socket (process/kept_name.h: listener, listen) is accepted on; a connection is kept as "conn"
// with a number until the coordinator has it dropped. A connection that was accepted therefore outlives every
// coordinator.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/fd_store.h"

namespace faultline::supervisor {

// Single-threaded, as the supervisor is.
class ListeningSockets {
 public:
  // Connections of one listener that may wait to be served; beyond that they wait in the kernel.
  static constexpr std::size_t MAX_WAITING = 256;

  // `kept` must outlive this; connections are kept in it.
  explicit ListeningSockets(FdStore& kept);

  // To be told of every fd that is kept, and that is no more: a listening socket is made ready to be polled.
  // What is accepted is known.
  void added(const std::string& name);
  void dropped(const std::string& name);

  struct Ready {
    std::string key;  // the listener's name
    std::string name;
    int fd;  // borrowed
  };
  // The sockets to be polled for connections now.
  std::vector<Ready> toPoll() const;
  // Accepts one connection and keeps it. Returns its name; empty where none was there after all.
  std::optional<std::string> accept(const Ready& listener);
  // When accepting goes on, where it is being held back because fds or memory ran out.
  std::optional<std::chrono::steady_clock::time_point> heldUntil() const;

 private:
  struct Socket {
    bool open = false;        // kept, and a listening socket
    std::uint64_t last = 0;   // highest number given out
    std::size_t waiting = 0;  // connections that are kept
  };

  FdStore& kept_;
  std::map<std::string, Socket> sockets_;  // by the listener's name
  std::optional<std::chrono::steady_clock::time_point> heldUntil_;
};

}  // namespace faultline::supervisor
