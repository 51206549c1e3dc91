// The device that takes memory back from the guest, as a balloon and free page reporting do: by
// MADV_DONTNEED, in a thread of its own, while vCPUs run.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "tests/kvm/guest_memory.h"
#include "threads/mutex.h"

namespace faultline::kvm {

class Balloon {
 public:
  // `beforePage`: called with how many pages have been taken before each; tests act there.
  Balloon(GuestMemory& memory, std::function<void(std::uint64_t taken)> beforePage = nullptr);
  // Takes what it was given first.
  ~Balloon();
  Balloon(const Balloon&) = delete;

  // Any thread. The page is taken some time after.
  void give(std::uint64_t guestAddress);
  // Waits until all that was given before has been taken.
  void settle();

 private:
  void run();

  GuestMemory& memory_;
  const std::function<void(std::uint64_t)> beforePage_;
  threads::Mutex mutex_;
  threads::Condition changed_;
  std::vector<std::uint64_t> given_ GUARDED_BY(mutex_);
  std::uint64_t givenCount_ GUARDED_BY(mutex_) = 0, taken_ GUARDED_BY(mutex_) = 0;
  bool ending_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace faultline::kvm
