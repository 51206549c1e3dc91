#include "coordinator/supervisor_link.h"

#include <kj/debug.h>
#include <poll.h>

#include <chrono>
#include <utility>

#include "process/duplicate.h"

namespace faultline::coordinator {

namespace {

// While the supervisor takes nothing: more than it would keep.
constexpr std::size_t MOST_EVENTS = 256;
constexpr std::chrono::milliseconds LAST_WORDS{1000};
// With one that is behind. A supervisor that takes nothing for so long stands still: it is not waited for again until it
// has taken everything.
constexpr std::chrono::milliseconds PATIENCE{100};

}  // namespace

kj::AutoCloseFd Inheritance::take(const process::KeptName& name) {
  const auto found = fds.find(name);
  if (found == fds.end()) return kj::AutoCloseFd();
  kj::AutoCloseFd fd = kj::mv(found->second);
  fds.erase(found);
  return fd;
}

std::vector<process::KeptName> Inheritance::names(process::KeptName::Kind kind,
                                                  process::KeptName::Part part) const {
  std::vector<process::KeptName> result;
  for (const auto& [name, fd] : fds)
    if (name.is(kind, part)) result.push_back(name);
  return result;
}

SupervisorLink::SupervisorLink(kj::AutoCloseFd channel, kj::UnixEventPort& port)
    : channel_(kj::mv(channel)),
      observer_(port, channel_.fd(), kj::UnixEventPort::FdObserver::OBSERVE_READ_WRITE) {}

Inheritance SupervisorLink::inherit() {
  Inheritance left;
  for (;;) {
    auto received = channel_.receive(process::FdChannel::Wait::yes);
    auto& message = KJ_REQUIRE_NONNULL(received, "the supervisor is gone before it said what it holds");
    if (message.verb == "fd") {
      KJ_REQUIRE(message.fd.get() >= 0,
                 "there is no room for all the file descriptors that are kept: raise the limit on open files",
                 message.name);
      if (const auto name = process::KeptName::parse(message.name))
        left.fds.try_emplace(*name, kj::mv(message.fd));
      else
        left.foreign.push_back(message.name);
    }
    if (message.verb == "lost")
      if (const auto name = process::KeptName::parse(message.name)) left.lost.insert(*name);
    if (message.verb == "event") left.events.push_back(message.name);
    if (message.verb == "incarnation")
      left.incarnation = static_cast<std::uint32_t>(std::stoul(message.name));
    if (message.verb == "died") left.death = message.name;
    if (message.verb == "diedat") left.deathNoticed = std::stoull(message.name);
    if (message.verb == "asked") left.asked = true;
    if (message.verb == "upgradegivenup") left.upgradeGivenUp = message.name;
    if (message.verb == "managed") left.managed = true;
    if (message.verb == "end") left.end = message.name == "now";
    if (message.verb == "start") return left;
  }
}

void SupervisorLink::store(const process::KeptName& name, int fd) {
  send("store", name.text(), fd);
}

void SupervisorLink::drop(const process::KeptName& name) {
  send("drop", name.text());
}

void SupervisorLink::alive() {
  // A sign of life that is told later is none.
  if (!blocked()) send("alive");
}

void SupervisorLink::status(const std::string& line) {
  if (!blocked() && std::exchange(status_, line) != line) send("status", line);
}

void SupervisorLink::shutdown() {
  send("shutdown");
  const auto until = std::chrono::steady_clock::now() + LAST_WORDS;
  while (!flush() && std::chrono::steady_clock::now() < until) {
    pollfd poll{channel_.fd(), POLLOUT, 0};
    ::poll(&poll, 1, static_cast<int>(LAST_WORDS.count()));
  }
}

// If the supervisor has gone, what was to be kept would outlive us no more: receive() tells.
void SupervisorLink::send(const std::string& verb, const std::string& name, int fd) {
  if (waiting_.empty() && sendNow(verb, name, fd, PATIENCE)) return;
  const bool event = verb == "event";
  if (event && eventsWaiting_ == MOST_EVENTS) return;
  eventsWaiting_ += event ? 1 : 0;
  const bool first = waiting_.empty();
  waiting_.push_back({verb, name, fd < 0 ? kj::AutoCloseFd() : process::duplicate(fd)});
  if (first) flushing_ = flushLater().eagerlyEvaluate([](kj::Exception&&) {});
}

// False: it would have to wait. The loop thread alone sends, so the answer of poll() stays true (see CoordinatorProcess).
bool SupervisorLink::sendNow(const std::string& verb, const std::string& name, int fd,
                             std::chrono::milliseconds patience) {
  pollfd poll{channel_.fd(), POLLOUT, 0};
  if (::poll(&poll, 1, static_cast<int>(patience.count())) != 1) return false;
  channel_.send(verb, name, fd);
  return true;
}

bool SupervisorLink::flush() {
  while (!waiting_.empty()) {
    const Waiting& word = waiting_.front();
    if (!sendNow(word.verb, word.name, word.fd.get())) return false;
    if (word.verb == "event") eventsWaiting_--;
    waiting_.pop_front();
  }
  return true;
}

kj::Promise<void> SupervisorLink::flushLater() {
  return observer_.whenBecomesWritable().then(
      [this]() -> kj::Promise<void> { return flush() ? kj::Promise<void>(kj::READY_NOW) : flushLater(); });
}

void SupervisorLink::upgrade(const std::string& directory, int coordinator, int shard, int fetcher) {
  send("program", "coordinator", coordinator);
  send("program", "shard", shard);
  if (fetcher >= 0) send("program", "fetcher", fetcher);
  send("upgrade", directory);
}

kj::Promise<SupervisorLink::End> SupervisorLink::receive(Words words) {
  for (;;) {
    auto received = channel_.receive(process::FdChannel::Wait::no);
    KJ_IF_MAYBE (message, received) {
      if (message->verb == "leave") return End::leave;
      if (message->verb == "end") words.end(message->name == "now");
      const auto name = process::KeptName::parse(message->name);
      if (message->verb == "conn" && name.has_value()) words.accepted(*name, kj::mv(message->fd));
      if (message->verb == "lost" && name.has_value()) words.lost(*name);
      continue;
    }
    if (channel_.closed()) return End::supervisorGone;
    return observer_.whenBecomesReadable().then(
        [this, words = std::move(words)]() mutable { return receive(std::move(words)); });
  }
}

}  // namespace faultline::coordinator
