#include "shard/worker_pool.h"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include "threads/hand_over.h"

namespace faultline::shard {

struct WorkerPool::State {
  explicit State(unsigned threads)
      // The number of threads is ours to say, even where the affinity mask shows fewer CPUs: a worker that
      // waits uses none.
      : limit(tbb::global_control::max_allowed_parallelism, threads + 1),
        arena(static_cast<int>(threads + 1), 1) {}

  tbb::global_control limit;
  tbb::task_arena arena;
};

namespace {
unsigned workerHere() {
  return 1 + static_cast<unsigned>(tbb::this_task_arena::current_thread_index());
}
}  // namespace

WorkerPool::WorkerPool(unsigned threads) : state_(std::make_unique<State>(threads)) {
  state_->arena.initialize();
}

WorkerPool::~WorkerPool() = default;

void WorkerPool::enqueue(std::function<void(unsigned)> task) {
  threads::handOver(state_.get());
  state_->arena.enqueue([state = state_.get(), task = std::move(task)] {
    threads::takeOver(state);
    task(workerHere());
  });
}

void WorkerPool::forEach(std::size_t count, const std::function<void(std::size_t, unsigned)>& task) {
  // Isolated: a thread that waits for the others' share takes no task of another kind meanwhile, which may
  // wait for a disk.
  state_->arena.execute([&] {
    tbb::this_task_arena::isolate(
        [&] { tbb::parallel_for(std::size_t{0}, count, [&](std::size_t i) { task(i, workerHere()); }); });
  });
}

}  // namespace faultline::shard
