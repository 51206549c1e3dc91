// The shard's side of shard.capnp: the requests of the coordinator.
#pragma once

#include <kj/async-io.h>

#include <map>
#include <vector>

#include "failpoints/failpoints.h"
#include "process/build.h"
#include "rpc/shard.capnp.h"
#include "shard/fault_loop.h"
#include "shard/loop_mailbox.h"
#include "shard/prefaulter.h"
#include "shard/source/fetch_client.h"

namespace faultline::shard {

struct ShardOptions {
  unsigned threads = 1;  // workers besides the fault thread
  bool testHooks = false;
  FaultLoopOptions loop;
};

// The state of a shard process; it outlives each coordinator. Lives in the loop thread; outlives the
// connections.
class ShardService final : private FaultLoopEvents, private AttachmentEvents {
 public:
  ShardService(kj::AsyncIoContext& io, ShardOptions options);
  ~ShardService() noexcept(false);

  // A capability for one coordinator's connection.
  rpc::Shard::Client makeServer();
  // Work of the service itself; runs until dropped.
  kj::Promise<void> run() { return mailbox_.run(); }

 private:
  friend class ShardServer;

  void targetGone(const Attachment& restore) override;
  void restoreFailed(const Attachment& restore, rpc::EndReason why, std::string text) override;
  void pagePoisoned(const Attachment& restore, shm::PageIndex page, std::string reason) override;
  void pageLost(const Attachment& restore, shm::PageIndex page, std::string reason) override;
  // Tells the coordinator, if there is one just now.
  template <typename Send>
  void tell(Send send);

  kj::AsyncIoContext& io_;
  const ShardOptions options_;
  const std::string image_ = process::ownImage();  // before the sandbox hides it
  failpoints::Failpoints failpoints_;
  LoopMailbox mailbox_;
  Committer committer_;
  WorkerPool workers_;
  FaultLoop faults_;
  Prefaulter prefaulter_;
  FetchClients fetchClients_;
  std::map<std::uint64_t, AttachmentRef> restores_;
  kj::Maybe<rpc::ShardEvents::Client> events_;
  std::map<std::uint64_t, kj::Own<kj::PromiseFulfiller<void>>>
      waiting_;  // for other threads to say that it is done
  std::uint64_t lastWaiting_ = 0;
};

}  // namespace faultline::shard
