// NBD servers for measurements, and libnbd itself as their client: what the parts of a fetch cost by themselves.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace faultline::bench {

// nbdkit with a file, on a Unix socket. Goes with the object.
class NbdKit {
 public:
  // What is missing for it; empty: nothing.
  static std::string whyNot();

  // `delayMs`: of each read; `threads`: requests at once of each connection. Throws std::runtime_error.
  NbdKit(const std::string& directory, const std::string& file, unsigned delayMs, unsigned threads);
  ~NbdKit();
  NbdKit(const NbdKit&) = delete;

  std::string uri() const { return "nbd+unix:///?socket=" + socket_; }

 private:
  const std::string socket_;
  pid_t pid_ = -1;
};

struct BareReads {
  double p50;      // us, of one
  double seconds;  // of all
};
// Reads of 64 KiB at the offsets, in their order, by libnbd: `threads` of them, each with a connection of its own and one read at
// a time. Throws std::runtime_error.
BareReads readBarely(const std::string& uri, const std::vector<std::uint64_t>& offsets, unsigned threads);

}  // namespace faultline::bench
