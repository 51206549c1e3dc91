#include "bench/call_per_fault.h"

#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <kj/debug.h>
#include <linux/userfaultfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

#include "bench/plain_handler.h"
#include "rpc/connection.h"
#include "rpc/shard.capnp.h"

namespace faultline::bench {

namespace {

class Copier final : public rpc::Shard::Server {
 public:
  Copier(const PlainTarget& target, const MappedSource& source) : target_(target), source_(source) {}

 protected:
  kj::Promise<void> faults(FaultsContext context) override {
    for (const std::uint64_t address : context.getParams().getBatch().getPages())
      copyPlainly(target_, source_, address);
    return kj::READY_NOW;
  }

 private:
  const PlainTarget& target_;
  const MappedSource& source_;
};

// A child of its own for each target, so that both ends begin with the fds that they need.
void copyInChild(const PlainTarget& target, const MappedSource& source, kj::AutoCloseFd socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto io = kj::setupAsyncIo();
  rpc::Acceptor acceptor(kj::heap<Copier>(target, source));
  acceptor.accept(*io.lowLevelProvider, kj::mv(socket));
  kj::Promise<void>(kj::NEVER_DONE).wait(io.waitScope);
}

kj::Promise<void> readOn(const PlainTarget& target, rpc::Shard::Client copier,
                         kj::UnixEventPort::FdObserver& readable) {
  uffd_msg messages[64];
  const ssize_t got = read(target.uffd.get(), messages, sizeof messages);
  for (ssize_t i = 0; i < got / static_cast<ssize_t>(sizeof(uffd_msg)); i++) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    auto request = copier.faultsRequest();
    request.initBatch().initPages(1).set(0, messages[i].arg.pagefault.address);
    request.send().detach([](kj::Exception&&) {});
  }
  return readable.whenBecomesReadable().then(
      [&target, copier, &readable]() mutable { return readOn(target, kj::mv(copier), readable); });
}

void serveOne(const PlainTarget& target, const MappedSource& source) {
  auto [ours, theirs] = rpc::streamPair();
  if (fork() == 0) {
    ours = nullptr;
    copyInChild(target, source, kj::mv(theirs));
  }
  theirs = nullptr;
  auto io = kj::setupAsyncIo();
  rpc::Connection connection(*io.lowLevelProvider, kj::mv(ours));
  kj::UnixEventPort::FdObserver readable(io.unixEventPort, target.uffd.get(),
                                         kj::UnixEventPort::FdObserver::OBSERVE_READ);
  kj::UnixEventPort::FdObserver socket(io.unixEventPort, target.socket.get(),
                                       kj::UnixEventPort::FdObserver::OBSERVE_READ);
  readOn(target, connection.bootstrap().castAs<rpc::Shard>(), readable)
      .exclusiveJoin(socket.whenBecomesReadable())
      .wait(io.waitScope);
}

}  // namespace

void serveByCalls(const std::string& socket, const std::string& memory, Readiness readiness) {
  const MappedSource source(memory, readiness);
  const kj::AutoCloseFd listening = rpc::listenAt(socket);
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    const PlainTarget target = acceptPlainly(listening.get());
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    serveOne(target, source);
    _exit(0);
  }
}

}  // namespace faultline::bench
