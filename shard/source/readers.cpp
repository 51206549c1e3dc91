#include "shard/source/readers.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <system_error>
#include <thread>

#include "threads/mutex.h"

namespace faultline::shard {

namespace {
constexpr std::chrono::seconds IDLE{5};  // then a thread ends

struct Function final : Readers::Work {
  explicit Function(std::function<void()> f) : function(std::move(f)) {}
  void run() override {
    const std::unique_ptr<Function> self(this);
    function();
  }
  std::function<void()> function;
};
}  // namespace

struct Readers::State {
  threads::Mutex mutex;
  threads::Condition queued;
  std::deque<Work*> faults GUARDED_BY(mutex), populations GUARDED_BY(mutex);
  unsigned threads GUARDED_BY(mutex) = 0, idle GUARDED_BY(mutex) = 0, populating GUARDED_BY(mutex) = 0;
  bool left GUARDED_BY(mutex) = false;  // no more work comes

  bool mayPopulate() const REQUIRES(mutex) { return !populations.empty() && populating < MOST_POPULATING; }
  bool ready() const REQUIRES(mutex) { return !faults.empty() || mayPopulate(); }
  // Waits until there is something to do, at most IDLE. False: there is not.
  bool awaitWork() REQUIRES(mutex) {
    const auto until = std::chrono::steady_clock::now() + IDLE;
    while (!ready() && !left && queued.waitUntil(mutex, until)) {
    }
    return ready();
  }
  static void serve(const std::shared_ptr<State>& state);
};

// A reader thread's work, until it has been idle for long.
void Readers::State::serve(const std::shared_ptr<State>& state) {
  threads::Lock lock(state->mutex);
  for (;;) {
    state->idle++;
    const bool ready = state->awaitWork();
    state->idle--;
    if (!ready) break;
    const bool population = state->faults.empty();
    auto& queue = population ? state->populations : state->faults;
    auto* work = queue.front();
    queue.pop_front();
    state->populating += population ? 1 : 0;
    lock.unlock();
    work->run();
    lock.lock();
    if (!population) continue;
    // Others may have been held back by the limit of those that populate.
    if (state->populating-- == MOST_POPULATING) state->queued.notifyOne();
  }
  state->threads--;
}

Readers::Readers() : state_(std::make_shared<State>()) {}

Readers::~Readers() {
  const threads::Lock lock(state_->mutex);
  state_->left = true;
  state_->queued.notifyAll();
}

bool Readers::run(For purpose, Work& work) {
  const threads::Lock lock(state_->mutex);
  auto& queue = purpose == For::fault ? state_->faults : state_->populations;
  queue.push_back(&work);
  const std::size_t startable =
      state_->faults.size() + std::min<std::size_t>(state_->populations.size(), MOST_POPULATING);
  if (startable > state_->idle && state_->threads < MOST) {
    try {
      std::thread([state = state_] { State::serve(state); }).detach();
      state_->threads++;
    } catch (const std::system_error&) {
      if (state_->threads == 0) {
        queue.pop_back();
        return false;
      }
    }
  }
  state_->queued.notifyOne();
  return true;
}

bool Readers::run(For purpose, std::function<void()> function) {
  auto work = std::make_unique<Function>(std::move(function));
  if (!run(purpose, *work)) return false;
  static_cast<void>(work.release());
  return true;
}

}  // namespace faultline::shard
