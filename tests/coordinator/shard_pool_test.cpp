// The pool's promise to its owner, with true shard processes and an owner whose work the test holds up.

#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <sys/socket.h>

#include "coordinator/shard_pool.h"
#include "process/fd_channel.h"

namespace faultline::coordinator {
namespace {

class Owner final : public ShardPoolEvents {
 public:
  explicit Owner(kj::Promise<void> attached) : attached_(attached.fork()) {}

  void shardDied(std::uint32_t, Death) override {}
  kj::Promise<void> shardUp(ShardHandle&, std::vector<std::uint64_t>) override {
    asked_.fulfiller->fulfill();
    return attached_.addBranch();
  }
  kj::Promise<void> shardLeaves(ShardHandle&) override { return kj::READY_NOW; }
  rpc::ShardEvents::Client eventsFor(std::uint32_t) override {
    return rpc::ShardEvents::Client(KJ_EXCEPTION(UNIMPLEMENTED, "none"));
  }
  kj::Promise<void> whenAsked() { return kj::mv(asked_.promise); }

 private:
  kj::ForkedPromise<void> attached_;
  kj::PromiseFulfillerPair<void> asked_ = kj::newPromiseAndFulfiller<void>();
};

// A restore that begins while a shard is attaching earlier restores must find the shard, or it would never be
// attached to it: the list of restores to attach was made before.
TEST(ShardPool, AShardCanBeUsedAsSoonAsItsOwnerIsAskedToAttach) {
  auto io = kj::setupAsyncIo();
  auto [ours, theirs] = process::FdChannel::pair();
  SupervisorLink link(kj::mv(ours), io.unixEventPort);
  shm::Counter lastEvent{0};
  EventLog log(link, {}, lastEvent);
  failpoints::Failpoints failpoints;
  Options options;
  options.shards = 1;
  auto attached = kj::newPromiseAndFulfiller<void>();
  Owner owner(kj::mv(attached.promise));
  ServiceCounters counters(nullptr);
  ShardPool pool(io, link, log, failpoints, options, *counters, owner);
  Inheritance nothing;
  auto begun = pool.begin(nothing);
  owner.whenAsked().wait(io.waitScope);
  EXPECT_NE(pool.up(0), nullptr);
  EXPECT_FALSE(begun.poll(io.waitScope));
  attached.fulfiller->fulfill();
  begun.wait(io.waitScope);
  EXPECT_NE(pool.up(0), nullptr);
  pool.endAll("the test is over").wait(io.waitScope);
}

}  // namespace
}  // namespace faultline::coordinator
