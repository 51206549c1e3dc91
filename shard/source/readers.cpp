#include "shard/source/readers.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

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
  std::mutex mutex;
  std::condition_variable queued;
  // All guarded by mutex.
  std::deque<Work*> faults, populations;
  unsigned threads = 0, idle = 0, populating = 0;
  bool left = false;  // no more work comes

  bool mayPopulate() const { return !populations.empty() && populating < MOST_POPULATING; }
  bool ready() const { return !faults.empty() || mayPopulate(); }
};

namespace {
// A reader thread's work, until it has been idle for long.
template <typename State>
void serve(const std::shared_ptr<State>& state, unsigned mostPopulating) {
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->idle++;
    const bool ready = state->queued.wait_for(lock, IDLE, [&] { return state->ready() || state->left; });
    state->idle--;
    if (!ready || !state->ready()) break;
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
    if (state->populating-- == mostPopulating) state->queued.notify_one();
  }
  state->threads--;
}
}  // namespace

Readers::Readers() : state_(std::make_shared<State>()) {}

Readers::~Readers() {
  const std::lock_guard lock(state_->mutex);
  state_->left = true;
  state_->queued.notify_all();
}

bool Readers::run(For purpose, Work& work) {
  const std::lock_guard lock(state_->mutex);
  auto& queue = purpose == For::fault ? state_->faults : state_->populations;
  queue.push_back(&work);
  const std::size_t startable =
      state_->faults.size() + std::min<std::size_t>(state_->populations.size(), MOST_POPULATING);
  if (startable > state_->idle && state_->threads < MOST) {
    try {
      std::thread([state = state_] { serve(state, MOST_POPULATING); }).detach();
      state_->threads++;
    } catch (const std::system_error&) {
      if (state_->threads == 0) {
        queue.pop_back();
        return false;
      }
    }
  }
  state_->queued.notify_one();
  return true;
}

bool Readers::run(For purpose, std::function<void()> function) {
  auto work = std::make_unique<Function>(std::move(function));
  if (!run(purpose, *work)) return false;
  static_cast<void>(work.release());
  return true;
}

}  // namespace faultline::shard
