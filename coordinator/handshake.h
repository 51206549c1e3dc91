// Firecracker's UFFD handshake: one message on a Unix stream socket, a JSON array of regions with the uffd by
// SCM_RIGHTS. Every version since 1.1 is understood (docs/firecracker.md).
#pragma once

#include <kj/io.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/json_brackets.h"
#include "shmtracker/pages.h"

namespace faultline::coordinator {

// A handshake that is refused; what() names the field, the value and the way out. Ends that connection only.
class HandshakeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct ParsedRegions {
  std::vector<shm::Region> regions;
  // `page_size` is there: Firecracker 1.12 and later, which keep the socket open for life, so that a closed
  // socket means that the VMM died. Before, a close right after the handshake is normal.
  bool socketOutlivesHandshake = false;
};

// Parses the body. Fields: base_host_virt_addr, size, offset; page_size, else page_size_kib, else 4096.
// Unknown fields are accepted. Whether the regions can be served is not its business (shm::whyNotServable).
ParsedRegions parseRegions(std::string_view json);

struct Handshake {
  std::vector<shm::Region> regions;
  bool socketOutlivesHandshake = false;
  kj::AutoCloseFd uffd;
  std::uint64_t features = 0;  // negotiated by the target
};

// Reads a handshake without consuming it (MSG_PEEK), so that a successor that inherits the connection can
// begin again. For a connected, non-blocking socket, which must outlive it.
//
// Bytes that are not consumed fill the sender's buffer (net.core.wmem_default, some 200 KiB), and the sender
// waits. An incomplete body is therefore consumed once more than KEPT bytes of it have come. A successor
// refuses the rest.
class HandshakeReader {
 public:
  static constexpr std::size_t MAX_BODY = 1 << 20;  // bytes
  static constexpr std::size_t KEPT = 64ul * 1024;

  explicit HandshakeReader(int socket);

  enum class Progress { needMore, complete, nothingCame };  // the last: closed without a word
  // Looks at what has come. Throws HandshakeError where it can't become a handshake any more.
  Progress advance();
  // After `complete`: checks and hands over the result. Throws HandshakeError.
  Handshake take();
  // A userfaultfd among the fds that have come, borrowed; -1: there is none.
  int userfaultfd() const;
  // Receives for good what was looked at, once the restore is durable.
  void consume();

 private:
  bool peek();
  // True when the array that the body begins with is whole.
  bool arrayIsWhole();
  void requireOneFd() const;
  // Receives for good all that was looked at.
  void receive();

  const int socket_;
  const std::unique_ptr<char[]> piece_;  // buffer of peek()
  std::string body_;
  JsonBrackets brackets_;     // of body_
  std::size_t received_ = 0;  // of body_
  std::vector<kj::AutoCloseFd> fds_;
  bool ended_ = false;
};

struct Received {
  enum class What { nothing, more, anotherHandshake } what;
  kj::AutoCloseFd userfaultfd{};  // the other handshake's, if one came with it
};

// Receives for good one piece of what a peer says after its handshake. Words are allowed and mean nothing; an fd
// is another handshake, unless it is `uffd`: then it is what a predecessor that died had read and not yet
// received.
Received receiveMore(int socket, int uffd);

// The features that the owner of a uffd negotiated, from /proc/self/fdinfo (fs/userfaultfd.c,
// userfaultfd_show_fdinfo). Throws HandshakeError where its UFFDIO_API handshake was not done, and where it
// has a feature that is not on the list of what is served: some change which faults and events are told.
std::uint64_t uffdFeatures(int uffd);

struct Peer {
  pid_t pid = 0;  // to show to people; 0: of another pid namespace
  uid_t uid = 0;
  kj::AutoCloseFd pidfd;  // -1 where there is none to be had
};

// The process at the other end of a connected Unix socket, as the kernel says.
Peer peerOf(int socket);
// Throws HandshakeError unless the peer is root or of our own user.
void requireOwnUser(const Peer& peer);

}  // namespace faultline::coordinator
