#include "tests/kvm/balloon.h"

#include <utility>

namespace faultline::kvm {

Balloon::Balloon(GuestMemory& memory, std::function<void(std::uint64_t)> beforePage)
    : memory_(memory), beforePage_(std::move(beforePage)), thread_([this] { run(); }) {}

Balloon::~Balloon() {
  {
    const threads::Lock lock(mutex_);
    ending_ = true;
  }
  changed_.notifyAll();
  thread_.join();
}

void Balloon::give(std::uint64_t guestAddress) {
  {
    const threads::Lock lock(mutex_);
    given_.push_back(guestAddress);
    givenCount_++;
  }
  changed_.notifyAll();
}

void Balloon::settle() {
  const threads::Lock lock(mutex_);
  const std::uint64_t all = givenCount_;
  while (taken_ < all) changed_.wait(mutex_);
}

void Balloon::run() {
  threads::Lock lock(mutex_);
  for (;;) {
    while (!ending_ && given_.empty()) changed_.wait(mutex_);
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
    changed_.notifyAll();
  }
}

}  // namespace faultline::kvm
