// The shard's copy workers: a oneTBB arena whose thread index names the slot of the lock.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace faultline::shard {

// Worker numbers: 0 is the fault thread when it works alone; 1 .. concurrency() are the arena's places. A
// number is used by one thread at a time, which is what a lock slot needs.
class WorkerPool {
 public:
  // `threads` workers besides the fault thread, at least 1.
  explicit WorkerPool(unsigned threads);
  ~WorkerPool();

  static constexpr unsigned FAULT_THREAD = 0;

  // Runs `task(worker)` on some worker, some time. Any thread.
  void enqueue(std::function<void(unsigned worker)> task);
  // Calls `task(i, worker)` for i in [0, count), the calling thread among the workers; returns when all are
  // done. For one thread at a time (the fault thread).
  void forEach(std::size_t count, const std::function<void(std::size_t i, unsigned worker)>& task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace faultline::shard
