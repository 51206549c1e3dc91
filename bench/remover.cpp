#include "bench/remover.h"

#include <pthread.h>

#include <ctime>
#include <utility>

#include "process/clock.h"

namespace faultline::bench {

Remover::Remover(unsigned perSecond, Placement placement, std::function<void()> giveBack) {
  if (perSecond == 0) return;
  thread_ = std::thread([this, perSecond, placement, giveBack = std::move(giveBack)] {
    const cpu_set_t cpus = targetCpus(placement);
    pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
    const std::uint64_t pause = 1'000'000'000ull / perSecond;
    const timespec wait{static_cast<time_t>(pause / 1'000'000'000), static_cast<long>(pause % 1'000'000'000)};
    while (!over_.load()) {
      const std::uint64_t before = process::nowNs();
      giveBack();
      latency_.add(process::nowNs() - before);
      nanosleep(&wait, nullptr);
    }
  });
}

Remover::~Remover() {
  stop();
}

std::uint64_t Remover::stop() {
  over_.store(true);
  if (thread_.joinable()) thread_.join();
  return latency_.count();
}

}  // namespace faultline::bench
