#include "tests/kvm/balloon.h"

#include <utility>

namespace faultline::kvm {

Balloon::Balloon(GuestMemory& memory, std::function<void(std::uint64_t)> beforePage)
    : memory_(memory), beforePage_(std::move(beforePage)), thread_([this] { run(); }) {}

Balloon::~Balloon() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Balloon::give(std::uint64_t guestAddress) {
  {
    std::lock_guard lock(mutex_);
    given_.push_back(guestAddress);
    givenCount_++;
  }
  changed_.notify_all();
}

void Balloon::settle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this, all = givenCount_] { return taken_ >= all; });
}

void Balloon::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !given_.empty(); });
    if (given_.empty()) return;
    const auto pages = std::exchange(given_, {});
    for (const std::uint64_t page : pages) {
      const std::uint64_t taken = taken_;
      lock.unlock();
      if (beforePage_) beforePage_(taken);
      memory_.discard(page);
      lock.lock();
      taken_++;
    }
    changed_.notify_all();
  }
}

}  // namespace faultline::kvm
