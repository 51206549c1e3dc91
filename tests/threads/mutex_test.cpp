// A lock, and what waits under it.

#include "threads/mutex.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

namespace faultline::threads {
namespace {

struct Shared {
  Mutex mutex;
  Condition changed;
  bool ready GUARDED_BY(mutex) = false;

  void tell() {
    const Lock lock(mutex);
    ready = true;
    changed.notifyAll();
  }
};

TEST(Mutex, AWaitLetsGoOfItAndHoldsItAgain) {
  Shared shared;
  Lock lock(shared.mutex);
  auto told = std::async(std::launch::async, [&] { shared.tell(); });
  while (!shared.ready) shared.changed.wait(shared.mutex);
  // Held again: another thread's tell() waits for it.
  shared.ready = false;
  auto second = std::async(std::launch::async, [&] { shared.tell(); });
  EXPECT_FALSE(shared.ready);
  while (!shared.ready) shared.changed.wait(shared.mutex);
}

TEST(Mutex, AWaitThatIsNotAnsweredEndsAtItsTime) {
  Shared shared;
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
  const Lock lock(shared.mutex);
  while (shared.changed.waitUntil(shared.mutex, until)) {
  }
  EXPECT_GE(std::chrono::steady_clock::now(), until);
  EXPECT_FALSE(shared.ready);
}

TEST(Mutex, ALockThatWasLetGoIsHeldByOthers) {
  Shared shared;
  Lock lock(shared.mutex);
  lock.unlock();
  shared.tell();
  lock.lock();
  EXPECT_TRUE(shared.ready);
}

}  // namespace
}  // namespace faultline::threads
