#include "coordinator/supervisor_link.h"

#include <kj/debug.h>

#include "rpc/fd.h"

namespace faultline::coordinator {

kj::AutoCloseFd Inheritance::take(const std::string& name) {
  const auto found = fds.find(name);
  if (found == fds.end()) return kj::AutoCloseFd();
  kj::AutoCloseFd fd = kj::mv(found->second);
  fds.erase(found);
  return fd;
}

SupervisorLink::SupervisorLink(kj::AutoCloseFd channel, kj::UnixEventPort& port)
    : channel_(kj::mv(channel)),
      observer_(port, channel_.fd(), kj::UnixEventPort::FdObserver::OBSERVE_READ) {}

Inheritance SupervisorLink::inherit() {
  Inheritance left;
  for (;;) {
    auto received = channel_.receive(process::FdChannel::Wait::yes);
    auto& message = KJ_REQUIRE_NONNULL(received, "the supervisor is gone before it said what it holds");
    if (message.verb == "fd") {
      KJ_REQUIRE(message.fd.get() >= 0,
                 "there is no room for all the file descriptors that are kept: raise the limit on open files",
                 message.name);
      left.fds[message.name] = kj::mv(message.fd);
    }
    if (message.verb == "lost") left.lost.insert(message.name);
    if (message.verb == "event") left.events.push_back(message.name);
    if (message.verb == "incarnation")
      left.incarnation = static_cast<std::uint32_t>(std::stoul(message.name));
    if (message.verb == "died") left.death = message.name;
    if (message.verb == "diedat") left.deathNoticed = std::stoull(message.name);
    if (message.verb == "upgradegivenup") left.upgradeGivenUp = message.name;
    if (message.verb == "start") return left;
  }
}

void SupervisorLink::store(const std::string& name, int fd) {
  send("store", name, fd);
}

void SupervisorLink::drop(const std::string& name) {
  send("drop", name);
}

void SupervisorLink::send(const std::string& verb, const std::string& name, int fd) {
  // Without a supervisor nothing that we take on would outlive us: receive() ends and so do we.
  KJ_REQUIRE(channel_.send(verb, name, fd), "the supervisor is gone");
}

void SupervisorLink::upgrade(const std::string& directory, int coordinator, int shard) {
  send("program", "coordinator", coordinator);
  send("program", "shard", shard);
  send("upgrade", directory);
}

kj::Promise<SupervisorLink::End> SupervisorLink::receive(Words words) {
  for (;;) {
    auto received = channel_.receive(process::FdChannel::Wait::no);
    KJ_IF_MAYBE (message, received) {
      if (message->verb == "leave") return End::leave;
      if (message->verb == "conn") words.accepted(message->name, kj::mv(message->fd));
      if (message->verb == "lost") words.lost(message->name);
      continue;
    }
    if (channel_.closed()) return End::supervisorGone;
    return observer_.whenBecomesReadable().then(
        [this, words = std::move(words)]() mutable { return receive(std::move(words)); });
  }
}

}  // namespace faultline::coordinator
