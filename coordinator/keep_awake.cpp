#include "coordinator/keep_awake.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "shmtracker/clock.h"

namespace faultline::coordinator {

namespace {

// Faults that are further apart are left to the scheduler.
constexpr std::uint64_t APART_NS = 200'000;
constexpr unsigned LOOKS = 64;  // between two looks at the clock

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

KeepAwake::KeepAwake(bool enabled) {
  cpu_set_t cpus;
  if (!enabled || sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) < 2) return;
  // Signals are the event loop's.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &cpus)) threads_.emplace_back([this, cpu] { keep(cpu); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

KeepAwake::~KeepAwake() {
  over_.store(true);
  rounds_.fetch_add(1);
  rounds_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void KeepAwake::faultsCame(std::uint64_t now) {
  if (threads_.empty()) return;
  const bool flowing = now - last_.load(std::memory_order_relaxed) < APART_NS;
  last_.store(now, std::memory_order_relaxed);
  if (!flowing) return;
  until_.store(now + APART_NS);
  if (asleep_.load() == 0) return;
  rounds_.fetch_add(1);
  rounds_.notify_all();
}

void KeepAwake::keep(int cpu) {
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(cpu, &here);
  const sched_param none{};
  // Without the policy it would take the CPU from others: better not at all.
  if (pthread_setaffinity_np(pthread_self(), sizeof here, &here) != 0 ||
      pthread_setschedparam(pthread_self(), SCHED_IDLE, &none) != 0)
    return;
  while (!over_.load()) {
    const std::uint32_t round = rounds_.load();
    while (shm::nowNs() < until_.load(std::memory_order_relaxed))
      for (unsigned i = 0; i < LOOKS; i++) pause();
    asleep_.fetch_add(1);
    if (shm::nowNs() >= until_.load()) rounds_.wait(round);
    asleep_.fetch_sub(1);
  }
}

}  // namespace faultline::coordinator
