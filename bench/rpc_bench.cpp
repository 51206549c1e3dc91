// The cost of a Cap'n Proto call and its answer between two processes, by the pages that it carries.

#include <benchmark/benchmark.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/placement.h"
#include "rpc/connection.h"
#include "rpc/shard.capnp.h"

namespace {

using namespace faultline;
using namespace faultline::bench;

// Looks at each page that it is told of. `faults` would be the call, but it is a stream: its answers are not
// waited for one by one.
class Answering final : public rpc::Shard::Server {
 protected:
  kj::Promise<void> poison(PoisonContext context) override {
    for (const std::uint64_t page : context.getParams().getPages()) benchmark::DoNotOptimize(page);
    return kj::READY_NOW;
  }
};

// Serves at the other end of a socket pair, in a process of its own.
class Peer {
 public:
  explicit Peer(Placement placement) {
    auto [ours, theirs] = rpc::streamPair();
    KJ_SYSCALL(pid_ = fork());
    if (pid_ == 0) {
      ours = nullptr;
      serve(kj::mv(theirs), handlerCpus(placement));
    }
    socket_ = kj::mv(ours);
  }
  ~Peer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Peer(const Peer&) = delete;

  kj::AutoCloseFd takeSocket() { return kj::mv(socket_); }

 private:
  [[noreturn]] static void serve(kj::AutoCloseFd socket, const cpu_set_t& cpus) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sched_setaffinity(0, sizeof cpus, &cpus);
    auto io = kj::setupAsyncIo();
    rpc::Acceptor acceptor(kj::heap<Answering>());
    acceptor.accept(*io.lowLevelProvider, kj::mv(socket));
    kj::Promise<void>(kj::NEVER_DONE).wait(io.waitScope);
    _exit(0);
  }

  pid_t pid_ = -1;
  kj::AutoCloseFd socket_;
};

void rpcRoundTrip(benchmark::State& state) {
  const Placement placement = state.range(1) == 1 ? Placement::oneCpu : Placement::across;
  cpu_set_t before;
  sched_getaffinity(0, sizeof before, &before);
  Peer peer(placement);
  const cpu_set_t cpus = targetCpus(placement);
  sched_setaffinity(0, sizeof cpus, &cpus);
  auto io = kj::setupAsyncIo();
  rpc::Connection connection(*io.lowLevelProvider, peer.takeSocket());
  auto shard = connection.bootstrap().castAs<rpc::Shard>();
  for ([[maybe_unused]] auto _ : state) {
    auto request = shard.poisonRequest();
    auto pages = request.initPages(static_cast<unsigned>(state.range(0)));
    for (unsigned i = 0; i < pages.size(); i++) pages.set(i, i);
    request.send().wait(io.waitScope);
  }
  sched_setaffinity(0, sizeof before, &before);
  state.SetItemsProcessed(state.range(0) * state.iterations());
}
BENCHMARK(rpcRoundTrip)->ArgNames({"pages", "oneCpu"})->ArgsProduct({{1, 64}, {1, 0}})->UseRealTime();

}  // namespace
