// The bringer of a measured target's memory: a page server, or one of the ways to do without.
#pragma once

#include <sys/types.h>

#include <string>

namespace faultline::bench {

struct Backing {
  enum class Kind {
    server,     // whatever takes the handshake at `socket`
    file,       // the kernel alone: the image itself, mapped MAP_PRIVATE
    anonymous,  // the kernel alone: empty memory, without a userfaultfd
  } kind = Kind::server;
  std::string socket = {};
  pid_t process = 0;  // the server's first process, whose CPU time and descendants' is counted; 0: unknown
};

}  // namespace faultline::bench
