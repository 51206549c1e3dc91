// Stands in for faultline-shard: as shard 1 it serves nothing and says of restores what a test tells it to
// say; as any other shard it is the real one.
//
// The shard connects to the Unix socket LIAR_SOCKET. A line from there, "VERB RESTORE", becomes a call of
// ShardEvents; the coordinator's answer goes back as a line: "believed", or the refusal.

#include <kj/async-io.h>
#include <kj/debug.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "process/build.h"
#include "process/fd_channel.h"
#include "process/process.h"
#include "rpc/connection.h"
#include "rpc/refusal.h"
#include "rpc/shard.capnp.h"

namespace {

using namespace faultline;

class Liar final : public rpc::Shard::Server {
 public:
  kj::Promise<void> hello(HelloContext context) override {
    events_ = context.getParams().getEvents();
    context.getResults().setVersion(process::version());
    context.getResults().setImage(process::ownImage().c_str());
    return kj::READY_NOW;
  }
  kj::Promise<void> useRing(UseRingContext) override { return kj::READY_NOW; }
  kj::Promise<void> attach(AttachContext) override { return kj::READY_NOW; }
  kj::Promise<void> detach(DetachContext) override { return kj::READY_NOW; }
  kj::Promise<void> populateAtMost(PopulateAtMostContext) override { return kj::READY_NOW; }
  kj::Promise<void> ping(PingContext) override { return kj::READY_NOW; }

  kj::Promise<void> lie(const std::string& verb, std::uint64_t restore) {
    auto& events = KJ_ASSERT_NONNULL(events_);
    if (verb == "gone") {
      auto request = events.targetGoneRequest();
      request.setRestore(restore);
      return request.send().ignoreResult();
    }
    if (verb == "failed") {
      auto request = events.restoreFailedRequest();
      request.setRestore(restore);
      request.setText("a lie");
      return request.send().ignoreResult();
    }
    auto request = events.pageLostRequest();
    request.setRestore(restore);
    request.setReason("a lie");
    return request.send().ignoreResult();
  }

 private:
  kj::Maybe<rpc::ShardEvents::Client> events_;
};

// Takes orders one after the other, for ever.
kj::Promise<void> takeOrders(kj::AsyncIoStream& test, Liar& liar) {
  auto line = kj::heapArray<char>(64);
  auto read = test.tryRead(line.begin(), 1, line.size());
  return read.then([&test, &liar, line = kj::mv(line)](std::size_t got) -> kj::Promise<void> {
    if (got == 0) return kj::NEVER_DONE;
    std::istringstream words(std::string(line.begin(), got));
    std::string verb;
    std::uint64_t restore = 0;
    words >> verb >> restore;
    return liar.lie(verb, restore)
        .then([] { return std::string("believed\n"); },
              [](kj::Exception&& e) { return rpc::nameOf(rpc::refusalOf(e).reason) + "\n"; })
        .then([&test, &liar](std::string answer) {
          auto kept = kj::heap<std::string>(std::move(answer));
          auto written = test.write(kept->data(), kept->size()).attach(kj::mv(kept));
          return written.then([&test, &liar] { return takeOrders(test, liar); });
        });
  });
}

// A variable of the environment that the test sets.
std::string told(const char* variable) {
  const char* value = getenv(variable);
  KJ_REQUIRE(value != nullptr, variable);
  return value;
}

void lieAsTold() {
  auto io = kj::setupAsyncIo();
  process::FdChannel channel{kj::AutoCloseFd(process::CHANNEL_FD)};
  auto server = kj::heap<Liar>();
  Liar& liar = *server;
  rpc::Acceptor acceptor{rpc::Shard::Client(kj::mv(server))};
  auto test = io.lowLevelProvider->wrapSocketFd(
      rpc::connectTo(told("LIAR_SOCKET")).release(),
      kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
  auto orders = takeOrders(*test, liar).eagerlyEvaluate([](kj::Exception&&) {});
  kj::UnixEventPort::FdObserver readable(io.unixEventPort, channel.fd(),
                                         kj::UnixEventPort::FdObserver::OBSERVE_READ);
  while (!channel.closed()) {
    KJ_IF_MAYBE (message, channel.receive(process::FdChannel::Wait::no)) {
      acceptor.accept(*io.lowLevelProvider, kj::mv(message->fd));
      continue;
    }
    if (!channel.closed()) readable.whenBecomesReadable().wait(io.waitScope);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const auto index = std::find(arguments.begin(), arguments.end(), "--index");
  const bool lies = index != arguments.end() && index + 1 != arguments.end() && *(index + 1) == "1";
  if (!lies) {
    execv(told("REAL_SHARD").c_str(), argv);
    return 127;
  }
  lieAsTold();
  return 0;
}
