#include "shard/later.h"

#include <chrono>
#include <system_error>
#include <utility>

#include "process/clock.h"

namespace faultline::shard {

bool Later::after(std::uint64_t ns, std::function<void()> work) {
  const threads::Lock lock(mutex_);
  if (stopped_) return false;
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error&) {
      return false;
    }
  }
  due_.emplace(process::nowNs() + ns, std::move(work));
  changed_.notifyOne();
  return true;
}

void Later::stop() {
  std::thread ending;
  {
    const threads::Lock lock(mutex_);
    stopped_ = true;
    due_.clear();
    changed_.notifyOne();
    ending.swap(thread_);
  }
  if (ending.joinable()) ending.join();
}

void Later::run() {
  threads::Lock lock(mutex_);
  while (!stopped_) {
    if (due_.empty()) {
      changed_.wait(mutex_);
      continue;
    }
    const std::uint64_t now = process::nowNs(), next = due_.begin()->first;
    if (next > now) {
      changed_.waitUntil(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(next - now));
      continue;
    }
    const std::function<void()> work = std::move(due_.begin()->second);
    due_.erase(due_.begin());
    lock.unlock();
    work();
    lock.lock();
  }
}

}  // namespace faultline::shard
