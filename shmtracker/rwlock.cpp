#include "shmtracker/rwlock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace faultline::shm {

namespace {

using Clock = std::chrono::steady_clock;

// Values of the gate word.
constexpr std::uint32_t OPEN = 0;
constexpr std::uint32_t CLOSED = 1;
constexpr std::uint32_t CLOSED_WITH_WAITERS = 2;

// A closed gate usually opens within a few microseconds; sleeping and being woken costs more than that.
constexpr int GATE_SPINS = 200;
constexpr int SLOT_SPINS = 200;
// A dead coordinator wakes no reader, its successor does; the timeout only bounds what a lost wake could
// cost.
constexpr timespec GATE_NAP{0, 100'000'000};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

// A section lasts a few microseconds, so a look or two spares a sleep and a wake.
LockResult lockSoon(RobustMutex& mutex, std::chrono::nanoseconds patience) {
  for (int i = 0; i < SLOT_SPINS; i++) {
    pause();
    const LockResult result = mutex.tryLock();
    if (result != LockResult::busy) return result;
  }
  return mutex.lockUntil(Clock::now() + patience);
}

}  // namespace

void SharedGuard::release() {
  if (slot_ == nullptr) return;
  RobustMutex(slot_->mutex).unlock();
  slot_ = nullptr;
}

void ExclusiveGuard::release() {
  if (lock_ == nullptr) return;
  lock_->open();
  lock_ = nullptr;
}

void RwLock::initialise() {
  for (Slot& slot : slots_) RobustMutex::initialise(slot.mutex);
  words_->gate.store(CLOSED, std::memory_order_seq_cst);
}

SharedGuard RwLock::lockShared(unsigned slot) {
  Slot& mine = slots_[slot];
  RobustMutex mutex(mine.mutex);
  bool died = false;
  for (;;) {
    if (mutex.lock() == LockResult::ownerDied) died = true;
    if (!closed()) return SharedGuard(mine, died);
    mutex.unlock();
    waitForGate();
  }
}

std::optional<SharedGuard> RwLock::tryLockShared(unsigned slot) {
  Slot& mine = slots_[slot];
  RobustMutex mutex(mine.mutex);
  const LockResult result = mutex.tryLock();
  if (result == LockResult::busy) return std::nullopt;
  if (!closed()) return SharedGuard(mine, result == LockResult::ownerDied);
  mutex.unlock();
  return std::nullopt;
}

void RwLock::waitForGate() {
  for (int i = 0; i < GATE_SPINS; i++) {
    if (!closed()) return;
    pause();
  }
  std::uint32_t expected = CLOSED;
  words_->gate.compare_exchange_strong(expected, CLOSED_WITH_WAITERS);
  if (closed()) futex(words_->gate, FUTEX_WAIT, CLOSED_WITH_WAITERS, &GATE_NAP);
}

void RwLock::close() {
  std::uint32_t expected = OPEN;
  words_->gate.compare_exchange_strong(expected, CLOSED, std::memory_order_seq_cst);
}

void RwLock::open() {
  words_->epoch.fetch_add(1, std::memory_order_release);
  if (words_->gate.exchange(OPEN, std::memory_order_seq_cst) == CLOSED_WITH_WAITERS)
    futex(words_->gate, FUTEX_WAKE, INT32_MAX, nullptr);
}

std::optional<ExclusiveGuard> RwLock::drainFrom(unsigned& next, unsigned activeSlots,
                                                std::chrono::nanoseconds patience,
                                                const std::function<void(unsigned slot)>& ownerDied) {
  for (; next < activeSlots; next++) {
    RobustMutex mutex(slots_[next].mutex);
    LockResult result = mutex.tryLock();
    if (result == LockResult::busy) result = lockSoon(mutex, patience);
    if (result == LockResult::busy) return std::nullopt;
    mutex.unlock();
    if (result == LockResult::ownerDied && ownerDied) ownerDied(next);
  }
  return ExclusiveGuard(*this);
}

}  // namespace faultline::shm
