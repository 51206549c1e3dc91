// The device that takes memory back from the guest, as a balloon and free page reporting do: by
// MADV_DONTNEED, in a thread of its own, while vCPUs run.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/kvm/guest_memory.h"

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
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> given_;  // guarded by mutex_, as are the following
  std::uint64_t givenCount_ = 0, taken_ = 0;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace faultline::kvm
