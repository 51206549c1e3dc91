// The fault thread of a shard: takes fault batches out of the ring and answers them.
//
// Small batches are done by the thread itself, since it is awake already and waking a worker costs more than
// the copy; large ones are shared with the worker pool. The thread never waits for a source (ColdReader), nor
// for a refusal to end (RetryQueue).
#pragma once

#include <kj/io.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "rpc/fault_ring.h"
#include "shard/committer.h"
#include "shard/retry_queue.h"
#include "shard/source/cold_reader.h"
#include "shard/source/resident_windows.h"
#include "shard/source/staging_buffer.h"
#include "shard/worker_pool.h"
#include "threads/mutex.h"

namespace faultline::shard {

// Reports of the fault thread to its owner; called in any thread, must not block.
class FaultLoopEvents {
 public:
  virtual void pagePoisoned(const Attachment& restore, shm::PageIndex page, std::string reason) = 0;
  // The page is lost and this kernel cannot poison it.
  virtual void pageLost(const Attachment& restore, shm::PageIndex page, std::string reason) = 0;

 protected:
  ~FaultLoopEvents() = default;
};

struct FaultLoopOptions {
  // Pages in a batch from which on the pool helps. Waking it is worth a few dozen pages, and where no CPU is
  // idle it only takes turns with us (docs/performance).
  std::size_t shareFrom = 48;
  unsigned carefulFaults = 0;  // first faults that are served one by one (after a predecessor's death)
  std::size_t retries = RetryQueue::CAPACITY;  // refused faults that wait here; others, in the kernel
  std::uint64_t sourcePatience =
      30'000'000'000;  // ns that reads of one page may go on failing before it is lost
};

class FaultLoop {
 public:
  // Starts the thread. All references must outlive it.
  FaultLoop(const Committer& committer, WorkerPool& workers, FaultLoopEvents& events,
            FaultLoopOptions options);
  ~FaultLoop();

  // The following may be called from any thread; they take effect in the fault thread, in order, and `done`
  // is called there.
  void useRing(rpc::FaultRing ring);
  void attach(AttachmentRef restore);
  void detach(std::uint64_t restore, std::function<void()> done);
  // Faults that come by another way than the ring.
  void serve(std::uint64_t restore, std::uint64_t readAt, std::vector<shm::PageIndex> pages);
  // Calls `done` in the fault thread.
  void ping(std::function<void()> done) { command(std::move(done)); }
  // Gives up on pages: an error for the target where they are still missing.
  void poison(std::uint64_t restore, std::vector<shm::PageIndex> pages, std::string reason);

 private:
  // What a fault waits for.
  enum class Next { retry, coldRead };
  // By a worker, to the fault thread: it alone has what faults wait in.
  struct HandedBack {
    Fault fault;
    Next next;
  };

  void command(std::function<void()> action);
  void run();
  bool runCommands();
  bool takeBatches();
  bool retryDue();
  void sleep(std::optional<std::uint64_t> most);

  Attachment* find(std::uint64_t restore);
  void serveBatch(Attachment& restore, std::uint64_t readAt, std::size_t pages);
  void serveFault(Fault fault, unsigned worker, char* buffer);
  void commit(Fault fault, unsigned worker, Content content);
  bool serveAround(Fault& fault, unsigned worker, char* buffer);
  bool commitAround(const Fault& fault, unsigned worker, const Staged& staged);
  void refused(Fault fault, unsigned worker);
  void wakeLater(Attachment& restore, shm::PageRange pages);
  bool wakeIsDue(const Attachment& restore, shm::PageIndex page) const;
  void wakeAll();
  void requeue(Attachment& restore, shm::PageIndex page);
  void later(Fault fault, Next next, unsigned worker);
  void takeBack();
  static bool sourceChanged(Attachment& restore, std::uint64_t offset, std::uint64_t length);
  void sourceFailed(Fault fault, unsigned worker, int error);
  std::string describeLoss(const Fault& fault, int error) const;
  void poisonNow(Attachment& restore, unsigned worker, shm::PageIndex page, const std::string& reason);
  Staged stage(const Fault& fault, const shm::PageLocation& at, unsigned worker, char* buffer,
               std::uint64_t now);
  void readEnded(Fault fault, const Staged& staged);
  void letGo(Attachment& restore, shm::PageIndex page, const shm::PageLocation& at);

  const Committer& committer_;
  WorkerPool& workers_;
  FaultLoopEvents& events_;
  const FaultLoopOptions options_;

  threads::Mutex mutex_;
  std::vector<std::function<void()>> commands_ GUARDED_BY(mutex_);
  std::vector<HandedBack> handedBack_ GUARDED_BY(mutex_);
  std::atomic<bool> commanded_{false};
  kj::AutoCloseFd commandEvent_;
  kj::AutoCloseFd epoll_;

  // Members of the fault thread.
  std::optional<rpc::FaultRing> ring_;
  std::vector<AttachmentRef> restores_;
  ColdReader cold_;
  RetryQueue retries_;
  ResidentWindows windows_;
  std::vector<shm::PageIndex> batch_;
  std::vector<std::pair<Attachment*, shm::PageRange>> toWake_;  // done, their threads still asleep
  std::vector<StagingBuffer> buffers_;                          // a buffer for each worker
  unsigned careful_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace faultline::shard
