// Answers faults that no shard is asked for, in a thread of its own: each of these answers waits for the target's
// mmap_lock, which a target can hold for seconds, and the loop serves others meanwhile.
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <memory>
#include <string>

namespace faultline::coordinator {

// Answers one fault with an error, or lets its thread look again where that is not possible just now. The thread
// goes on where the page is there and only its write protection holds the thread up. false: this kernel cannot.
// Waits for the target's mmap_lock.
bool answerWithError(int uffd, const uffd_msg& fault);

// A uffd has one. To be called by one thread; the answers are given by another, in the order of the calls.
class FaultAnswerer {
 public:
  // Faults that wait to be answered. Further ones are dropped, and every thread of the target is woken later: it
  // faults again.
  static constexpr std::size_t ROOM = 16384;

  // Borrows the fds until the first add(), which duplicates them. `target`: pidfd, or -1; a target that cannot be
  // told (kernels before 6.6 cannot poison) is killed instead.
  FaultAnswerer(int uffd, int target, std::string name);
  // Waits for nothing: what is left is dropped, and what is under way ends when the kernel lets it.
  ~FaultAnswerer();
  FaultAnswerer(const FaultAnswerer&) = delete;

  // Never waits. Where no thread, or no fd for it, can be had, the thread that faulted is woken: it faults again.
  void add(const uffd_msg& fault);

 private:
  struct Shared;
  void begin();
  static void run(const std::shared_ptr<Shared>& shared);

  const int uffd_, target_;
  const std::string name_;
  std::shared_ptr<Shared> shared_;  // with the thread; null: there is none yet
};

}  // namespace faultline::coordinator
