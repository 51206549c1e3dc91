#include "bench/floor.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <unistd.h>

#include <list>
#include <vector>

#include "bench/plain_handler.h"
#include "rpc/connection.h"

namespace faultline::bench {

namespace {

constexpr std::size_t BATCH = 64;

// One read and its copies.
void serveOnce(const PlainTarget& target, const ResidentSource& source) {
  uffd_msg messages[BATCH];
  const ssize_t got = read(target.uffd.get(), messages, sizeof messages);
  for (ssize_t i = 0; i < got / static_cast<ssize_t>(sizeof(uffd_msg)); i++)
    if (messages[i].event == UFFD_EVENT_PAGEFAULT)
      copyPlainly(target, source, messages[i].arg.pagefault.address);
}

}  // namespace

void serveFloor(const std::string& socket, const std::string& memory) {
  const ResidentSource source(memory);
  const kj::AutoCloseFd listening = rpc::listenAt(socket);
  std::list<PlainTarget> targets;
  std::vector<pollfd> fds;
  for (;;) {
    fds.assign(1, {listening.get(), POLLIN, 0});
    for (const PlainTarget& target : targets) {
      fds.push_back({target.uffd.get(), POLLIN, 0});
      fds.push_back({target.socket.get(), POLLRDHUP, 0});
    }
    poll(fds.data(), fds.size(), -1);
    std::size_t next = 1;
    for (auto target = targets.begin(); target != targets.end(); next += 2) {
      if (fds[next].revents & POLLIN) serveOnce(*target, source);
      // The end of the connection is the end of the target (Firecracker 1.12 and later).
      target = fds[next + 1].revents != 0 ? targets.erase(target) : std::next(target);
    }
    if (fds[0].revents != 0) targets.push_back(acceptPlainly(listening.get()));
  }
}

}  // namespace faultline::bench
